"""Tensors that are a function of one other, entry by entry: gates, squares, activations written as several nodes.

``x * Sigmoid(x)`` is no product of two independent tensors, nor is ``x * x``: its moments are those of a function of
one Gaussian.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.affine import channel_values
from dfmpc_onnx.graph.operators import activation, op_of
from dfmpc_onnx.graph.query import constant
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.moments import ChannelMoments, function_of_gaussian

GRID = np.linspace(-16.0, 16.0, 4097)  # deviations, among which a bound is looked for
BINARY: Mapping[str, Callable[[Float, Float], Float]] = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}


class Composed(NamedTuple):
    """source: the name of a tensor. function: what makes a tensor of it, on ``[channels, points]``."""

    source: str
    function: Callable[[Float], Float]


def compose(node: gs.Node, found: Mapping[str, Composed]) -> Composed | None:
    """What a node's output is a function of; None where it is none of one tensor. found: by tensor name, so far."""
    if len(node.outputs) != 1:
        return None
    if op_of(node) in BINARY and len(node.inputs) == 2:
        return _join(node, found)
    function = activation(node)
    if function is None:
        return None
    inner = _of(node.inputs[0], found)
    return Composed(inner.source, lambda x: function(inner.function(x)))


def moments_of(function: Callable[[Float], Float], x: ChannelMoments) -> ChannelMoments | None:
    """Moments and bounds of a function of each channel of a tensor; None where they are no finite numbers.

    A bound that is only met at the edge of what is looked at, 16 deviations away, is no bound.
    """
    low, high = x.low[:, None], x.high[:, None]
    with np.errstate(over="ignore", invalid="ignore"):
        mean, variance = function_of_gaussian(x.mean, x.variance, lambda v: function(np.clip(v, low, high)))
        values = function(np.clip(x.mean[:, None] + np.sqrt(x.variance)[:, None] * GRID, low, high))
    if not (np.isfinite(mean).all() and np.isfinite(variance).all() and np.isfinite(values).all()):
        return None
    ends = values[:, [0, -1]]
    open_ends = np.stack([np.isinf(x.low), np.isinf(x.high)], axis=1) & (x.variance > 0)[:, None]
    least, most = values.min(axis=1), values.max(axis=1)
    at_least = (open_ends & (ends <= least[:, None])).any(axis=1)
    at_most = (open_ends & (ends >= most[:, None])).any(axis=1)
    return ChannelMoments(mean, variance, np.where(at_least, -math.inf, least), np.where(at_most, math.inf, most))


def _of(tensor: gs.Tensor, found: Mapping[str, Composed]) -> Composed:
    return found.get(tensor.name, Composed(tensor.name, lambda x: x))


def _join(node: gs.Node, found: Mapping[str, Composed]) -> Composed | None:
    """A sum, difference or product of two functions of one tensor, or of one and a constant, one number or one a
    channel."""
    join = BINARY[op_of(node)]
    numbers = [constant(tensor) for tensor in node.inputs]
    if all(values is not None for values in numbers):
        return None
    parts: list[Callable[[Float], Float]] = []
    sources = set()
    for tensor, values in zip(node.inputs, numbers, strict=True):
        if values is None:
            part = _of(tensor, found)
            sources.add(part.source)
            parts.append(part.function)
        elif (fixed := _fixed(tensor, node)) is not None:
            parts.append(fixed)
        else:
            return None
    if len(sources) != 1:
        return None
    a, b = parts
    return Composed(sources.pop(), lambda x: join(a(x), b(x)))


def _fixed(tensor: gs.Tensor, node: gs.Node) -> Callable[[Float], Float] | None:
    """What a constant is beside a tensor: one number, or one a channel of its map; None where it is neither."""
    values, shape = constant(tensor), node.outputs[0].shape
    if values is None:
        return None
    if values.size == 1 and values.dtype.kind in "fiu" and values.ndim <= 1:
        number = float(values.reshape(-1)[0])
        return lambda x: np.full_like(x, number)
    channels = None if shape is None or len(shape) < 2 else shape[1]
    each = None if channels is None or shape is None else channel_values(tensor, channels, len(shape))
    return None if each is None else lambda x: np.broadcast_to(each[:, None], (len(each), *x.shape[1:]))
