"""A Relu or Clip in the memory of what it reads, where nobody else reads that: faster than a run, the same numbers."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.graph.operators import clip_bounds, is_clip, is_standard

Bounds = tuple[float, float]


class OwnTensors:
    """Names of tensors whose arrays a walk has made itself: no input of the network, nothing that a visitor holds."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def add(self, name: str) -> None:
        """Note that a tensor's arrays are made by the walk, one after the other."""
        self._names.add(name)

    def bounds(self, node: gs.Node, readers: int) -> Bounds | None:
        """What a node clips its input to, in place; None where it does something else, or another reads the input too.

        readers: of the node's first input, that have not run yet.
        """
        if readers != 1 or node.inputs[0].name not in self._names or not (is_standard(node) and is_clip(node)):
            return None
        try:
            return clip_bounds(node)
        except Unknown:
            return None


def clip_in_place(values: npt.NDArray[np.generic], bounds: Bounds) -> npt.NDArray[np.generic]:
    """The values, float32, within bounds, in their own memory."""
    low, high = (np.float32(bound) for bound in bounds)
    given = np.asarray(values, np.float32)
    if math.isinf(high):
        return np.maximum(given, low, out=given)
    return np.clip(given, low, high, out=given)
