"""The command that makes a file again."""

from __future__ import annotations

import pathlib
import shlex

from dfmpc_onnx.api.command_again import command_again
from dfmpc_onnx.catalog import find_recipe
from dfmpc_onnx.pipeline.settings import LayerOverride

NAMES = ["a", "b", "c", "d"]


def overrides(*given: str) -> list[LayerOverride]:
    """What the command gives, made again with these overrides."""
    words = shlex.split(command_again(pathlib.Path("m.onnx"), find_recipe("mixed"), given, NAMES, {"activations": "4"}))
    assert words[words.index("--activations") + 1] == "4"
    return [LayerOverride.parse(words[n + 1]) for n, word in enumerate(words) if word == "--layer"]


def last(given: list[LayerOverride], name: str) -> tuple[object, int | None]:
    """The bits and the activations of a layer: of each the last override that states it counts."""
    matching = [one for one in reversed(given) if one.matches(name)]
    reads = next((one.reads for one in matching if one.reads is not None), None)
    return (matching[0].bits, reads) if matching else (None, None)


def test_bits_of_what_a_layer_reads_are_kept() -> None:
    found = overrides("a=8", "b=6", "a=4/8", "c=6/4", "c=8", "d=float")
    assert [last(found, name) for name in NAMES] == [(4, 8), (6, None), (8, 4), ("float", None)]


def test_one_pattern_for_all_says_it_of_all() -> None:
    found = overrides("*=4/8", "b=8")
    assert [last(found, name) for name in NAMES] == [(4, 8), (8, 8), (4, 8), (4, 8)]
