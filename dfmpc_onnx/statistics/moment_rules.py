"""How each operator carries the moments of channels from its inputs to its output, channels and pixels independent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.graph.operators import (
    averages_space,
    batch_norm_parameters,
    clip_bounds,
    elementwise,
    flattens_each,
    is_clip,
    meaning_of,
    op_of,
)
from dfmpc_onnx.graph.query import constant, has_input, input_constant
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.interpolation import CUBIC_COEFFICIENT, overshot
from dfmpc_onnx.numerics.moments import (
    ChannelMoments,
    clipped_gaussian,
    function_of_gaussian,
    leaky_gaussian,
    linear_moments,
)

Rule = Callable[[gs.Node, Sequence[ChannelMoments | None]], ChannelMoments]


def rule_of(node: gs.Node) -> Rule:
    """What gives the moments of a node's output from those of its inputs; raises Unknown where nothing does."""
    rule = _RULES.get(op_of(node))
    if rule is not None:
        return rule
    if is_clip(node):
        return _clip
    if meaning_of(node).function is None:
        raise Unknown("no rule for this operator")
    return _smooth


def _first(inputs: Sequence[ChannelMoments | None]) -> ChannelMoments:
    if not inputs or inputs[0] is None:
        raise Unknown("the moments of its input are not known")
    return inputs[0]


def _without_bounds(mean: Float, variance: Float) -> ChannelMoments:
    return ChannelMoments(mean, variance, np.full_like(mean, -np.inf), np.full_like(mean, np.inf))


def _bias(node: gs.Node, index: int, channels: int) -> Float:
    if not has_input(node, index):
        return np.zeros(channels)
    values = input_constant(node, index)
    if values is None or values.size not in (1, channels):
        raise Unknown("its bias is not one number a channel")
    return np.broadcast_to(np.asarray(values, np.float64).reshape(-1), (channels,))


def _conv(node: gs.Node, inputs: Sequence[ChannelMoments | None]) -> ChannelMoments:
    x = _first(inputs)
    weight = input_constant(node, 1)
    if weight is None:
        raise Unknown("its weight is computed")
    groups = int(node.attrs.get("group", 1))
    return conv_moments(weight, groups, x, _bias(node, 2, len(weight)))


def conv_moments(weight: np.ndarray, groups: int, x: ChannelMoments, bias: Float) -> ChannelMoments:
    """Moments of a Conv's output: weight ``[out, in/group, *kernel]``, x of ``[in]`` channels."""
    if not weight.size:
        raise Unknown("its weight holds nothing")
    out, per_group = weight.shape[:2]
    rows = np.asarray(weight, np.float32).reshape(out, per_group, -1)
    mean, variance = x.mean, x.variance
    if len(mean) != per_group * groups:
        raise Unknown("its input's channels are not known")
    if groups > 1:
        index = np.arange(out)[:, None] // (out // groups) * per_group + np.arange(per_group)
        mean, variance = mean[index], variance[index]
    return _without_bounds(*linear_moments(rows, mean, variance, bias))


def _gemm(node: gs.Node, inputs: Sequence[ChannelMoments | None]) -> ChannelMoments:
    x = _first(inputs)
    weight = input_constant(node, 1)
    if weight is None or weight.ndim != 2 or node.attrs.get("transA", 0):
        raise Unknown("its second operand is not a constant matrix")
    shape = node.inputs[0].shape
    if op_of(node) == "MatMul" and shape is not None and len(shape) != 2:
        raise Unknown("a matrix product along the width of a map")
    weight = weight if node.attrs.get("transB", 0) else weight.T
    alpha, beta = float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
    out, width = weight.shape
    if not out or not width or not len(x.mean) or width % len(x.mean):
        raise Unknown("its input's channels are not known")
    # A flattened map: each channel stands for a run of `width / channels` columns.
    rows = np.asarray(weight, np.float32).reshape(out, len(x.mean), -1)
    bias = _bias(node, 2, out) * beta if op_of(node) == "Gemm" else 0.0
    return _without_bounds(*linear_moments(np.float32(alpha) * rows, x.mean, x.variance, bias))


