"""Which tensors of a network stand for its outputs where two networks are compared."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.operators import squashes
from dfmpc_onnx.graph.query import producer


def compared_tensor(output: gs.Tensor) -> gs.Tensor:
    """The tensor to compare for an output: itself, or the scores in front of a function that squeezes them."""
    node = producer(output)
    if node is None or not squashes(node) or isinstance(node.inputs[0], gs.Constant):
        return output
    source: gs.Tensor = node.inputs[0]
    return source
