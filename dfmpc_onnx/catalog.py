"""Which passes and recipes exist: ours by import, strangers' passes by the entry point ``dfmpc_onnx.passes``.

An entry point names a Pass class::

    [project.entry-points."dfmpc_onnx.passes"]
    round_scales = "my_package.round_scales:RoundScales"
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.resources
import pathlib
import re

import msgspec

from dfmpc_onnx.errors import RecipeError, shown
from dfmpc_onnx.pipeline.manager import Pass
from dfmpc_onnx.pipeline.recipe import Recipe, explain, option_position, parse_recipe, read_recipe
from dfmpc_passes import PASSES

ENTRY_POINT = "dfmpc_onnx.passes"
PassType = type[Pass[msgspec.Struct]]


@functools.cache
def passes() -> dict[str, PassType]:
    """Every pass by name; raises RecipeError where a stranger's pass cannot be loaded or takes a name of ours."""
    found: dict[str, PassType] = {kind.name: kind for kind in PASSES}
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT):
        origin = f"entry point {entry.name} of {entry.dist.name if entry.dist else 'an unknown distribution'}"
        try:
            kind = entry.load()
        except Exception as error:
            raise RecipeError(f"{origin}: cannot be imported ({type(error).__name__}: {error})") from None
        if not (isinstance(kind, type) and issubclass(kind, Pass)):
            raise RecipeError(f"{origin}: '{entry.value}' is no subclass of dfmpc_onnx.Pass")
        if kind.name in found:
            raise RecipeError(f"{origin}: a pass named {kind.name} exists already; give it another name")
        found[kind.name] = kind
    return found


def find_pass(name: str) -> PassType:
    """A pass by name; raises RecipeError that lists those there are."""
    known = passes()
    if name not in known:
        raise RecipeError(f"pass '{shown(name)}': no such pass; there are {', '.join(sorted(known))}")
    return known[name]


@functools.cache
def _texts() -> dict[str, str]:
    folder = importlib.resources.files("dfmpc_passes") / "recipes"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    return {f.name.removesuffix(".toml"): f.read_text(encoding="utf-8") for f in files}


def recipes() -> dict[str, Recipe]:
    """The recipes that ship, by name."""
    return {name: parse_recipe(text, name, f"{name}.toml") for name, text in _texts().items()}


def recipe_text(name: str) -> str:
    """The TOML of a recipe that ships; raises RecipeError."""
    if name not in _texts():
        raise RecipeError(
            f"recipe '{shown(name)}': no such recipe; there are {', '.join(_texts())}, or give a .toml file"
        )
    return _texts()[name]


def find_recipe(name: str) -> tuple[Recipe, str]:
    """A recipe by name, or from a file whose name ends in .toml, with its text; raises RecipeError."""
    if name.endswith(".toml"):
        path = pathlib.Path(name)
        if not path.is_file():
            raise RecipeError(f"recipe '{shown(name)}': no such file")
        return read_recipe(path), path.read_text(encoding="utf-8")
    text = recipe_text(name)
    return parse_recipe(text, name, f"{name}.toml"), text


def build(recipe: Recipe, text: str | None = None) -> list[Pass[msgspec.Struct]]:
    """The passes of a recipe with their options; raises RecipeError with the position of the mistake."""
    built = []
    for step in recipe.steps:
        try:
            kind = find_pass(step.use)
        except RecipeError as error:
            raise RecipeError(f"{step.position}: {error}") from None
        try:
            built.append(kind(msgspec.convert(step.options, kind.Options)))
        except msgspec.ValidationError as error:
            named = re.search(r"unknown field `(\w+)`", str(error)) or re.search(r"at `\$\.(\w+)", str(error))
            where = option_position(text, step, named[1]) if named else step.position
            raise RecipeError(explain(error, f"{where}: pass {step.use}")) from None
    return built
