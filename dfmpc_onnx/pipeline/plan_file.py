"""Plans of widths as TOML: a recipe that fixes the width of every layer, and the table that it was chosen from.

    extends = "mixed"

    [plan]
    model = "net.onnx"
    sha256 = "..."               # the plan is for this model alone; without the line, for any that it fits

    [[plan.layers]]
    layer = "/features/0/Conv"   # a name, or a pattern such as "/features/*"; the last that matches counts
    bits = 4                     # 2 to 8, 1.6, 2.67, "ternary" or "float"
    why = "adds 0.03 % to the output's error"

Recipes with such a table neither measure nor plan: `Library.with_plan` puts a pass that gives these widths in place of
the passes that do. What stands in [[plan.table]] is read by `dfmpc-onnx plan --from` alone.
"""

from __future__ import annotations

import hashlib
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dfmpc_onnx.errors import RecipeError, shown
from dfmpc_onnx.model.write import FileKind
from dfmpc_onnx.pipeline.measured_noise import MeasuredNoise
from dfmpc_onnx.pipeline.recipe import Step, toml_value
from dfmpc_onnx.pipeline.recipe_lines import Lines
from dfmpc_onnx.pipeline.settings import FLOAT, TERNARY, WEIGHT_WIDTHS
from dfmpc_onnx.pipeline.validation_messages import explain, named_key
from dfmpc_onnx.pipeline.weight_plan import PlanRow, PlanTable, WeightPlan, Width

SEAL = "# not changed since it was written: "  # the last line of a plan, with a digest of the lines above it
DIGITS_KEPT = 6  # of losses and damages
MOST_FIGURE = 10**15  # in a plan; bytes of all rows together too, so that the planner's 64 bits hold them
MOST_WEIGHTS = 10**12  # of all rows together, for the same reason


class PlannedLayer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An entry of ``[[plan.layers]]``. damage: what the width does to the output, as predicted."""

    layer: str
    bits: int | float | str
    why: str = ""
    damage: float | None = None


class TableEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An entry of ``[[plan.table]]``: a `PlanRow`, its lists by the widths of the table."""

    layers: list[str]
    shape: list[int]
    channels: int
    loss: list[float]
    damage: list[float]
    bytes: list[int]
    runs: list[int] = []


class FrontEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A point of ``[[plan.front]]``. agreement: percent on the images that were given, with its 95 % interval."""

    bytes: int
    mean_bits: float
    sqnr_db: float
    agreement: float | None = None
    interval: list[float] | None = None


class PlanRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The table ``[plan]``. Of what stands here only `sha256` and `layers` count where the plan is a recipe."""

    model: str = ""
    sha256: str = ""
    target: str = ""
    activations: str = ""
    asked: str = ""
    bytes: int | None = None
    mean_bits: float | None = None
    sqnr_db: float | None = None
    estimator: str = ""
    inputs: str = ""
    seed: int = 0
    float_bytes: int = 0
    other_bytes: int = 0
    other_weights: int = 0
    other_bits: float = 0.0
    floor: float = 0.0
    noise_per_damage: float = 1.0
    activation_noise: float = 0.0
    opset: int = 0
    integer: bool = True
    widths: list[int | float | str] = []
    layers: list[PlannedLayer]
    table: list[TableEntry] = []
    front: list[FrontEntry] = []

    def plan_table(self, where: str) -> PlanTable:
        """The table that another budget is met from; raises RecipeError, named by `where`, where there is none."""
        if not self.table:
            raise RecipeError(f"{where}: holds no [[plan.table]], so no other budget can be met from it; plan anew")
        return PlanTable(
            plan_rows(self.table, self.widths),
            self.other_bytes,
            self.other_weights,
            self.other_bits,
            self.floor,
            self.opset,
            self.integer,
            self.float_bytes,
            self.estimator,
            self.inputs,
            MeasuredNoise(self.noise_per_damage, self.activation_noise),
        )


