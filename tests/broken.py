"""Quantized networks with one fault each, made by editing the file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import numpy_helper


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _decoder(model: onnx.ModelProto, layer: str) -> onnx.NodeProto:
    """The DequantizeLinear of a layer's weight, of plain int8 codes."""
    node = next(node for node in model.graph.node if node.name == layer)
    found = next(other for other in model.graph.node if node.input[1] in other.output)
    assert found.op_type == "DequantizeLinear"
    return found


def _change(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray], new: str) -> str:
    """A changed copy of an initializer, under a new name, which is returned."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values = change(numpy_helper.to_array(tensor).copy())
    model.graph.initializer.append(numpy_helper.from_array(values, new))
    return new


def with_scaled_channel(model: onnx.ModelProto, layer: str, channel: int, factor: float) -> onnx.ModelProto:
    """One output channel of a weight multiplied, in its scale."""
    copy = _copy(model)
    node = _decoder(copy, layer)

    def change(scale: np.ndarray) -> np.ndarray:
        scale[channel] *= factor
        return scale

    node.input[1] = _change(copy, node.input[1], change, "broken.scale")
    return copy


def with_negated_channel(model: onnx.ModelProto, layer: str, channel: int) -> onnx.ModelProto:
    """One output channel of a weight with the opposite sign, in its codes."""
    copy = _copy(model)
    node = _decoder(copy, layer)

    def change(codes: np.ndarray) -> np.ndarray:
        codes[channel] = np.clip(-codes[channel].astype(np.int32), -128, 127)
        return codes

    node.input[0] = _change(copy, node.input[0], change, "broken.codes")
    return copy


def with_swapped_channels(model: onnx.ModelProto, layer: str, first: int, second: int) -> onnx.ModelProto:
    """Two output channels of a weight in each other's place, their codes and their scales."""
    copy = _copy(model)
    node = _decoder(copy, layer)

    def change(values: np.ndarray) -> np.ndarray:
        values[[first, second]] = values[[second, first]]
        return values

    node.input[0] = _change(copy, node.input[0], change, "broken.codes")
    node.input[1] = _change(copy, node.input[1], change, "broken.scale")
    return copy


def with_wrong_range(model: onnx.ModelProto, tensor: str, factor: float) -> onnx.ModelProto:
    """The range of one activation multiplied, for its QuantizeLinear and DequantizeLinear alike."""
    copy = _copy(model)
    quantizer = next(n for n in copy.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == tensor)
    new = _change(
        copy, quantizer.input[1], lambda scale: (scale * np.float32(factor)).astype(np.float32), "broken.range"
    )
    for node in copy.graph.node:
        if node is quantizer or (node.op_type == "DequantizeLinear" and node.input[0] == quantizer.output[0]):
            node.input[1] = new
    return copy


def with_rounding(model: onnx.ModelProto, tensor: str, low: float, high: float) -> onnx.ModelProto:
    """All that reads a tensor reads it rounded to 256 codes between two numbers, as any tool would do it."""
    copy = _copy(model)
    step = (high - low) / 255
    numbers = [f"{tensor}.step", f"{tensor}.zero"]
    copy.graph.initializer.extend(
        [
            numpy_helper.from_array(np.float32(step), numbers[0]),
            numpy_helper.from_array(np.uint8(round(-low / step)), numbers[1]),
        ]
    )
    nodes = []
    for node in copy.graph.node:
        node.input[:] = [f"{tensor}.dq" if name == tensor else name for name in node.input]
        nodes.append(node)
        if tensor in node.output:
            nodes += [
                onnx.helper.make_node("QuantizeLinear", [tensor, *numbers], [f"{tensor}.q"], f"{tensor}.q"),
                onnx.helper.make_node("DequantizeLinear", [f"{tensor}.q", *numbers], [f"{tensor}.dq"], f"{tensor}.dq"),
            ]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(copies)
    return copy
