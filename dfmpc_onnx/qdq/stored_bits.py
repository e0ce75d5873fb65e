"""How many bits the weights of a file take there, read off its graph: no number of a weight is looked at."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import onnx
from onnx import TensorProto, numpy_helper

# Layers, and the input that is their weight: as QDQ files hold them, and as those whose operators take codes.
WEIGHT_INPUT = {
    "Conv": 1,
    "ConvTranspose": 1,
    "Gemm": 1,
    "MatMul": 1,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
    "ConvInteger": 1,
    "MatMulInteger": 1,
    "QGemm": 3,
}
WIDTHS: dict[int, int] = {
    TensorProto.DOUBLE: 64,
    TensorProto.FLOAT: 32,
    TensorProto.INT32: 32,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
    TensorProto.INT8: 8,
    TensorProto.UINT8: 8,
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E4M3FNUZ: 8,
    TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8,
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.INT2: 2,
    TensorProto.UINT2: 2,
}
FLOATS: tuple[int, ...] = (TensorProto.DOUBLE, TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
# What a weight passes through on its way to the layer, by its first input.
STEPS = ("Cast", "DequantizeLinear", "Identity", "Reshape", "Slice", "Sub", "Transpose")
DEEPEST = 100  # steps from a layer to its codes, halved at each Add so that they stay few in any graph


@dataclasses.dataclass(frozen=True)
class StoredLayer:
    """A layer whose weight is in the file: its shape, bits that each weight takes, whether those are codes."""

    name: str
    op: str
    shape: tuple[int, ...]
    bits: float
    coded: bool


@dataclasses.dataclass(frozen=True)
class _Stored:
    shape: tuple[int, ...]
    bits: int
    coded: bool


def stored_layers(model: onnx.ModelProto) -> tuple[StoredLayer, ...]:
    """The layers of the main graph with a weight that initializers hold, plain or packed, in graph order."""
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            values = [item.t for item in node.attribute if item.name == "value"]
            constants.update(zip(node.output, values, strict=False))
    layers = []
    for node in model.graph.node:
        place = WEIGHT_INPUT.get(node.op_type)
        if place is None or len(node.input) <= place:
            continue
        stored = _trace(node.input[place], makers, constants, DEEPEST)
        if stored is not None and len(stored.shape) > 1 and (count := math.prod(stored.shape)) > 0:
            bits = round(stored.bits / count, 1)
            layers.append(
                StoredLayer(node.name or "".join(node.output[:1]), node.op_type, stored.shape, bits, stored.coded)
            )
    return tuple(layers)


def _trace(
    name: str, makers: Mapping[str, onnx.NodeProto], constants: Mapping[str, onnx.TensorProto], left: int
) -> _Stored | None:
    """What initializers a weight is decoded from; None where it is computed from something else."""
    tensor = constants.get(name)
    if tensor is not None:
        width = WIDTHS.get(tensor.data_type)
        shape = tuple(tensor.dims)
        return None if width is None else _Stored(shape, width * math.prod(shape), tensor.data_type not in FLOATS)
    node = makers.get(name)
    if node is None or left == 0:
        return None
    if node.op_type == "Gather" and len(node.input) > 1:  # in a table of what each byte holds
        return _trace(node.input[1], makers, constants, left - 1)
    if node.op_type == "Add":  # planes; or a plane twice, which is stored once
        parts = [_trace(part, makers, constants, left // 2) for part in dict.fromkeys(node.input)]
        found = [part for part in parts if part is not None]
        if not found or len(found) < len(parts):
            return None
        return _Stored(found[0].shape, sum(part.bits for part in found), all(part.coded for part in found))
    if node.op_type == "Mul":  # codes by a scale, in either order
        parts = [_trace(part, makers, constants, left // 2) for part in node.input]
        return max((part for part in parts if part is not None), key=lambda part: math.prod(part.shape), default=None)
    if node.op_type not in STEPS or not node.input:
        return None
    stored = _trace(node.input[0], makers, constants, left - 1)
    if stored is None or node.op_type != "Reshape" or len(node.input) < 2 or node.input[1] not in constants:
        return stored
    wanted = constants[node.input[1]]
    if wanted.data_location == TensorProto.EXTERNAL or math.prod(wanted.dims) > 8:
        return stored
    try:
        shape = tuple(int(size) for size in numpy_helper.to_array(wanted).reshape(-1))
    except ValueError:  # a damaged constant
        return None
    return dataclasses.replace(stored, shape=shape) if min(shape, default=0) > 0 else stored