def _batch_norm(node: gs.Node, inputs: Sequence[ChannelMoments | None]) -> ChannelMoments:
    norm = batch_norm_parameters(node)
    if norm is None:
        raise Unknown("its parameters are computed")
    variance = norm.output_variance
    x = inputs[0]
    if x is None or len(x.low) != len(norm.gamma):
        return _without_bounds(norm.beta, variance)
    with np.errstate(invalid="ignore"):  # a gamma of 0 by an infinite bound
        ends = np.stack([norm.factor * bound + norm.beta - norm.factor * norm.mean for bound in (x.low, x.high)])
    dead = norm.factor == 0
    return ChannelMoments(
        norm.beta, variance, np.where(dead, norm.beta, ends.min(axis=0)), np.where(dead, norm.beta, ends.max(axis=0))
    )


def _clip(node: gs.Node, inputs: Sequence[ChannelMoments | None]) -> ChannelMoments:
    x = _first(inputs)
    low, high = clip_bounds(node)
    new_low, new_high = np.clip(x.low, low, high), np.clip(x.high, low, high)
    if np.array_equal(new_low, x.low) and np.array_equal(new_high, x.high):
        return x  # already within the bounds: nothing is clipped, and the Gaussian would say otherwise
    mean, variance = clipped_gaussian(x.mean, x.variance, low, high)
    return ChannelMoments(mean, variance, new_low, new_high)


def _leaky(node: gs.Node, inputs: Sequence[ChannelMoments | None]) -> ChannelMoments:
    x = _first(inputs)
    slope: Float = np.array(float(node.attrs.get("alpha", 0.01)))
    if op_of(node) == "PRelu":
        values = input_constant(node, 1)
        slope = np.zeros(0) if values is None else _constant_moments(values, _rank(node)).mean
        if slope.size not in (1, len(x.mean)):
            raise Unknown("its slope is not one constant a channel")
    mean, variance = leaky_gaussian(x.mean, x.variance, slope)
    with np.errstate(invalid="ignore"):  # 0 times infinity, which np.where leaves out
        bends = (x.low, x.high, np.clip(0.0, x.low, x.high))
        ends = np.stack([np.where(e > 0, e, np.where(slope == 0, 0.0, slope * e)) for e in bends])
    return ChannelMoments(mean, variance, ends.min(axis=0), ends.max(axis=0))


def _smooth(node: gs.Node, inputs: Sequence[ChannelMoments | None]) -> ChannelMoments:
    x = _first(inputs)
    function, (low, high) = elementwise(node), meaning_of(node).bounds
    if function is None:
        raise Unknown("its alpha is not 1" if op_of(node) == "Elu" else "its attributes make it an unknown function")
    mean, variance = function_of_gaussian(x.mean, x.variance, function)
    return ChannelMoments(mean, variance, np.full_like(mean, low), np.full_like(mean, high))


def _hard_sigmoid(node: gs.Node, inputs: Sequence[ChannelMoments | None]) -> ChannelMoments:
    alpha, beta = float(node.attrs.get("alpha", 0.2)), float(node.attrs.get("beta", 0.5))
    x = _first(inputs)
    mean, variance = clipped_gaussian(alpha * x.mean + beta, alpha**2 * x.variance, 0.0, 1.0)
    return ChannelMoments(mean, variance, np.zeros_like(mean), np.ones_like(mean))


def _same(node: gs.Node, inputs: Sequence[ChannelMoments | None]) -> ChannelMoments:
    """Moves, copies or pools values within a channel; for pooling an upper bound of the variance."""
    return _first(inputs)


def _flatten(node: gs.Node, inputs: Sequence[ChannelMoments | None]) -> ChannelMoments:
    if not flattens_each(node):
        raise Unknown("it does not make one row of each image")
    return _first(inputs)


