"""Moments of every activation of a float network, derived from its weights and BatchNormalizations alone.

Each tensor gets a mean and a variance per channel, under the assumption that channels and pixels are independent
and each channel is Gaussian in front of an activation. A BatchNormalization in inference mode measured its input in
training, so behind it the moments are known exactly: ``N(beta, gamma^2)``, whatever came before
(docs/method.md, section 1).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.graph.operators import (
    batch_norm_parameters,
    op_of,
)
from dfmpc_onnx.graph.query import constant
from dfmpc_onnx.inputs.feeds import HALF_RANGE
from dfmpc_onnx.inputs.spec import InputSpec, InputSpecs
from dfmpc_onnx.numerics.moments import (
    ChannelMoments,
)
from dfmpc_onnx.statistics.composed_functions import BINARY, Composed, compose, moments_of
from dfmpc_onnx.statistics.moment_rules import rule_of

FARTHEST = 12.0  # deviations of an input whose moments alone are known: sound reaches far beyond its own
NOT_NEEDED = "not needed: the BatchNormalization behind it is exact"


def input_moments(spec: InputSpec) -> ChannelMoments | None:
    """Photographs after the preprocess, or what `spec.moments` or `spec.range` say, by the second dimension.

    None for what has no such dimension, or holds no floats.
    Where the channels are last, the second dimension is that of the rows, each of which has all the colours.
    """
    if not spec.is_float or spec.resolved is None or len(spec.resolved) < 2:
        return None
    last = spec.channels_last
    if spec.moments is not None:
        channels = spec.shape[1 if spec.moments.axis is None else spec.moments.axis]
        mean, deviation = (np.resize(v, channels) for v in (spec.moments.mean, spec.moments.deviation))
        variance, low, high = np.square(deviation), mean - FARTHEST * deviation, mean + FARTHEST * deviation
        last = spec.moments.axis not in (1, None)
    elif spec.range is not None and not spec.is_picture:
        low, high = (np.full(spec.channels, bound) for bound in spec.range)
        mean, variance = (low + high) / 2, np.square((high - low) / 2 / HALF_RANGE)
    else:
        mean, variance = spec.preprocess.moments(spec.channels)
        low, high = spec.preprocess.bounds(spec.channels)
    if not last:
        return ChannelMoments(mean, variance, low, high)
    rows = spec.resolved[1]
    mixed = float(variance.mean() + mean.var())
    row = (float(mean.mean()), mixed, float(low.min()), float(high.max()))
    return ChannelMoments(*(np.full(rows, value) for value in row))


def propagate(graph: gs.Graph, inputs: InputSpecs) -> tuple[dict[str, ChannelMoments], dict[str, str]]:
    """Moments by tensor name, and for the tensors whose moments do not follow, the reason."""
    known: dict[str, ChannelMoments] = {}
    unknown: dict[str, str] = {}
    functions: dict[str, Composed] = {}
    for spec in inputs:
        moments = input_moments(spec)
        if moments is None:
            unknown[spec.name] = "an input that is not float [n, channels, ...]"
        else:
            known[spec.name] = moments
    for node in graph.nodes:
        if op_of(node) == "Conv" and all(_pins(n) for n in node.outputs[0].outputs) and node.outputs[0].outputs:
            unknown[node.outputs[0].name] = NOT_NEEDED
            continue
        try:
            result = rule_of(node)(node, [known.get(t.name) for t in node.inputs])
            _check_channels(node, result)
            result = _dependent(node, result, known, functions)
        except Unknown as reason:
            for tensor in node.outputs:
                unknown[tensor.name] = f"{op_of(node)}: {reason}"
            continue
        for tensor in node.outputs:
            known[tensor.name] = result
    return known, unknown


def _dependent(
    node: gs.Node, result: ChannelMoments, known: Mapping[str, ChannelMoments], functions: dict[str, Composed]
) -> ChannelMoments:
    """The moments of a node's output, exact where it joins two functions of one tensor; notes what it is one of.

    result: by the node's rule, which takes operands as independent, and whose bounds hold.
    """
    function = compose(node, functions)
    if function is None or function.source not in known:
        return result
    functions[node.outputs[0].name] = function
    if op_of(node) not in BINARY or any(constant(tensor) is not None for tensor in node.inputs):
        return result
    source = known[function.source]
    exact = moments_of(function.function, source) if len(source.mean) == len(result.mean) else None
    if exact is None:
        return result
    low, high = np.maximum(exact.low, result.low), np.minimum(exact.high, result.high)
    return ChannelMoments(exact.mean, exact.variance, low, np.maximum(low, high))


def _check_channels(node: gs.Node, found: ChannelMoments) -> None:
    """Raise Unknown where moments cannot be those of the second dimension; a flattened map has runs of columns."""
    shape = node.outputs[0].shape
    if shape is None or len(shape) < 2 or not isinstance(shape[1], int):
        return
    size = len(found.mean)
    if size != shape[1] and (len(shape) > 2 or not size or shape[1] % size):
        raise Unknown(f"its output has {shape[1]} channels, its moments {size}")


def _pins(node: gs.Node) -> bool:
    """Whether a node's output has known moments whatever its input is."""
    return op_of(node) == "BatchNormalization" and batch_norm_parameters(node) is not None
