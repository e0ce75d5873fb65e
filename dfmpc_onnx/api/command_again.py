"""The command that makes a quantized file again as it was made, with other bits for some layers."""

from __future__ import annotations

import pathlib
import shlex
from collections.abc import Mapping, Sequence

from dfmpc_onnx import catalog
from dfmpc_onnx.api.made_again import OptionsAgain, as_arguments
from dfmpc_onnx.api.override_patterns import as_patterns
from dfmpc_onnx.api.time_limit import time_limit_of, with_time_limit
from dfmpc_onnx.pipeline.recipe import Recipe, to_record
from dfmpc_onnx.pipeline.settings import FLOAT, LayerOverride

OUTPUT = "better.onnx"


def command_again(
    path: pathlib.Path, recipe: Recipe, layers: Sequence[str], names: Sequence[str], options: OptionsAgain
) -> str:
    """`dfmpc-onnx quantize` with all that it takes; "" where no command makes the same, as of a recipe that is not by
    this version's name.

    path: of the float model. recipe: as the file records it. layers: every override, as ``GLOB=BITS``, of which the
    last that matches counts; names: of all layers. options: as the file was made.
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
    bits = _bits(layers, names)
    reading = {name: text for name, text in bits.items() if "/" in text}
    for part in ({name: text for name, text in bits.items() if name not in reading}, reading):
        # What a pattern says of activations holds also where a later one states weights alone.
        for override in as_patterns(part, [name for name in names if name not in part]):
            parts += ["--layer", override]
    return shlex.join(parts)


def _has_name(recipe: Recipe, limit: str | None) -> bool:
    """Whether the name of a recorded recipe stands for the same passes in this version."""
    named = catalog.recipes().get(recipe.name)
    if named is None:
        return False
    same = with_time_limit(named, limit)
    return [to_record(step) for step in same.steps] == [to_record(step) for step in recipe.steps]


def _bits(overrides: Sequence[str], names: Sequence[str]) -> Mapping[str, str]:
    """The bits of each layer that an override matches, and of what it reads where one states them, as a user writes
    both; of each the last counts that states it."""
    parsed = [LayerOverride.parse(text) for text in reversed(overrides)]
    found = {}
    for name in names:
        matching = [override for override in parsed if override.matches(name)]
        if matching:
            reads = next((f"/{override.reads}" for override in matching if override.reads is not None), "")
            found[name] = f"{matching[0].bits}" + (reads if matching[0].bits != FLOAT else "")
    return found
