"""Which passes and recipes exist: ours by import, those of other packages by the entry point ``dfmpc_onnx.passes``.

An entry point names a Pass class::

    [project.entry-points."dfmpc_onnx.passes"]
    round_scales = "my_package.round_scales:RoundScales"
"""

from __future__ import annotations

import copy
import functools
import importlib.metadata
import importlib.resources
import os
import pathlib
from collections.abc import Callable
from typing import Literal, get_args, get_origin

import msgspec

from dfmpc_onnx.errors import RecipeError, did_you_mean, printable, shown
from dfmpc_onnx.model.plain_files import why_unreadable
from dfmpc_onnx.pipeline.facts import BitPlan, Sensitivity
from dfmpc_onnx.pipeline.manager import Pass, PassManager
from dfmpc_onnx.pipeline.recipe import DEFAULT_RECIPE, Recipe, Step, as_toml
from dfmpc_onnx.pipeline.recipe_file import Library, RecipeText, extends_another, resolve
from dfmpc_onnx.pipeline.validation_messages import explain, named_key
from dfmpc_onnx.pipeline.weight_plan import PlannedWidths, StatedWidths
from dfmpc_passes import FORMER_NAMES, PASSES

ENTRY_POINT = "dfmpc_onnx.passes"
PassType = type[Pass[msgspec.Struct]]


@functools.cache
def passes() -> dict[str, PassType]:
    """Every pass by name; raises RecipeError where another package's pass cannot be loaded or takes a name of ours."""
    found: dict[str, PassType] = {kind.name: kind for kind in PASSES}
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT):
        origin = f"entry point {entry.name} of {entry.dist.name if entry.dist else 'an unknown distribution'}"
        try:
            kind = entry.load()
        except Exception as error:
            raise RecipeError(f"{origin}: cannot be imported ({type(error).__name__}: {error})") from None
        if not (isinstance(kind, type) and issubclass(kind, Pass)):
            raise RecipeError(f"{origin}: '{entry.value}' is no subclass of dfmpc_onnx.Pass")
        if kind.name in found or kind.name in FORMER_NAMES:
            raise RecipeError(f"{origin}: a pass named {kind.name} exists already; give it another name")
        found[kind.name] = kind
    return found


def find_pass(name: str) -> PassType:
    """A pass by its present or a former name; raises RecipeError that lists those there are."""
    known = passes()
    name = name.lower() if current_name(name.lower()) in known else name
    if current_name(name) not in known:
        near = did_you_mean(name, known)
        there = "`dfmpc-onnx passes` lists them" if near else f"give one of {', '.join(sorted(known))}"
        raise RecipeError(f"pass '{shown(name)}': no such pass{near}; {there}")
    return known[current_name(name)]


def current_name(name: str) -> str:
    """The present name of a pass that had another in an earlier version; any other name as it is."""
    return FORMER_NAMES.get(name, name)


@functools.cache
def _texts() -> dict[str, str]:
    folder = importlib.resources.files("dfmpc_passes") / "recipes"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    return {f.name.removesuffix(".toml"): f.read_text(encoding="utf-8") for f in files}


def recipes() -> dict[str, Recipe]:
    """The recipes that ship, by name."""
    return {name: find_recipe(name) for name in _texts()}


def recipe_text(name: str, beside: pathlib.Path | None = None) -> RecipeText:
    """A recipe that ships, or a file whose name ends in .toml, as written; raises RecipeError.

    beside: the folder that a relative path starts from; None for the current one.
    """
    if name.endswith(".toml"):
        path = pathlib.Path(name) if beside is None else beside / name
        reason = why_unreadable(path)
        if reason is not None:
            raise RecipeError(f"recipe '{shown(name)}': {reason}")
        return RecipeText.of(path)
    if name not in _texts():
        raise RecipeError(
            f"recipe '{shown(name)}': no such recipe{did_you_mean(name, _texts())}; "
            f"give one of {', '.join(_texts())}, or a .toml file"
        )
    return RecipeText(_texts()[name], name, f"{name}.toml")