def may_be_replaced(path: pathlib.Path) -> bool:
    """Whether a file is empty, or a plan as it was written: nothing that somebody keeps, and no work of anybody's."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):  # ValueError: no text
        return False
    content, _, seal = text.rpartition(SEAL)
    return not text or (bool(content) and seal.strip() == _digest(content))


PLAN_FILE = FileKind("plan file as `plan` wrote it", may_be_replaced)


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def read_plan(found: Mapping[str, Any], lines: Lines) -> PlanRecord:
    """The table ``[plan]`` of a document; raises RecipeError with the line of the first mistake."""
    start = int(lines.key("plan").rpartition(":")[2])
    entries = {key: found[key] for key in ("layers", "table", "front") if isinstance(found.get(key), list)}
    at = {key: _entry_lines(lines, key, len(listed)) for key, listed in entries.items()}
    for key, kind in (("layers", PlannedLayer), ("table", TableEntry), ("front", FrontEntry)):
        for entry, line in zip(entries.get(key, []), at.get(key, []), strict=True):
            _converted(entry, kind, lines, line)
    record: PlanRecord = _converted(found, PlanRecord, lines, start)
    for layer, line in zip(record.layers, at["layers"], strict=True):
        if not _is_width(layer.bits):
            where = lines.key("bits", line)
            raise RecipeError(
                f'{where}: bits are 2 to 8, 1.6, 2.67, "ternary" or "float", not {toml_value(layer.bits)}'
            )
    _check_once([(layer.layer, line) for layer, line in zip(record.layers, at["layers"], strict=True)], lines)
    if record.table and not (record.widths and all(map(_is_width, record.widths))):
        raise RecipeError(
            f'{lines.key("widths", start)}: widths in [plan] are 2 to 8, 1.6, 2.67, "ternary" or "float", one at least'
        )
    rows = list(zip(record.table, at.get("table", []), strict=True))
    for row, line in rows:
        _check_row(row, len(record.widths), lines, line)
    weights, taken = sum(math.prod(row.shape) for row, _ in rows), sum(max(row.bytes) for row, _ in rows)
    if weights > MOST_WEIGHTS or taken > MOST_FIGURE:
        raise RecipeError(f"{lines.key('table', start)}: all rows together are more than any file holds")
    _check_once([(name, line) for row, line in rows for name in row.layers], lines)
    return record


def _check_row(row: TableEntry, widths: int, lines: Lines, line: int) -> None:
    """Raise RecipeError where a row of the table cannot be one."""
    if {len(row.loss), len(row.damage), len(row.bytes)} != {widths}:
        raise RecipeError(f"{lines.at(line)}: loss, damage and bytes need a figure for each of {widths} widths")
    if not row.layers:
        raise RecipeError(f"{lines.key('layers', line)}: a row needs layers")
    if min(row.shape, default=1) < 1 or math.prod(row.shape) > MOST_WEIGHTS:
        raise RecipeError(f"{lines.key('shape', line)}: no weight has the shape {shown(str(row.shape))}")
    if not 1 <= row.channels <= math.prod(row.shape):
        where = lines.key("channels", line)
        raise RecipeError(f"{where}: channels are 1 or more, and no more than weights, not {row.channels}")
    if row.runs and len(row.runs) != widths:
        raise RecipeError(f"{lines.key('runs', line)}: runs need a figure for each of {widths} widths")
    if any(run < 0 or (run and math.prod(row.shape) % run) for run in row.runs):
        raise RecipeError(f"{lines.key('runs', line)}: no number of output channels has so many weights each")


def _check_once(names: Sequence[tuple[str, int]], lines: Lines) -> None:
    """Raise RecipeError where a name stands twice. names: each with the line of its entry."""
    first: dict[str, int] = {}
    for name, line in names:
        if name in first:
            raise RecipeError(f"{lines.at(line)}: layer '{shown(name)}' stands in line {first[name]} already")
        first[name] = line


def _check_figures(found: Mapping[str, object], lines: Lines, line: int) -> None:
    """Raise RecipeError where a number of a table is none that can be reckoned with."""
    for key, value in found.items():
        for number in value if isinstance(value, list) else [value]:
            if not isinstance(number, int | float) or key == "seed":
                continue
            least = -MOST_FIGURE if key == "sqnr_db" else 0
            if not least <= number <= MOST_FIGURE:  # nor is NaN
                raise RecipeError(f"{lines.key(key, line)}: {key} is from {least:g} to {MOST_FIGURE:g}, not {number:g}")


def _converted(found: object, kind: type[Any], lines: Lines, line: int) -> Any:
    try:
        record = msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        key = named_key(error)
        raise RecipeError(explain(error, lines.key(key, line) if key else lines.at(line))) from None
    if isinstance(found, Mapping):
        _check_figures(found, lines, line)
    return record


def _entry_lines(lines: Lines, key: str, count: int) -> list[int]:
    """The line of each entry of a list of tables; of the list where it is written within brackets."""
    found = lines.tables(f"plan.{key}")[:count]
    return found + [int(lines.key(key).rpartition(":")[2])] * (count - len(found))


def _is_width(bits: float | str) -> bool:
    return bits in (TERNARY, FLOAT) or (not isinstance(bits, str) and f"{bits:g}" in WEIGHT_WIDTHS)


def plan_rows(table: Sequence[TableEntry], widths: Sequence[int | float | str]) -> tuple[PlanRow, ...]:
    """The rows of a plan's table, as they are planned from."""
    return tuple(
        PlanRow(
            tuple(entry.layers),
            tuple(entry.shape),
            entry.channels,
            tuple(map(_width, widths)),
            tuple(entry.loss),
            tuple(entry.damage),
            tuple(entry.bytes),
            tuple(entry.runs),
        )
        for entry in table
    )


