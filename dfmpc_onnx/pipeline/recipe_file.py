"""Recipes read from TOML: a list of passes, or another recipe with what is different.

In full, each pass is a table, whose keys other than `use` and `fallback` are its options:

    summary = "one line"
    weights = "2/6"
    activations = "8"            # 8 unless stated
    reduce_range = false

    [[passes]]
    use = "reconstruct_layers"
    statistics = "gaussian"
    fallback = [                 # what runs in its place where it cannot go on
        { use = "quantize_weights", ternary = "optimal" },
        { use = "recalibrate_batch_norm" },
    ]

On top of another, only what is different; what stands above the tables replaces the base's:

    extends = "mixed"            # a recipe that ships, or "FILE.toml", beside this one
    weights = "2/6"
    without = ["balance_channels"]

    [passes.assign_bits]         # these options change, the others stay
    edges = 0

    [[insert]]
    use = "absorb_bias"
    after = "pair_convolutions"  # or before = ...; inserted in the order written

A table [plan] gives every layer its width (`plan_file`).

`without` is applied last, so that a pass can be inserted beside one that is left out: this is how one is replaced.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import msgspec

from dfmpc_onnx.errors import OptionError, RecipeError, shown
from dfmpc_onnx.model.plain_files import why_unreadable
from dfmpc_onnx.pipeline.plan_file import PlanRecord, plan_step, read_plan
from dfmpc_onnx.pipeline.recipe import Recipe, Step
from dfmpc_onnx.pipeline.recipe_lines import Lines
from dfmpc_onnx.pipeline.validation_messages import explain, named_key

MOST_RECIPE_BYTES = 2**24  # of a recipe: those that ship have two thousand, a plan of 1500 layers a million
MOST_STEPS = 200  # passes of one recipe
MOST_BASES = 20  # recipes that extend each other in a row


@dataclasses.dataclass(frozen=True)
class RecipeText:
    """A recipe as written. origin: its file in messages. path: None for one that ships, whose name is its own."""

    text: str
    name: str
    origin: str
    path: pathlib.Path | None = None

    @classmethod
    def of(cls, path: pathlib.Path) -> RecipeText:
        """What a file holds; raises RecipeError."""
        where = shown(str(path))
        reason = why_unreadable(path, MOST_RECIPE_BYTES)
        if reason is not None:
            raise RecipeError(f"{where}: {reason}")
        try:
            return cls(path.read_text(encoding="utf-8"), path.stem, where, path.resolve())
        except OSError as error:
            raise RecipeError(f"{where}: cannot be read ({error.strerror})") from None
        except UnicodeDecodeError:
            raise RecipeError(f"{where}: not a text file in UTF-8") from None


def _no_base(name: str, beside: pathlib.Path | None) -> RecipeText:
    raise RecipeError(f"recipe '{shown(name)}': no recipe is known here to extend")


def _no_plan(recipe: Recipe, step_of: Callable[[str], Step], where: str) -> Recipe:
    raise RecipeError(f"{where}: no pass is known here to give layers the widths of a plan")


@dataclasses.dataclass(frozen=True)
class Library:
    """What a recipe may name. base: the recipe of a name, or of a file in the folder given; raises RecipeError.
    current: the present name of a pass. with_plan: a recipe with the widths of a plan in place of measuring."""

    base: Callable[[str, pathlib.Path | None], RecipeText] = _no_base
    current: Callable[[str], str] = lambda name: name
    with_plan: Callable[[Recipe, Callable[[str], Step], str], Recipe] = _no_plan


ALONE = Library()


def parse_recipe(text: str, name: str, origin: str, library: Library = ALONE) -> Recipe:
    """A recipe from TOML text; raises RecipeError with the line of the first mistake."""
    return resolve(RecipeText(text, name, origin), library)


def read_recipe(path: pathlib.Path, library: Library = ALONE) -> Recipe:
    """A recipe from a file; raises RecipeError."""
    return resolve(RecipeText.of(path), library)


def resolve(source: RecipeText, library: Library) -> Recipe:
    """The recipe that a text describes, with all that it extends worked in; raises RecipeError."""
    return _Reader(source, library, ()).recipe()


def plan_in(source: RecipeText, library: Library) -> tuple[PlanRecord, str]:
    """The plan that a recipe holds, and the name of the recipe that it extends; raises RecipeError."""
    resolve(source, library)  # a mistake elsewhere in it is found here
    tables = tomllib.loads(source.text)
    if "plan" not in tables:
        raise RecipeError(f"{source.origin}: holds no table [plan]; dfmpc-onnx plan writes one")
    return read_plan(tables["plan"], Lines(source.origin, source.text)), str(tables["extends"])


def extends_another(text: str) -> bool:
    """Whether a text that reads as a recipe says only what is different from another."""
    return "extends" in tomllib.loads(text)


def base_of(text: str) -> str:
    """What a text that reads as a recipe extends, a name or a file; empty where it is a recipe in full."""
    return str(tomllib.loads(text).get("extends", ""))


class _Shared(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    activations: str | int | None = None
    reduce_range: bool | None = None


class _Full(_Shared, frozen=True, forbid_unknown_fields=True, kw_only=True):
    summary: str
    weights: str
    passes: list[dict[str, object]]


class _Extension(_Shared, frozen=True, forbid_unknown_fields=True, kw_only=True):
    extends: str
    summary: str | None = None
    weights: str | None = None
    passes: dict[str, dict[str, object]] = {}
    without: list[str] = []
    insert: list[dict[str, object]] = []
    plan: dict[str, object] | None = None


class _Reader:
    """Reads one text. chain: the texts that extend it, the outermost first."""

    def __init__(self, source: RecipeText, library: Library, chain: tuple[RecipeText, ...]) -> None:
        self._source = source
        self._library = library
        self._chain = (*chain, source)
        self._lines = Lines(source.origin, source.text)
        self._notes: list[str] = []

    def recipe(self) -> Recipe:
        tables = self._tables()
        if "extends" in tables and isinstance(tables.get("passes"), list):
            raise RecipeError(
                f"{self._lines.key('passes')}: with extends, [passes.NAME] changes a pass and [[insert]] adds one; "
                "[[passes]] is for a recipe in full"
            )
        kind: type[_Extension | _Full] = _Extension if "extends" in tables else _Full
        try:
            document = msgspec.convert(tables, kind)
        except msgspec.ValidationError as error:
            key = named_key(error)
            raise RecipeError(explain(error, self._lines.key(key) if key else self._lines.at(1))) from None
        found = self._extend(document) if isinstance(document, _Extension) else self._full(document)
        for key, check in (("weights", lambda: found.weight_bits), ("activations", lambda: found.activation_bits)):
            try:
                check()
            except OptionError as error:
                raise RecipeError(f"{self._lines.key(key)}: {error}") from None
        return found

    def _tables(self) -> dict[str, object]:
        text = self._source.text
        unreadable = RecipeError(f"{self._source.origin}: a number or date in it cannot be read")
        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            said = re.fullmatch(r"(.*) \(at line (\d+), column \d+\)", str(error))
            what, line = (said[1], int(said[2])) if said else (str(error), len(text.splitlines()))
            raise RecipeError(f"{self._lines.at(line)}: not valid TOML: {what}") from None
        except RecursionError:
            raise RecipeError(f"{self._source.origin}: lists and tables are nested too deeply") from None
        except ValueError:  # Python's own, of an integer of more than 4,300 digits, or a day that no month has
            raise unreadable from None
        if not _numbers_fit(tables):  # as in hexadecimal, which has no such limit until it is printed
            raise unreadable
        return tables

    def _full(self, document: _Full) -> Recipe:
        self._check_count(document.passes)
        starts = self._lines.tables("passes")
        steps = [
            self._step(table, starts[index] if index < len(starts) else 1)
            for index, table in enumerate(document.passes)
        ]
        activations = "8" if document.activations is None else str(document.activations)
        reduced = bool(document.reduce_range)
        return Recipe(
            self._source.name,
            document.summary,
            document.weights,
            activations,
            tuple(steps),
            reduced,
            tuple(self._notes),
        )

    def _check_count(self, steps: Sequence[object]) -> None:
        if len(steps) > MOST_STEPS:
            raise RecipeError(f"{self._source.origin}: more than {MOST_STEPS} passes; no recipe needs as many")

    def _step(self, table: Mapping[str, object], line: int, ignored: Sequence[str] = ()) -> Step:
        """A pass of a table that stands at a line."""
        use = table.get("use")
        if not isinstance(use, str):
            raise RecipeError(f'{self._lines.at(line)}: a pass needs its name, as in use = "estimate_ranges"')
        options = {key: value for key, value in table.items() if key not in ("use", "fallback", *ignored)}
        where = self._lines.at(line)
        fallback = self._fallback(table, line)
        return Step(self._current(use, where), options, where, fallback, self._positions(options, line))

    def _positions(self, options: Mapping[str, object], line: int) -> dict[str, str]:
        return {key: self._lines.key(key, line) for key in options}

    def _fallback(self, table: Mapping[str, object], line: int) -> tuple[Step, ...]:
        found = table.get("fallback", [])
        start = self._lines.key("fallback", line)
        if not isinstance(found, list) or not all(isinstance(part, dict) for part in found):
            raise RecipeError(f'{start}: fallback is a list of passes, as in fallback = [{{ use = "NAME" }}]')
        steps, seen = [], Counter[str]()
        for part in found:
            name = str(part.get("use"))
            seen[name] += 1
            where = self._lines.use(name, int(start.rpartition(":")[2]), seen[name])
            steps.append(self._step(part, int(where.rpartition(":")[2])))
        return tuple(steps)

    def _current(self, name: str, where: str) -> str:
        """The present name of a pass; a note where it is another."""
        current = self._library.current(name)
        if current != name:
            self._notes.append(f"{where}: pass {name} is called {current} now")
        return current

    def _extend(self, document: _Extension) -> Recipe:
        base = self._base(document.extends)
        steps = list(base.steps)
        for name, options in document.passes.items():
            self._override(steps, name, options, base)
        self._insert(steps, document.insert, base)
        where = self._lines.key("without")
        for name in document.without:
            del steps[self._find(steps, name, where, f"without '{shown(name)}'", base)]
        changed = {
            key: str(value) if key == "activations" else value
            for key in ("summary", "weights", "activations", "reduce_range")
            if (value := getattr(document, key)) is not None
        }
        notes = (*base.notes, *self._notes)
        found = msgspec.structs.replace(base, name=self._source.name, steps=tuple(steps), notes=notes, **changed)
        return found if document.plan is None else self._planned(found, document.plan)

    def _planned(self, recipe: Recipe, tables: Mapping[str, object]) -> Recipe:
        """The recipe with the widths of a plan."""
        plan = read_plan(tables, self._lines)
        where = self._lines.key("plan")
        return self._library.with_plan(recipe, lambda use: plan_step(use, plan, self._lines), where)

    def _base(self, name: str) -> Recipe:
        where = self._lines.key("extends")
        path = self._source.path
        try:
            found = self._library.base(name, None if path is None else path.parent)
        except RecipeError as error:
            raise RecipeError(f"{where}: {error}") from None
        known = [(item.path, item.name) for item in self._chain]
        if (found.path, found.name) in known:
            circle = [item.origin for item in self._chain[known.index((found.path, found.name)) :]]
            raise RecipeError(f"{where}: extends goes round in a circle: {' -> '.join([*circle, found.origin])}")
        if len(known) > MOST_BASES:
            raise RecipeError(f"{where}: more than {MOST_BASES} recipes extend each other in a row; write one in full")
        return _Reader(found, self._library, self._chain).recipe()

    def _override(self, steps: list[Step], name: str, table: Mapping[str, object], base: Recipe) -> None:
        line = self._lines.table("passes", name)
        index = self._find(steps, name, self._lines.at(line), f"passes.{shown(name)}", base)
        if "use" in table:
            raise RecipeError(
                f"{self._lines.key('use', line)}: passes.{name} changes options alone; to put another pass in its "
                "place, insert that one and leave this one out"
            )
        step = steps[index]
        options = {key: value for key, value in table.items() if key != "fallback"}
        steps[index] = msgspec.structs.replace(
            step,
            options={**step.options, **options},
            fallback=self._fallback(table, line) if "fallback" in table else step.fallback,
            lines={**step.lines, **self._positions(options, line)},
        )

    def _insert(self, steps: list[Step], tables: Sequence[Mapping[str, object]], base: Recipe) -> None:
        self._check_count(tables)
        starts = self._lines.tables("insert")
        last: dict[str, Step] = {}  # what was put behind an anchor last; the next goes behind that
        for index, table in enumerate(tables):
            line = starts[index] if index < len(starts) else int(self._lines.key("insert").rpartition(":")[2])
            step = self._step(table, line, ("before", "after"))
            sides = [key for key in ("before", "after") if key in table]
            anchor = table[sides[0]] if len(sides) == 1 else None
            if not isinstance(anchor, str):
                raise RecipeError(
                    f'{step.position}: insert {step.use}: say before = "NAME" or after = "NAME" of a pass'
                )
            where = self._lines.key(sides[0], line)
            at = self._find(steps, anchor, where, f"{sides[0]} '{shown(anchor)}'", base)
            if sides[0] == "after":
                use = steps[at].use
                at = next((n for n, other in enumerate(steps) if other is last.get(use)), at) + 1
                last[use] = step
            steps.insert(at, step)

    def _find(self, steps: Sequence[Step], name: str, where: str, what: str, base: Recipe) -> int:
        """Where the one pass of a name stands."""
        current = self._current(name, where)
        found = [index for index, step in enumerate(steps) if step.use == current]
        if not found:
            names = ", ".join(step.use for step in steps)
            raise RecipeError(f"{where}: {what}: {base.name} has no such pass; it has {names}")
        if len(found) > 1:
            raise RecipeError(
                f"{where}: {what}: {base.name} runs it {len(found)} times; write the recipe in full to say which"
            )
        return found[0]


def _numbers_fit(tables: object) -> bool:
    """Whether all integers in a document have 64 bits, which TOML promises."""
    waiting = [tables]
    while waiting:
        item = waiting.pop()
        if isinstance(item, int) and not -(2**63) <= item < 2**63:
            return False
        waiting.extend(item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
    return True
