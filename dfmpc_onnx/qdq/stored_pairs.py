"""How far neighbouring codes of a file reach together, layer by layer: whether old processors cut their products."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto

from dfmpc_onnx.model.protos import initializers, makers, op_of
from dfmpc_onnx.numerics.granularity import PerAxis
from dfmpc_onnx.numerics.saturation import Neighbours, neighbours, neighbours_of_conv, worst_pairs
from dfmpc_onnx.qdq.activation_grids import rounds_to_4_bits
from dfmpc_onnx.qdq.decode_chains import DecodeChain, DecodeChains


def stored_pairs(model: onnx.ModelProto) -> dict[str, int]:
    """Of each layer between uint8 activations the largest of its `pair_sums`, by the name of its node.

    Layers of the main graph whose codes this package has written, or that are plain int8; not depthwise Convs, whose
    kernels add in 32 bits. A layer whose codes are damaged is left out. Between activations of 4 bits nothing is
    added in integers, so there is none.
    """
    if rounds_to_4_bits(model):
        return {}
    chains, made, held = DecodeChains(model.graph), makers(model.graph.node), initializers(model.graph)
    found = {}
    for node in model.graph.node:
        chain = chains.of_layer(node)
        if chain is None or not chain.integer or not _reads_uint8(node, made, held):
            continue
        axis, beside = _layout(node, chain)
        if beside is None:
            continue
        try:
            steps = chain.codes() - chain.zero()
        except (ValueError, IndexError):
            continue
        found[node.name] = int(worst_pairs(np.asarray(PerAxis(axis).rows(steps), np.int16), beside).max(initial=0))
    return found


def _reads_uint8(node: onnx.NodeProto, made: dict[str, onnx.NodeProto], held: dict[str, onnx.TensorProto]) -> bool:
    by = made.get(node.input[0])
    if by is None or op_of(by) != "DequantizeLinear":
        return False
    zero = held.get(by.input[2]) if len(by.input) > 2 else None
    return zero is None or zero.data_type == TensorProto.UINT8


def _layout(node: onnx.NodeProto, chain: DecodeChain) -> tuple[int, Neighbours | None]:
    """The axis of a weight's outputs, and its neighbours; None where no kernel adds two products in 16 bits."""
    shape, op = chain.shape, op_of(node)
    attributes = {a.name: a.i for a in node.attribute}
    if op == "Conv" and len(shape) > 2:
        return 0, neighbours_of_conv(shape, attributes.get("group", 1))
    if op in ("Gemm", "MatMul") and len(shape) == 2:
        axis = 0 if attributes.get("transB", 0) else 1
        return axis, neighbours(math.prod(shape) // max(shape[axis], 1), 1)
    return 0, None
