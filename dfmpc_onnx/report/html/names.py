"""Short names for layers and tensors: without what all have in common in front, and the operator at their end."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from itertools import pairwise

from dfmpc_onnx.errors import shown
from dfmpc_onnx.model.protos import WEIGHTED_OPERATORS
from dfmpc_onnx.report.html.schema import ReportPage

OUTPUT_SUFFIX = "_output_0"  # of the tensors of PyTorch's exporter


class ShortNames:
    """Names from a model as tables show them. Two names never become one; what is not known stays as it is."""

    def __init__(self, names: Iterable[str]) -> None:
        unique = list(dict.fromkeys(names))
        split = [name.removesuffix(OUTPUT_SUFFIX).lstrip("/").split("/") for name in unique]
        common = _common(split)
        short = ["/".join(_without_repeats(_without_operator(parts[common:]))) for parts in split]
        taken = collections.Counter(short)
        self._short = {
            name: brief if brief and taken[brief] == 1 else name for name, brief in zip(unique, short, strict=True)
        }

    def __call__(self, name: str) -> str:
        return shown(self._short.get(name) or self._short.get(f"{name}{OUTPUT_SUFFIX}", name))


def names_of(page: ReportPage) -> ShortNames:
    """For all layers and places of a page."""
    return ShortNames([*(layer.name for layer in page.layers), *(place.name for place in page.places)])


def _common(split: list[list[str]]) -> int:
    """How many parts all begin with; at least one is left of each."""
    if not split:
        return 0
    most = min(len(parts) for parts in split) - 1
    return next((i for i in range(most) if len({parts[i] for parts in split}) > 1), max(most, 0))


def _without_operator(parts: list[str]) -> list[str]:
    return parts[:-1] if len(parts) > 1 and parts[-1] in WEIGHTED_OPERATORS else parts


def _without_repeats(parts: list[str]) -> list[str]:
    """Without the parts that the next one repeats, as in ``layer1/layer1.0``."""
    return [part for part, behind in pairwise(parts) if not behind.startswith(f"{part}.")] + parts[-1:]
