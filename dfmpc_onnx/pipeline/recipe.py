"""Recipes: which passes run, in which order, with which options; read from TOML into frozen data.

summary = "one line"
weights = "2/6"
activations = "none"

[[passes]]
use = "compensate"
lambda1 = 0.5
"""

from __future__ import annotations

import pathlib
import re
import tomllib

import msgspec

from dfmpc_onnx.errors import OptionError, RecipeError, shown
from dfmpc_onnx.pipeline.settings import WeightBits, parse_activations
from dfmpc_onnx.pipeline.targets import Activations

DEFAULT_RECIPE = "mixed"


class Step(msgspec.Struct, frozen=True):
    """One pass of a recipe: its name in the catalogue, and the options that the recipe sets.

    position: ``file:line`` of its table, for messages.
    """

    use: str
    options: dict[str, object]
    position: str


class Recipe(msgspec.Struct, frozen=True):
    """A named pipeline with the weights and activations that it uses unless the user says otherwise."""

    name: str
    summary: str
    weights: str
    activations: str
    steps: tuple[Step, ...]
    reduce_range: bool = False

    @property
    def weight_bits(self) -> WeightBits:
        return WeightBits.parse(self.weights)

    @property
    def activation_bits(self) -> Activations:
        return parse_activations(self.activations)


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    summary: str
    weights: str
    passes: list[dict[str, object]]
    activations: str | int = "8"
    reduce_range: bool = False


def parse_recipe(text: str, name: str, origin: str) -> Recipe:
    """A recipe from TOML text; raises RecipeError with the line of the first mistake."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said = re.fullmatch(r"(.*) \(at line (\d+), column \d+\)", str(error))
        what, line = (said[1], int(said[2])) if said else (str(error), len(text.splitlines()))
        raise RecipeError(f"{origin}:{line}: not valid TOML: {what}") from None
    try:
        document = msgspec.convert(tables, _Document)
    except msgspec.ValidationError as error:
        raise RecipeError(explain(error, f"{origin}:{_line_of(text, error)}")) from None
    lines = _table_lines(text)
    steps = []
    for index, table in enumerate(document.passes):
        line = lines[index] if index < len(lines) else 1
        use = table.get("use")
        if not isinstance(use, str):
            raise RecipeError(f'{origin}:{line}: a pass needs its name, as in use = "normalize"')
        options = {key: value for key, value in table.items() if key != "use"}
        steps.append(Step(use, options, f"{origin}:{line}"))
    recipe = Recipe(
        name, document.summary, document.weights, str(document.activations), tuple(steps), document.reduce_range
    )
    for key, check in (("weights", lambda: recipe.weight_bits), ("activations", lambda: recipe.activation_bits)):
        try:
            check()
        except OptionError as error:
            raise RecipeError(f"{origin}:{_key_line(text, key)}: {error}") from None
    return recipe


def read_recipe(path: pathlib.Path) -> Recipe:
    """A recipe from a file; raises RecipeError."""
    where = shown(str(path))
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{where}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{where}: not a text file in UTF-8") from None
    return parse_recipe(text, path.stem, where)


def explain(error: msgspec.ValidationError, where: str) -> str:
    """msgspec's message in one line, with the place in front and the path in the document put in words."""
    message = str(error).replace("Object contains unknown field", "unknown key")
    message = message.replace("Object missing required field", "missing key").replace("`", "'")
    head, _, path = message.partition(" - at ")
    keys = re.findall(r"\.(\w+)", path)
    at = f" at '{keys[-1]}'" if keys and "key" not in head else ""
    return f"{where}: {head[:1].lower()}{head[1:]}{at}"


def _line_of(text: str, error: msgspec.ValidationError) -> int:
    """The line of the key that a validation error speaks of; 1 where none is named."""
    message = str(error)
    named = re.search(r"unknown field `(\w+)`", message) or re.search(r"at `\$\.(\w+)", message)
    return _key_line(text, named[1]) if named else 1


def _key_line(text: str, key: str, start: int = 1) -> int:
    for number, line in enumerate(text.splitlines(), 1):
        if number >= start and re.match(rf"\s*(\[\[?\s*)?[\"']?{re.escape(key)}[\"']?\s*[\]=.]", line):
            return number
    return start


def _table_lines(text: str) -> list[int]:
    return [n for n, line in enumerate(text.splitlines(), 1) if re.match(r"\s*\[\[\s*passes\s*\]\]", line)]


def option_position(recipe_text: str | None, step: Step, key: str) -> str:
    """``file:line`` of a key within a step's table; the table's own line where the text is not at hand."""
    origin, _, line = step.position.rpartition(":")
    return f"{origin}:{_key_line(recipe_text, key, int(line))}" if recipe_text else step.position