def _pad(node: gs.Node, inputs: Sequence[ChannelMoments | None]) -> ChannelMoments:
    x = _first(inputs)
    pads = input_constant(node, 1)
    value = input_constant(node, 2) if has_input(node, 2) else np.zeros(1)
    if pads is None or value is None or node.attrs.get("mode", "constant") != "constant" or has_input(node, 3):
        raise Unknown("its pads are computed or not constant")
    rank = pads.size // 2
    fill = float(value.reshape(-1)[0])
    before, after = (int(pads[1]), int(pads[1 + rank])) if rank > 1 else (0, 0)
    if before < 0 or after < 0:
        raise Unknown("it cuts channels off")
    spatial = any(int(p) for i, p in enumerate(pads) if i % rank > 1)
    low = np.minimum(x.low, fill) if spatial else x.low
    high = np.maximum(x.high, fill) if spatial else x.high

    def pad_values(values: Float, filler: float) -> Float:
        return np.concatenate([np.full(before, filler), values, np.full(after, filler)])

    return ChannelMoments(
        pad_values(x.mean, fill), pad_values(x.variance, 0.0), pad_values(low, fill), pad_values(high, fill)
    )


def _slice(node: gs.Node, inputs: Sequence[ChannelMoments | None]) -> ChannelMoments:
    x = _first(inputs)
    values = [input_constant(node, i) if has_input(node, i) else None for i in range(1, 5)]
    if values[0] is None or values[1] is None or (values[2] is None and has_input(node, 3)):
        raise Unknown("its bounds are computed")
    axes = list(range(values[0].size)) if values[2] is None else [int(a) for a in values[2]]
    if any(a < 0 for a in axes):
        raise Unknown("its axes count from the end")
    if 1 not in axes:
        return x
    at = axes.index(1)
    step = 1 if values[3] is None else int(values[3][at])
    cut = slice(int(values[0][at]), int(values[1][at]), step)
    return ChannelMoments(x.mean[cut], x.variance[cut], x.low[cut], x.high[cut])


def _resize(node: gs.Node, inputs: Sequence[ChannelMoments | None]) -> ChannelMoments:
    """As its input, but for the bounds: a cubic kernel overshoots them, what lies outside of a map may be filled."""
    x = _first(inputs)
    low, high = x.low, x.high
    if node.attrs.get("mode") == "cubic":
        low, high = overshot(low, high, float(node.attrs.get("cubic_coeff_a", CUBIC_COEFFICIENT)))
    if node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        fill = float(node.attrs.get("extrapolation_value", 0.0))
        low, high = np.minimum(low, fill), np.maximum(high, fill)
    return ChannelMoments(x.mean, x.variance, low, high)


def _operands(node: gs.Node, inputs: Sequence[ChannelMoments | None]) -> tuple[ChannelMoments, ChannelMoments]:
    """The two operands of an elementwise node, a constant one as moments without variance, broadcast to each other."""
    found: list[ChannelMoments] = []
    rank = _rank(node)
    for tensor, moments in zip(node.inputs, inputs, strict=True):
        values = constant(tensor)
        if values is not None:
            if values.dtype.kind not in "fiu":
                raise Unknown("a constant operand is not numeric")
            moments = _constant_moments(values, rank)
        if moments is None:
            raise Unknown("the moments of an input are not known")
        found.append(moments)
    sizes = {len(m.mean) for m in found}
    if len(sizes - {1}) > 1:
        raise Unknown("its operands have different channels")
    size = max(sizes)
    a, b = (ChannelMoments(*(np.broadcast_to(v, (size,)) for v in _fields(m))) for m in found)
    return a, b


def _fields(m: ChannelMoments) -> tuple[Float, Float, Float, Float]:
    return m.mean, m.variance, m.low, m.high


def _rank(node: gs.Node) -> int | None:
    """The number of dimensions of an elementwise node's output; None where it is not known."""
    output = node.outputs[0].shape
    shapes = [t.shape for t in node.inputs] if output is None else [output]
    return None if any(shape is None for shape in shapes) else max(map(len, shapes))


