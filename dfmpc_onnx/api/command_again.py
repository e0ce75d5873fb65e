"""The command that makes a quantized file again as it was made, with other bits for some layers."""

from __future__ import annotations

import pathlib
import shlex
from collections.abc import Mapping, Sequence

from dfmpc_onnx import catalog
from dfmpc_onnx.api.made_again import OptionsAgain, as_arguments
from dfmpc_onnx.api.time_limit import time_limit_of, with_time_limit
from dfmpc_onnx.pipeline.recipe import Recipe, to_record

OUTPUT = "better.onnx"


def command_again(path: pathlib.Path, recipe: Recipe, layers: Sequence[str], options: OptionsAgain) -> str:
    """`dfmpc-onnx quantize` with all that it takes; "" where no command makes the same, as of a recipe that is not by
    this version's name.

    path: of the float model. recipe: as the file records it. layers: every override, as ``GLOB=BITS``; the last of a
    name counts. options: as the file was made.
    """
    limit = time_limit_of(recipe)
    if not _has_name(recipe, limit):
        return ""
    parts = ["dfmpc-onnx", "quantize", str(path), "-o", OUTPUT, "--recipe", recipe.name, "--weights", recipe.weights]
    if recipe.reduce_range and not catalog.find_recipe(recipe.name).reduce_range:
        parts.append("--reduce-range")
    if limit is not None:
        parts += ["--max-latency", limit]
    parts += as_arguments({"activations": recipe.activations, **options})
    for name, bits in _last_of_each(layers).items():
        parts += ["--layer", f"{name}={bits}"]
    return shlex.join(parts)


def _has_name(recipe: Recipe, limit: str | None) -> bool:
    """Whether the name of a recorded recipe stands for the same passes in this version."""
    named = catalog.recipes().get(recipe.name)
    if named is None:
        return False
    same = with_time_limit(named, limit)
    return [to_record(step) for step in same.steps] == [to_record(step) for step in recipe.steps]


def _last_of_each(layers: Sequence[str]) -> Mapping[str, str]:
    """The bits of each pattern, in the order in which the last of each stands."""
    found: dict[str, str] = {}
    for text in layers:
        name, _, bits = text.rpartition("=")
        found.pop(name, None)
        found[name] = bits
    return found
