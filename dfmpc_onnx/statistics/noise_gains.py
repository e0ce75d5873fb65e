"""How much noise in an activation adds to a network's outputs, derived backward from weights and BatchNormalizations.

Noise is white and independent between channels and pixels, and small, so that an activation passes it on where it is
not flat. An average over a map is taken to average none of it away: behind several layers neighbours err alike. What is
summed is the variance of the noise, in shares of the outputs' own variance.

Errors of a weight are no white noise: they are made of what the layer reads, and grow in part as that does. A trained
Conv amplifies what it reads by more than white inputs of the same variance, as neighbours are alike, and the
BatchNormalization behind it has measured by how much. `likeness` is the power of that factor which errors share: 0 for
white noise, 1 for errors that are amplified as the signal is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.graph.operators import batch_norm_parameters, clip_bounds, is_clip, is_known, op_of
from dfmpc_onnx.graph.query import input_constant
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.moments import ChannelMoments, normal_cdf

MomentsByTensor = Mapping[str, ChannelMoments]


def noise_gains(graph: gs.Graph, known: MomentsByTensor, likeness: float = 0.0) -> dict[str, Float]:
    """By tensor, for each channel (or one for all): the noise that noise of variance 1 in all its values adds.

    likeness: of the noise to the signal, 0 to 1.
    """
    gains: dict[str, Float] = {}
    for tensor in graph.outputs:
        moments = known.get(tensor.name)
        variance = 1.0 if moments is None else float(moments.variance.mean())
        gains[tensor.name] = np.array([1.0 / variance if variance > 0 else 1.0])
    for node in reversed(graph.nodes):
        found = [gains[t.name] for t in node.outputs if t.name in gains]
        if not found:
            continue
        if likeness and (grown := signal_growth(node, known)) is not None:
            found = [_wide(found[0], len(grown)) * grown**likeness]
        for index, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Variable) and not tensor.is_empty():
                more = backward(node, index, found[0], known)
                old = gains.get(tensor.name, np.zeros(1))
                fits = len({len(old), len(more)} - {1}) < 2
                gains[tensor.name] = old + more if fits else np.array([old.mean() + more.mean()])
    return gains


def signal_growth(node: gs.Node, known: MomentsByTensor) -> Float | None:
    """Of each output channel of a Conv in front of a BatchNormalization: the variance that it was measured to have,
    over that which white inputs of the known variances would give it. None elsewhere; 1 for what does not vary."""
    if op_of(node) != "Conv" or (weight := input_constant(node, 1)) is None:
        return None
    readers = [reader for reader in node.outputs[0].outputs if op_of(reader) == "BatchNormalization"]
    norms = [norm for reader in readers if (norm := batch_norm_parameters(reader)) is not None]
    moments = known.get(node.inputs[0].name)
    if moments is None or not norms or len(norms[0].gamma) != len(weight):
        return None
    inputs, groups = np.asarray(moments.variance, np.float64), int(node.attrs.get("group", 1))
    squares = np.square(weight.astype(np.float64)).reshape(groups, -1, weight.shape[1], math.prod(weight.shape[2:]))
    per_group = _wide(inputs, groups * weight.shape[1]).reshape(groups, -1)
    white = np.einsum("goi,gi->go", squares.sum(axis=3), per_group).reshape(-1)
    measured, varies = norms[0].variance, white > 0
    return np.where(varies, measured / np.where(varies, white, 1.0), 1.0)


def backward(node: gs.Node, index: int, gain: Float, known: MomentsByTensor) -> Float:
    """The gain of a node's input through this node, from that of its output."""
    if not is_known(node):
        return np.array([gain.mean()])
    moments = known.get(node.inputs[index].name)
    if op_of(node) == "Conv" and (weight := input_constant(node, 1)) is not None:
        return _conv(np.asarray(weight, np.float64), int(node.attrs.get("group", 1)), gain)
    if op_of(node) in ("Gemm", "MatMul") and (weight := input_constant(node, 1)) is not None and weight.ndim == 2:
        rows = np.asarray(weight if node.attrs.get("transB", 0) else weight.T, np.float64)
        columns: Float = np.square(rows).T @ _wide(gain, len(rows))
        channels = len(columns) if moments is None else len(moments.mean)
        runs = channels and len(columns) % channels == 0
        return columns.reshape(channels, -1).sum(axis=1) if runs else np.array([columns.sum()])
    if op_of(node) == "BatchNormalization" and (norm := batch_norm_parameters(node)) is not None:
        return _wide(gain, len(norm.gamma)) * np.square(norm.factor)
    if is_clip(node):
        return gain if (share := passing(node, known)) is None else _wide(gain, len(share)) * share
    if op_of(node) in ("Mul", "Div") and len(node.inputs) == 2:
        return _product(node, index, gain, known)
    if moments is not None and len(gain) > 1 and len(gain) != len(moments.mean):
        return np.array([gain.mean()])  # what cuts, joins or moves channels
    return gain


def passing(node: gs.Node, known: MomentsByTensor) -> Float | None:
    """How often each channel of a Relu's or Clip's input lies between its bounds; None where nothing is known of it."""
    moments = known.get(node.inputs[0].name)
    try:
        low, high = clip_bounds(node)
    except Unknown:
        return None
    if moments is None:
        return None
    std = np.sqrt(np.maximum(moments.variance, 1e-30))
    share: Float = normal_cdf((high - moments.mean) / std) - normal_cdf((low - moments.mean) / std)
    return share


def _wide(gain: Float, channels: int) -> Float:
    fits = len(gain) in (1, channels)
    return np.broadcast_to(gain if fits else np.array([gain.mean()]), (channels,))


def _conv(weight: Float, groups: int, gain: Float) -> Float:
    squares = np.square(weight).reshape(groups, -1, weight.shape[1], math.prod(weight.shape[2:])).sum(axis=3)
    per_group = _wide(gain, len(weight)).reshape(groups, -1)
    made: Float = np.einsum("goi,go->gi", squares, per_group).reshape(-1)
    return made


def _product(node: gs.Node, index: int, gain: Float, known: MomentsByTensor) -> Float:
    """Through a product: the mean square of the other operand; of a divisor, its inverse."""
    other = input_constant(node, 1 - index)
    if other is not None and other.size == 1 and other.dtype.kind == "f":
        square = float(other.reshape(-1)[0]) ** 2
        if op_of(node) == "Div":
            square = 1 / square if index == 0 and square > 0 else 1.0
        return gain * square
    moments = known.get(node.inputs[1 - index].name)
    if moments is None or op_of(node) == "Div":
        return gain
    square_of = moments.variance + np.square(moments.mean)
    return gain * (square_of if len(gain) in (1, len(square_of)) else square_of.mean())
