"""The command that makes a quantized file again as it was made, with other bits for some layers."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from dfmpc_onnx import catalog
from dfmpc_onnx.api.pairs import ComparedFiles
from dfmpc_onnx.pipeline.recipe import Recipe, to_record

OUTPUT = "better.onnx"


def command_again(
    files: ComparedFiles, recipe: Recipe, layers: Sequence[str], preprocess: str, images: str | None
) -> str:
    """`dfmpc-onnx quantize` with all that it takes; "" where no command makes the same, as of a recipe that is not by
    this version's name, or of a model in memory.

    recipe: as the file records it. layers: every override, as ``GLOB=BITS``; the last of a name counts.
    """
    metadata = files.metadata
    if files.float_source.path is None or not _has_name(recipe):
        return ""
    parts = ["dfmpc-onnx", "quantize", str(files.float_source.path), "-o", OUTPUT, "--recipe", recipe.name]
    parts += ["--weights", recipe.weights, "--activations", recipe.activations]
    if (target := metadata.get("target", "cpu")) != "cpu":
        parts += ["--target", target]
    if recipe.reduce_range and not catalog.find_recipe(recipe.name).reduce_range:
        parts.append("--reduce-range")
    if preprocess:
        parts += ["--preprocess", preprocess]
    for name, shape in files.settings.input_shapes.items():
        sizes = "x".join(map(str, shape))
        parts += ["--input-shape", f"{name}:{sizes}" if name else sizes]
    for name, (low, high) in files.settings.input_ranges.items():
        parts += ["--input-range", f"{name}={low!r}:{high!r}"]
    if images is not None:
        parts += ["--images", images]
    if (seed := metadata.get("seed", "0")) != "0":
        parts += ["--seed", seed]
    for name, bits in _last_of_each(layers).items():
        parts += ["--layer", f"{name}={bits}"]
    return shlex.join(parts)


def _has_name(recipe: Recipe) -> bool:
    """Whether the name of a recorded recipe stands for the same passes in this version."""
    named = catalog.recipes().get(recipe.name)
    return named is not None and [to_record(step) for step in named.steps] == [to_record(step) for step in recipe.steps]


def _last_of_each(layers: Sequence[str]) -> Mapping[str, str]:
    """The bits of each pattern, in the order in which the last of each stands."""
    found: dict[str, str] = {}
    for text in layers:
        name, _, bits = text.rpartition("=")
        found.pop(name, None)
        found[name] = bits
    return found
