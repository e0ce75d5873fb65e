"""Options of `quantize` as a manifest, a sweep or a script gives them: their names, and texts as values."""

from __future__ import annotations

import inspect
import pathlib
from collections.abc import Mapping
from typing import Any

import dfmpc_onnx
from dfmpc_onnx.errors import OptionError, did_you_mean

OF_THE_BATCH = frozenset({"model", "output", "instruments", "progress", "dump", "force", "threads"})
SHORT_NAMES = {"layer": "layers", "input_shape": "input_shapes", "input_range": "input_ranges"}
REPORT = "report"  # of quantize a path; here whether there is one, since the batch names the file
YES, NO = ("yes", "true", "1"), ("no", "false", "0")
SEPARATOR = ";"  # of the items of one option in one text


# How the parameters of `quantize` are annotated, the first that fits: what a text has to be.
KIND_OF_ANNOTATION = (
    ("bool", "yes or no"),
    ("int", "a whole number"),
    ("float", "a number"),
    ("GivenImages", "a path"),
    ("Given", "items"),
)


def option_names() -> tuple[str, ...]:
    """The options that a job may have: those of `quantize` but for what the batch itself gives."""
    return tuple(name for name in inspect.signature(dfmpc_onnx.quantize).parameters if name not in OF_THE_BATCH)


def option_name(word: str) -> str:
    """The name that `quantize` has for an option as it is written, ``max-size`` or ``layer``; raises OptionError."""
    name = word.strip().lower().lstrip("-").replace("-", "_")
    name = SHORT_NAMES.get(name, name)
    names = option_names()
    if name not in names:
        if name in OF_THE_BATCH:
            raise OptionError(f"'{word}': is the same for all jobs, or given by the batch itself; leave it out")
        raise OptionError(f"'{word}': is no option of quantize{did_you_mean(name, names)}")
    return name


def option_value(name: str, text: str) -> Any:
    """A text as the value of an option; raises OptionError where it is none."""
    text, kind = text.strip(), _kind(name)
    if kind == "items":
        return [item.strip() for item in text.split(SEPARATOR) if item.strip()]
    try:
        if kind == "yes or no":
            return {**dict.fromkeys(YES, True), **dict.fromkeys(NO, False)}[text.lower()]
        return int(text) if kind == "a whole number" else float(text) if kind == "a number" else text
    except (ValueError, KeyError):
        raise OptionError(f"{name.replace('_', '-')} '{text}': not understood; give {kind}") from None


def _kind(name: str) -> str:
    """What the value of an option is; a text where its annotation names no other kind."""
    if name == REPORT:
        return "yes or no"
    annotation = str(inspect.signature(dfmpc_onnx.quantize).parameters[name].annotation)
    return next((kind for start, kind in KIND_OF_ANNOTATION if annotation.startswith(start)), "a text")


def plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON has them, without those that are None.

    Raises OptionError for what a process cannot be given. A recipe is a name or a path, images a path: both are read
    where the job runs.
    """
    found = {}
    for word, value in options.items():
        name = option_name(word)
        if isinstance(value, pathlib.PurePath):
            value = str(value)
        if isinstance(value, tuple):
            value = list(value)
        if not isinstance(value, (str, int, float, list, dict)):
            if value is None:
                continue
            raise OptionError(f"{name}: of type {type(value).__name__}; give a text, a number or a path")
        if value != [] and value != {}:
            found[name] = value
    return found


def with_places(options: Mapping[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    """Options with the paths in them, of images and recipe files, as seen from a folder, made whole."""
    found = dict(options)
    if "images" in found:
        found["images"] = str((folder / str(found["images"])).absolute())
    recipe = str(found.get("recipe", ""))
    if recipe.endswith(".toml"):
        found["recipe"] = str((folder / recipe).absolute())
    return found