def with_plan(recipe: Recipe, step_of: Callable[[str], Step], where: str) -> Recipe:
    """A recipe with the widths of a plan in place of the passes that measure and plan; raises RecipeError.

    step_of: the step of the plan under the name of the pass for it. where: the plan stands.
    """
    known = passes()
    steps = [step for step in recipe.steps if not _gives(step.use, Sensitivity, PlannedWidths)]
    first = next((index for index, step in enumerate(steps) if _gives(step.use, BitPlan)), None)
    if first is None:
        raise RecipeError(f"{where}: {recipe.name} gives layers no widths that a plan could state")
    use = next(name for name, kind in known.items() if StatedWidths in kind.provides)
    steps.insert(first + 1, step_of(use))
    return msgspec.structs.replace(recipe, steps=tuple(steps))


def _gives(name: str, *facts: type[object]) -> bool:
    kind = passes().get(name)
    return kind is not None and not set(facts).isdisjoint(kind.provides)


LIBRARY = Library(recipe_text, current_name, with_plan)


def find_recipe(name: str | os.PathLike[str] | Recipe) -> Recipe:
    """A recipe by name in any case, or from a file whose name ends in .toml; raises RecipeError."""
    if isinstance(name, Recipe):
        return name
    name = os.fspath(name)
    name = name.lower() if name.lower() in _texts() else name
    return copy.deepcopy(_shipped(name)) if name in _texts() else resolve(recipe_text(name), LIBRARY)


@functools.cache
def _shipped(name: str) -> Recipe:
    """One that ships, which does not change, read once: `inspect` asks for all of them, `verify` for several."""
    return resolve(recipe_text(name), LIBRARY)


def recipe_page(name: str) -> str:
    """A recipe to copy and change: its text; of one that extends another also what it is in full, which loads alone.

    Raises RecipeError where its passes, options or their order cannot work.
    """
    source = recipe_text(name)
    recipe = resolve(source, LIBRARY)
    PassManager(build(recipe), known=passes()).check()
    text = "".join(f"{printable(line)}\n" for line in source.text.splitlines())
    if not extends_another(source.text):
        return text
    own = "".join(f"#{'    ' if line else ''}{line}\n" for line in text.splitlines())
    return f"# {printable(source.origin)} says what is different:\n#\n{own}#\n# In full:\n\n{as_toml(recipe)}"


def build(recipe: Recipe) -> list[Pass[msgspec.Struct]]:
    """The passes of a recipe with their options; raises RecipeError with the position of the mistake."""
    return [_build_step(step) for step in recipe.steps]


def _build_step(step: Step) -> Pass[msgspec.Struct]:
    try:
        kind = find_pass(step.use)
    except RecipeError as error:
        raise RecipeError(f"{step.position}: {error}") from None
    try:
        options = msgspec.convert(step.options, kind.Options)
    except msgspec.ValidationError as error:
        key = named_key(error)
        where = step.position_of(key) if key else step.position
        message = explain(error, f"{where}: pass {step.use}")
        raise RecipeError(f"{message}; {_choices(kind.Options, key)}") from None
    if step.fallback and not kind.may_stop:
        raise RecipeError(
            f"{step.position}: pass {step.use} never stops half way, so it takes no fallback; leave it out"
        )
    made = kind(options)
    made.fallback = tuple(_build_step(part) for part in step.fallback)
    return made


def _choices(options: type[msgspec.Struct], key: str | None) -> str:
    """What a recipe may set: the values of an option that has a list of them, else the options that there are."""
    for field in msgspec.structs.fields(options):
        if field.name == key and (values := choices_of(field.type)):
            return f"give one of {', '.join(values)}"
    listed = ", ".join(field.name for field in msgspec.structs.fields(options))
    return f"it has {listed}" if listed else "it has no options"


def choices_of(kind: object) -> tuple[str, ...]:
    """The words that an option of a ``Literal`` type may have; none for other types."""
    return tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ()


def passes_up_to(*facts: type[object]) -> list[Pass[msgspec.Struct]]:
    """The first passes of the default recipe, up to where these facts are known."""
    built: list[Pass[msgspec.Struct]] = []
    known: set[type[object]] = set()
    for step in build(find_recipe(DEFAULT_RECIPE)):
        built.append(step)
        known.update(step.provides)
        if known.issuperset(facts):
            break
    return built