def _constant_moments(values: np.ndarray, rank: int | None) -> ChannelMoments:
    """A constant operand as moments a channel, of a tensor of a given rank whose second dimension is the channel.

    Shapes are aligned at their ends, so ``[5]`` on ``[n, c, h, w]`` runs along the width.
    """
    wide = np.asarray(values, np.float64)
    if wide.size == 1:
        wide = wide.reshape(1, 1)
    elif rank is None or rank < 2:
        raise Unknown("how a constant operand is aligned with the channels is not known")
    else:
        wide = wide.reshape((1,) * (rank - wide.ndim) + wide.shape)
        wide = np.moveaxis(wide, 1, 0).reshape(wide.shape[1], -1)
    if not np.isfinite(wide).all():
        raise Unknown("a constant operand holds NaN or infinity")
    if not wide.size or np.ptp(wide, axis=1).any():
        raise Unknown("a constant operand varies within a channel")
    flat = wide[:, 0]
    return ChannelMoments(flat, np.zeros_like(flat), flat, flat)


def _add(node: gs.Node, inputs: Sequence[ChannelMoments | None]) -> ChannelMoments:
    a, b = _operands(node, inputs)
    if op_of(node) == "Sub":
        b = ChannelMoments(-b.mean, b.variance, -b.high, -b.low)
    return ChannelMoments(a.mean + b.mean, a.variance + b.variance, a.low + b.low, a.high + b.high)


def _mul(node: gs.Node, inputs: Sequence[ChannelMoments | None]) -> ChannelMoments:
    a, b = _operands(node, inputs)
    if op_of(node) == "Div":
        if b.variance.any() or not b.mean.all():
            raise Unknown("its divisor is not a constant")
        inverse = 1.0 / b.mean
        b = ChannelMoments(inverse, b.variance, inverse, inverse)
    square_a, square_b = a.variance + a.mean**2, b.variance + b.mean**2
    mean = a.mean * b.mean
    with np.errstate(invalid="ignore"):
        corners = np.stack([x * y for x in (a.low, a.high) for y in (b.low, b.high)])
    corners = np.nan_to_num(corners, nan=0.0, posinf=np.inf, neginf=-np.inf)
    variance = np.maximum(square_a * square_b - mean**2, 0.0)
    return ChannelMoments(mean, variance, corners.min(axis=0), corners.max(axis=0))


def _concat(node: gs.Node, inputs: Sequence[ChannelMoments | None]) -> ChannelMoments:
    if node.attrs.get("axis") != 1 and node.attrs.get("axis") != 1 - (_rank(node) or 0):
        raise Unknown("it joins along another axis than the channels")
    parts = [m for m in inputs if m is not None]
    if len(parts) != len(inputs):
        raise Unknown("the moments of an input are not known")
    return ChannelMoments(*(np.concatenate(fields) for fields in zip(*(_fields(m) for m in parts), strict=True)))


def _softmax(node: gs.Node, inputs: Sequence[ChannelMoments | None]) -> ChannelMoments:
    x = _first(inputs)
    if not len(x.mean):
        raise Unknown("it has no channels")
    share = np.full_like(x.mean, 1 / len(x.mean))
    return ChannelMoments(share, share * (1 - share), np.zeros_like(share), np.ones_like(share))


def _spatial_mean(node: gs.Node, inputs: Sequence[ChannelMoments | None]) -> ChannelMoments:
    if not averages_space(node):
        raise Unknown("it averages over other axes than height and width")
    return _first(inputs)


_RULES: Mapping[str, Rule] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _gemm,
    "BatchNormalization": _batch_norm,
    "LeakyRelu": _leaky,
    "PRelu": _leaky,
    "HardSigmoid": _hard_sigmoid,
    "Softmax": _softmax,
    "Add": _add,
    "Sub": _add,
    "Mul": _mul,
    "Div": _mul,
    "Concat": _concat,
    "Flatten": _flatten,
    "Pad": _pad,
    "Slice": _slice,
    "ReduceMean": _spatial_mean,
    "Resize": _resize,
    **dict.fromkeys(
        ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "Dropout"),
        _same,
    ),
}
