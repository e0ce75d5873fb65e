"""Factors and shifts that a Conv or a BatchNormalization takes into its own parameters, on either side of it."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.edit import Namer
from dfmpc_onnx.graph.operators import batch_norm_parameters, op_of
from dfmpc_onnx.graph.query import constant, has_input, input_constant
from dfmpc_onnx.numerics.arrays import Float

SMALLEST, LARGEST = 1e-6, 1e6  # factors beyond leave float32 too little room


def channel_values(tensor: gs.Tensor, channels: int | None, rank: int | None) -> Float | None:
    """A float32 constant as one number, or one a channel of a map, ``[1]`` or ``[channels]``; None where it is neither.

    rank: of the map that it is added to or multiplied by; a constant of more dimensions would change its shape.
    """
    values = constant(tensor)
    if values is None or values.dtype != np.float32 or values.ndim > (1 if rank is None else rank):
        return None
    flat = np.asarray(values, np.float64).reshape(-1)
    by_channel = rank is not None and flat.size == channels and values.ndim >= rank - 1
    by_channel = by_channel and rank is not None and values.shape[1 - rank] == channels
    return flat if np.isfinite(flat).all() and (flat.size == 1 or by_channel) else None


def takes_affine(node: gs.Node | None) -> bool:
    """Whether a node's output channels can be scaled and shifted: a Conv, Gemm or BatchNormalization
    of known parameters."""
    if node is None:
        return False
    if op_of(node) == "BatchNormalization":
        return batch_norm_parameters(node) is not None and all(
            np.asarray(node.inputs[index].values).dtype == np.float32 for index in (1, 2)
        )
    if op_of(node) == "Gemm":
        weight, bias = input_constant(node, 1), input_constant(node, 2)
        plain = all(float(node.attrs.get(key, 1.0)) == 1.0 for key in ("alpha", "beta"))
        fits = not has_input(node, 2) or (
            bias is not None and weight is not None and bias.size == output_channels(node)
        )
        return plain and fits and weight is not None and weight.dtype == np.float32 and _has_plain_bias(node)
    return op_of(node) == "Conv" and _is_map_weight(input_constant(node, 1)) and _has_plain_bias(node)


def output_channels(node: gs.Node) -> int:
    """How many channels a node that `takes_affine` puts out."""
    return int(node.inputs[1].values.shape[_output_axis(node)])


def _output_axis(node: gs.Node) -> int:
    return 1 if op_of(node) == "Gemm" and not node.attrs.get("transB", 0) else 0


def apply_behind(node: gs.Node, factor: Float, shift: Float, names: Namer) -> None:
    """Make a node that `takes_affine` give ``factor y + shift`` for y, ``[1]`` or ``[channels]`` each."""
    channels = output_channels(node)
    factor, shift = np.broadcast_to(factor, channels), np.broadcast_to(shift, channels)
    weight = np.asarray(node.inputs[1].values, np.float64)
    bias = np.asarray(node.inputs[2].values, np.float64).reshape(-1) if has_input(node, 2) else np.zeros(channels)
    scaled = weight * factor.reshape(tuple(-1 if i == _output_axis(node) else 1 for i in range(weight.ndim)))
    parameters = [(1, scaled)]
    if has_input(node, 2) or shift.any():
        parameters.append((2, bias * factor + shift))
    _set(node, parameters, names)


def takes_column_factor(node: gs.Node) -> bool:
    """Whether the columns of a Gemm that reads vectors can be scaled in its weight."""
    weight = input_constant(node, 1)
    plain = op_of(node) == "Gemm" and not node.attrs.get("transA", 0)
    return plain and weight is not None and weight.ndim == 2 and weight.dtype == np.float32


def columns_of(node: gs.Node) -> int:
    """How many numbers a Gemm that `takes_column_factor` reads of each image."""
    return int(node.inputs[1].values.shape[1 if node.attrs.get("transB", 0) else 0])


def apply_to_columns(node: gs.Node, factor: Float, names: Namer) -> None:
    """Make a Gemm that `takes_column_factor` give for x what it gave for ``factor x``, ``[columns]``."""
    weight = np.asarray(node.inputs[1].values, np.float64)
    _set(node, [(1, weight * (factor if node.attrs.get("transB", 0) else factor[:, None]))], names)


def takes_input_factor(node: gs.Node) -> bool:
    """Whether a Conv's input channels can be scaled in its weight."""
    return op_of(node) == "Conv" and _is_map_weight(input_constant(node, 1)) and _has_plain_bias(node)


def takes_input_shift(node: gs.Node) -> bool:
    """Whether a constant a channel in front of a Conv is one in its bias: nothing is padded."""
    automatic = node.attrs.get("auto_pad", "NOTSET")
    unpadded = automatic == "VALID" or (automatic == "NOTSET" and not any(node.attrs.get("pads", ())))
    return takes_input_factor(node) and unpadded


def apply_in_front(node: gs.Node, factor: Float, shift: Float, names: Namer) -> None:
    """Make a Conv give for x what it gave for ``factor x + shift``, ``[1]`` or ``[channels]`` each.

    A shift other than 0 is exact where the Conv `takes_input_shift`.
    """
    weight = np.asarray(node.inputs[1].values, np.float64)
    groups = int(node.attrs.get("group", 1))
    outputs, inputs = weight.shape[:2]
    parts = weight.reshape(groups, outputs // groups, inputs, -1)
    factors = np.broadcast_to(factor, groups * inputs).reshape(groups, 1, inputs, 1)
    parameters = [(1, (parts * factors).reshape(weight.shape))]
    if shift.any():
        added = np.einsum("goit,gi->go", parts, np.broadcast_to(shift, groups * inputs).reshape(groups, inputs))
        bias = np.asarray(node.inputs[2].values, np.float64) if has_input(node, 2) else np.zeros(outputs)
        parameters.append((2, bias + added.reshape(-1)))
    _set(node, parameters, names)


def is_moderate(factor: Float) -> bool:
    """Whether factors are far enough from 0 and infinity to be taken into a weight."""
    size = np.abs(factor)
    return bool((size > SMALLEST).all() and (size < LARGEST).all())


def _is_map_weight(values: np.ndarray | None) -> bool:
    return values is not None and values.dtype == np.float32 and values.ndim > 2


def _has_plain_bias(node: gs.Node) -> bool:
    bias = input_constant(node, 2)
    return not has_input(node, 2) or (bias is not None and bias.dtype == np.float32)


def _set(node: gs.Node, parameters: list[tuple[int, Float]], names: Namer) -> None:
    for index, values in parameters:
        stem = node.inputs[index].name if has_input(node, index) else f"{node.name}.bias"
        fresh = gs.Constant(names(stem), values.astype(np.float32))
        node.inputs = [*node.inputs[:index], fresh, *node.inputs[index + 1 :]]
