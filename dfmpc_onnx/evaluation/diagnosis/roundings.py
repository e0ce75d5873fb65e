"""The activations of a network that are rounded to codes: where, and to which range."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from dfmpc_onnx.evaluation.matched_tensors import decoders_of
from dfmpc_onnx.model.protos import RUNTIME_DOMAINS, initializers, op_of, readers, stored_value
from dfmpc_onnx.numerics.arrays import Array

CODE_RANGES: Mapping[str, tuple[int, int]] = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
    "uint4": (0, 15),
    "int4": (-8, 7),
}


@dataclasses.dataclass(frozen=True)
class Rounding:
    """A tensor that a QuantizeLinear rounds.

    node: the QuantizeLinear. ends: the tensors that DequantizeLinears give of its codes. low, high: the least and the
    largest number that the codes stand for; step: between two of them, the largest where channels have their own.
    codes: how many there are.
    """

    tensor: str
    node: str
    ends: tuple[str, ...]
    low: float
    high: float
    step: float
    codes: int


def roundings(model: onnx.ModelProto, tensors: Collection[str]) -> list[Rounding]:
    """Where these tensors are rounded, in the order of the model; what has computed scales is left out."""
    constants = _constants(model.graph)
    behind = readers(model.graph.node)
    found = []
    for node in model.graph.node:
        if op_of(node, RUNTIME_DOMAINS) != "QuantizeLinear" or node.input[0] not in tensors:
            continue
        scale, zero = _value(constants, node, 1), _value(constants, node, 2)
        decoders = decoders_of(behind.get(node.output[0], ()))
        ends = tuple(decoder.output[0] for decoder in decoders)
        kind = "uint8" if zero is None else str(zero.dtype)
        if scale is None or kind not in CODE_RANGES or not ends:
            continue
        low, high = CODE_RANGES[kind]
        step, offset = np.asarray(scale, np.float64), np.asarray(0 if zero is None else zero, np.float64)
        least, most = float(((low - offset) * step).min()), float(((high - offset) * step).max())
        found.append(Rounding(node.input[0], node.name, ends, least, most, float(step.max()), high - low + 1))
    return found


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The constants of a graph that may be scales or zero points, those of Constant nodes among them."""
    stored = {name: tensor for name, tensor in initializers(graph).items() if len(tensor.dims) <= 1}
    for node in graph.node:
        tensor = stored_value(node)
        if tensor is not None:
            stored[node.output[0]] = tensor
    return stored


def _value(constants: Mapping[str, onnx.TensorProto], node: onnx.NodeProto, index: int) -> Array | None:
    tensor = constants.get(node.input[index]) if index < len(node.input) else None
    return None if tensor is None else numpy_helper.to_array(tensor)
