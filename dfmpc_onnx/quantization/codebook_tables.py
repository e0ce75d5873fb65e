"""The codebooks of a network: a table for each length of blocks, learnt from its own weights when it is needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.query import constant, nodes_by_name
from dfmpc_onnx.numerics.arrays import Array, Float32
from dfmpc_onnx.numerics.codebook import LearntTable, learn
from dfmpc_onnx.pipeline.facts import Layer
from dfmpc_onnx.pipeline.settings import BitWidth

# By width the codes of a block.
LENGTHS: Mapping[BitWidth | Literal["float"], int] = {1.6: 5, 2: 4, 2.67: 3, 4: 2}
ROWS = 256  # output channels of a layer that a table is learnt from


def takes_codebooks(layer: Layer) -> bool:
    """Whether a layer's codes may be blocks of a table: its output channels are the weight's first axis, and each has
    more than a handful of weights, as those of a depthwise Conv have not."""
    return layer.refused is None and layer.axis == 0 and layer.op != "ConvTranspose" and not layer.depthwise


def run_of(layer: Layer) -> int:
    """How many codes each output channel of a layer that takes codebooks has; 0 of another."""
    return layer.size // max(layer.shape[0], 1) if takes_codebooks(layer) else 0


class NetworkTables:
    """Tables by length. They are learnt from the weights that the layers have when this is made."""

    def __init__(self, graph: gs.Graph, layers: Iterable[Layer]) -> None:
        nodes = nodes_by_name(graph)
        found = [constant(nodes[layer.name].inputs[1]) for layer in layers if takes_codebooks(layer)]
        self._weights = [weight for weight in found if weight is not None]
        self._tables: dict[int, LearntTable] = {}

    def of(self, length: int) -> LearntTable:
        """The table of vectors of so many codes."""
        if length not in self._tables:
            self._tables[length] = learn(map(_rows, self._weights), length)
        return self._tables[length]


def _rows(weight: Array) -> Float32:
    """Some output channels of a weight, evenly spaced: ``[at most ROWS, k]`` float32."""
    step = -(-len(weight) // ROWS)
    return np.asarray(weight[::step], np.float32).reshape(-(-len(weight) // step), -1)
