"""How many bits the weights of a file take there, read off its graph: no number of a weight is looked at."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import onnx
from onnx import TensorProto, numpy_helper

from dfmpc_onnx.model.protos import RUNTIME_DOMAINS, initializers, makers, op_of, stored_value
from dfmpc_onnx.qdq.decode_chains import DecodeChains
from dfmpc_onnx.qdq.qonnx_nodes import QONNX_DOMAIN, code_bits

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
STEPS = ("Cast", "DequantizeLinear", "Identity", "Reshape", "Transpose")
CODED_WIDTHS = (1.6, 2, 2.67, 3, 4, 5, 6, 7, 8)  # that a layer of ours may be given
DEEPEST = 100  # steps from a layer to what is stored, halved at each product so that they stay few in any graph


@dataclasses.dataclass(frozen=True)
class StoredLayer:
    """A layer whose weight is in the file: its shape, bits that each weight takes, whether those are codes.

    total: bits of all its weights.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    bits: float
    coded: bool
    total: int


def nearest_width(bits: float) -> float:
    """The width that a layer of ours was given whose weights take so many bits each in the file."""
    return min(CODED_WIDTHS, key=lambda width: abs(width - bits))


def mean_bits(layers: Iterable[tuple[float, int]]) -> float:
    """What a weight takes in the file on average: of each layer the bits of all its weights, and how many it has.

    A weight that several layers read is stored once and counts for each of them, in both.
    """
    pairs = list(layers)
    weights = sum(count for _, count in pairs)
    return round(sum(bits for bits, _ in pairs) / weights, 3) if weights else 0.0


@dataclasses.dataclass(frozen=True)
class _Stored:
    shape: tuple[int, ...]
    bits: int
    coded: bool


def stored_layers(model: onnx.ModelProto) -> tuple[StoredLayer, ...]:
    """The layers of the main graph with a weight that initializers hold, plain or packed, in graph order."""
    trace = _Trace(model.graph)
    layers = []
    for node in model.graph.node:
        place = WEIGHT_INPUT.get(op_of(node, RUNTIME_DOMAINS))
        if place is None or len(node.input) <= place:
            continue
        stored = trace.back(node.input[place], DEEPEST)
        if stored is not None and len(stored.shape) > 1 and (count := math.prod(stored.shape)) > 0:
            bits = round(stored.bits / count, 1)
            layers.append(
                StoredLayer(
                    node.name or "".join(node.output[:1]), node.op_type, stored.shape, bits, stored.coded, stored.bits
                )
            )
    return tuple(layers)


class _Trace:
    """Follows weights back to what a graph stores: our own chains as `DecodeChains` reads them, others step by step."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._chains, self._makers = DecodeChains(graph), makers(graph.node)
        self._constants = initializers(graph)
        for node in graph.node:
            if (value := stored_value(node)) is not None:
                self._constants[node.output[0]] = value

    def back(self, name: str, left: int) -> _Stored | None:
        """What initializers a weight is decoded from; None where it is computed from something else."""
        tensor = self._constants.get(name)
        if tensor is not None:
            width, shape = WIDTHS.get(tensor.data_type), tuple(tensor.dims)
            return None if width is None else _Stored(shape, width * math.prod(shape), tensor.data_type not in FLOATS)
        node, chain = self._makers.get(name), self._chains.read(name)
        if node is not None and node.domain == QONNX_DOMAIN:
            return self._rounded(node)
        if chain is not None:
            return _Stored(chain.shape, chain.stored_bits, coded=True)
        if node is None or left == 0:
            return None
        op = op_of(node, RUNTIME_DOMAINS)
        if op == "Mul":  # numbers by a scale, in either order; where one is computed so is the weight
            parts = [part for name in node.input if (part := self.back(name, left // 2)) is not None]
            whole = parts if len(parts) == len(node.input) else []
            return max(whole, key=lambda part: math.prod(part.shape), default=None)
        if op not in STEPS or not node.input:
            return None
        stored = self.back(node.input[0], left - 1)
        return self._reshape(stored, node) if stored is not None and op == "Reshape" else stored

    def _rounded(self, node: onnx.NodeProto) -> _Stored | None:
        """What a Quant or BipolarQuant makes of a constant, as codes of its bits; the file holds floats."""
        tensor = self._constants.get(node.input[0]) if node.input else None
        bits = code_bits(node, self._constants)
        if tensor is None or bits is None:
            return None
        shape = tuple(tensor.dims)
        return _Stored(shape, bits * math.prod(shape), coded=True)

    def _reshape(self, stored: _Stored, node: onnx.NodeProto) -> _Stored:
        """The same in the shape that a Reshape gives it, where that is constant and whole."""
        wanted = self._constants.get(node.input[1]) if len(node.input) > 1 else None
        if wanted is None or wanted.data_location == TensorProto.EXTERNAL or math.prod(wanted.dims) > 8:
            return stored
        try:
            shape = tuple(int(size) for size in numpy_helper.to_array(wanted).reshape(-1))
        except ValueError:  # a damaged constant
            return stored
        return dataclasses.replace(stored, shape=shape) if min(shape, default=0) > 0 else stored