def _width(bits: float | str) -> Width:
    return bits  # type: ignore[return-value]  # read_plan has checked it


def _checked_damages(plan: PlanRecord) -> list[PlannedLayer]:
    """The entries, with the damage that the plan's table has for a width that a person has changed."""
    found = {name: row for row in plan.table for name in row.layers}
    entries = []
    for entry in plan.layers:
        row = found.get(entry.layer)
        known = row.damage[plan.widths.index(entry.bits)] if row is not None and entry.bits in plan.widths else None
        if known is not None and entry.damage is not None and known != entry.damage:
            why = f"set by hand, adds {100 * known:.2g} % to the output's error"
            entry = PlannedLayer(entry.layer, entry.bits, why, known)
        entries.append(entry)
    return entries


def plan_step(use: str, plan: PlanRecord, lines: Lines) -> Step:
    """The step that gives layers the widths of a plan; of its options a file's metadata states the widths alone, since
    every word makes it larger. use: the name of the pass."""
    options: dict[str, object] = {
        "layers": [{"layer": entry.layer, "bits": entry.bits} for entry in plan.layers],
        "whys": {entry.layer: entry.why for entry in _checked_damages(plan) if entry.why},
        "shapes": {name: row.shape for row in plan.table for name in row.layers},
        "lines": _entry_lines(lines, "layers", len(plan.layers)),
        "file": lines.origin.rpartition("/")[2],
        "path": lines.origin,
        "widths": plan.widths,
        "table": [msgspec.to_builtins(row) for row in plan.table],
    }
    if plan.sha256:
        options |= {"model": plan.model, "sha256": plan.sha256}
    return Step(use, options, lines.key("plan"), unrecorded=tuple(options)[1:])


def record_of(
    table: PlanTable, plan: WeightPlan, whys: Mapping[str, str], front: Sequence[FrontEntry] = (), **stated: Any
) -> PlanRecord:
    """A plan as its file states it. whys: by layer, what decided its width. stated: the other keys of ``[plan]``."""
    widths = table.rows[0].widths if table.rows else ()
    return PlanRecord(
        bytes=plan.size,
        mean_bits=round(plan.mean_bits, 3),
        sqnr_db=round(min(plan.sqnr_db, 200.0), 2),
        estimator=table.estimator,
        inputs=table.inputs,
        float_bytes=table.float_bytes,
        other_bytes=table.other_bytes,
        other_weights=table.other_weights,
        other_bits=table.other_bits,
        floor=_rounded(table.floor),
        noise_per_damage=_rounded(table.noise.per_damage),
        activation_noise=_rounded(table.noise.activations),
        opset=table.opset,
        integer=table.integer,
        widths=list(widths),
        layers=[
            PlannedLayer(name, width, whys.get(name, ""), _rounded(row.damages[row.widths.index(width)]))
            for row, width in zip(table.rows, plan.widths, strict=True)
            for name in row.layers
        ],
        table=[
            TableEntry(
                list(row.layers),
                list(row.shape),
                row.channels,
                [_rounded(x) for x in row.losses],
                [_rounded(x) for x in row.damages],
                list(row.sizes),
                list(row.runs),
            )
            for row in table.rows
        ],
        front=list(front),
        **stated,
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS_KEPT}g}")


def plan_as_toml(record: PlanRecord, extends: str) -> str:
    """The file of a plan: a recipe that extends another."""
    found = msgspec.to_builtins(record)
    lists = {key: found.pop(key, []) for key in ("layers", "front", "table")}
    lines = [f"extends = {toml_value(extends)}", "", "[plan]"]
    lines += [f"{key} = {toml_value(value)}" for key, value in found.items()]
    for key, entries in lists.items():
        for entry in entries:
            lines += ["", f"[[plan.{key}]]"]
            lines += [f"{name} = {toml_value(value)}" for name, value in entry.items() if value is not None]
    content = "\n".join([*lines, "", ""])
    return f"{content}{SEAL}{_digest(content)}\n"


def shown_layers(names: Sequence[str]) -> str:
    """Names for a message, the first three of them."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"'{shown(name)}'" for name in names[:3]) + more
