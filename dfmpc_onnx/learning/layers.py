"""Layers, normalizations, pools and resizing of the standard domain, in PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from dfmpc_onnx.learning.calls import Call, Kernel, NotFollowed
from dfmpc_onnx.learning.torch_import import Tensor

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
AVERAGE_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
Pads = list[tuple[int, int]]  # before and after, by spatial dimension


def _for_rank(functions: Mapping[int, Callable[..., Any]], rank: int) -> Callable[..., Any]:
    if rank not in functions:
        raise NotFollowed(f"maps of {rank} dimensions")
    return functions[rank]


def _sizes(call: Call, name: str, rank: int) -> list[int]:
    return [int(v) for v in call.attr(name, (1,) * rank)]


def _pads(call: Call, kernel: Sequence[int]) -> Pads:
    """Of a Conv or a pool on its first input."""
    rank, mode = len(kernel), call.attr("auto_pad", "NOTSET")
    if mode == "VALID":
        return [(0, 0)] * rank
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        flat = [int(v) for v in call.attr("pads", (0,) * 2 * rank)]
        return list(zip(flat[:rank], flat[rank:], strict=True))
    found = []
    strides, dilations = _sizes(call, "strides", rank), _sizes(call, "dilations", rank)
    for extent, k, step, spread in zip(call.x.shape[2:], kernel, strides, dilations, strict=True):
        total = max((-(-extent // step) - 1) * step + (k - 1) * spread + 1 - extent, 0)
        small, large = total // 2, total - total // 2
        found.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return found


def _padded(x: Tensor, pads: Pads, value: float = 0.0) -> Tensor:
    if not any(side for pair in pads for side in pair):
        return x
    return F.pad(x, list(itertools.chain.from_iterable(reversed(pads))), value=value)


def _conv(call: Call) -> Tensor:
    weight = call.inputs[1]
    kernel = list(weight.shape[2:])
    rank, pads = len(kernel), _pads(call, list(weight.shape[2:]))
    even = all(before == after for before, after in pads)
    return _for_rank(CONVOLUTIONS, rank)(
        call.x if even else _padded(call.x, pads),
        weight,
        call.given(2),
        stride=_sizes(call, "strides", rank),
        padding=[before for before, _ in pads] if even else 0,
        dilation=_sizes(call, "dilations", rank),
        groups=int(call.attr("group", 1)),
    )


def _conv_transpose(call: Call) -> Tensor:
    weight = call.inputs[1]
    rank, pads = len(weight.shape) - 2, _pads(call, list(weight.shape[2:]))
    if call.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or "output_shape" in call.node.attrs:
        raise NotFollowed("a ConvTranspose of a given output size")
    if any(before != after for before, after in pads):
        raise NotFollowed("a ConvTranspose with other pads before than after")
    return _for_rank(TRANSPOSED, rank)(
        call.x,
        weight,
        call.given(2),
        stride=_sizes(call, "strides", rank),
        padding=[before for before, _ in pads],
        output_padding=[int(v) for v in call.attr("output_padding", (0,) * rank)],
        groups=int(call.attr("group", 1)),
        dilation=_sizes(call, "dilations", rank),
    )


def _gemm(call: Call) -> Tensor:
    a, b, c = call.x, call.inputs[1], call.given(2)
    a = a.transpose(0, 1) if call.attr("transA", 0) else a
    b = b.transpose(0, 1) if call.attr("transB", 0) else b
    product = call.attr("alpha", 1.0) * (a @ b)
    return product if c is None else product + call.attr("beta", 1.0) * c


def _batch_norm(call: Call) -> Tensor:
    """As in inference: by what was measured in training."""
    gamma, beta, mean, variance = call.inputs[1:5]
    return F.batch_norm(call.x, mean, variance, gamma, beta, training=False, eps=call.attr("epsilon", 1e-5))


def _instance_norm(call: Call) -> Tensor:
    return F.instance_norm(call.x, weight=call.inputs[1], bias=call.inputs[2], eps=call.attr("epsilon", 1e-5))


def _layer_norm(call: Call) -> Tensor:
    axis = int(call.attr("axis", -1)) % call.x.dim()
    shape = list(call.x.shape[axis:])
    return F.layer_norm(call.x, shape, call.inputs[1].expand(shape), call.given(2), call.attr("epsilon", 1e-5))


def _end_pads(call: Call, kernel: Sequence[int], pads: Pads) -> Pads:
    """What a pool needs behind its pads for its last windows, by dimension: below 0 where these end before the pads do.

    With ceil_mode a last window may reach beyond the pads, but none begins behind the input and the pads before it.
    """
    rank = len(kernel)
    strides, dilations = _sizes(call, "strides", rank), _sizes(call, "dilations", rank)
    found = []
    for extent, k, step, spread, (before, after) in zip(
        call.x.shape[2:], kernel, strides, dilations, pads, strict=True
    ):
        whole, window = extent + before + after, (k - 1) * spread + 1
        more = -(-(whole - window) // step) if call.attr("ceil_mode", 0) else (whole - window) // step
        if call.attr("ceil_mode", 0) and more * step >= extent + before:
            more -= 1
        found.append((0, more * step + window - whole))
    return found


def _max_pool(call: Call) -> Tensor:
    if len(call.node.outputs) > 1:
        raise NotFollowed("the places of the largest values")
    kernel = [int(k) for k in call.attr("kernel_shape", ())]
    pads = _pads(call, kernel)
    padded = _padded(call.x, pads, float("-inf"))
    return _for_rank(MAX_POOLS, len(kernel))(
        _padded(padded, _end_pads(call, kernel, pads), float("-inf")),
        kernel,
        _sizes(call, "strides", len(kernel)),
        0,
        _sizes(call, "dilations", len(kernel)),
    )


def _average_pool(call: Call) -> Tensor:
    """The sum of each window over how many of its values count: those of the input, and of the pads where asked for."""
    kernel = [int(k) for k in call.attr("kernel_shape", ())]
    if any(spread != 1 for spread in _sizes(call, "dilations", len(kernel))):
        raise NotFollowed("an AveragePool with dilations")
    pool, pads = _for_rank(AVERAGE_POOLS, len(kernel)), _pads(call, kernel)
    ends, counted = _end_pads(call, kernel, pads), float(bool(call.attr("count_include_pad", 0)))

    def averaged(x: Tensor, pad: float) -> Tensor:
        return pool(_padded(_padded(x, pads, pad), ends), kernel, _sizes(call, "strides", len(kernel)))

    return averaged(call.x, 0.0) / averaged(torch.ones_like(call.x[:1, :1]), counted)


def _global(function: Callable[..., Any]) -> Kernel:
    return lambda call: function(call.x, dim=tuple(range(2, call.x.dim())), keepdim=True)


def _resize(call: Call) -> Tensor:
    """To the nearest, and linear, one axis after the other."""
    size, scales = _resized(call)
    mode, place = call.attr("mode", "nearest"), call.attr("coordinate_transformation_mode", "half_pixel")
    if mode not in ("nearest", "linear") or call.attr("antialias", 0):
        raise NotFollowed(f"a Resize of mode {mode}" + (" with antialias" if call.attr("antialias", 0) else ""))
    result = call.x
    for axis, (wanted, scale) in enumerate(zip(size, scales, strict=True), start=2):
        at = _places(call, place, wanted, scale, result.shape[axis])
        result = _nearest(call, result, axis, at) if mode == "nearest" else _linear(result, axis, at)
    return result


NEAREST_ROUNDINGS: Mapping[str, Callable[[Any], Any]] = {
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round_prefer_floor": lambda at: torch.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: torch.floor(at + 0.5),
}


def _places(call: Call, place: str, wanted: int, scale: float, had: int) -> Tensor:
    """Where along an axis of `had` values each of `wanted` ones lies, float32 as onnxruntime computes it."""
    at = torch.arange(wanted, device=call.x.device, dtype=torch.float32)
    by = torch.tensor(scale, device=call.x.device, dtype=torch.float32)
    if place == "pytorch_half_pixel" and wanted == 1:
        return at
    if place in ("half_pixel", "pytorch_half_pixel"):
        return (at + 0.5) / by - 0.5
    if place == "align_corners":
        return at * (had - 1) / max(wanted - 1, 1)
    if place == "asymmetric":
        return at / by
    raise NotFollowed(f"a Resize with coordinates {place}")


def _nearest(call: Call, x: Tensor, axis: int, at: Tensor) -> Tensor:
    rounding = str(call.attr("nearest_mode", "round_prefer_floor"))
    if rounding not in NEAREST_ROUNDINGS:
        raise NotFollowed(f"a Resize to the nearest by {rounding}")
    chosen = torch.clamp(NEAREST_ROUNDINGS[rounding](at), 0, x.shape[axis] - 1)
    return x.index_select(axis, chosen.to(torch.int64))


def _linear(x: Tensor, axis: int, at: Tensor) -> Tensor:
    inside = torch.clamp(at, 0, x.shape[axis] - 1)
    low = torch.floor(inside).to(torch.int64)
    share = (inside - low).reshape(-1, *[1] * (x.dim() - 1 - axis))
    high = torch.clamp(low + 1, max=x.shape[axis] - 1)
    return x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share


def _resized(call: Call) -> tuple[list[int], list[float]]:
    """Height and width that a Resize makes, and by what it enlarges them."""
    had = list(call.x.shape)
    sizes, scales = call.given(3), call.given(2)
    if call.attr("axes", None) is not None or call.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise NotFollowed("a Resize of some axes, or of a kept aspect")
    if sizes is not None and sizes.numel():
        wanted = [int(v) for v in sizes.tolist()]
        by = [new / old for new, old in zip(wanted, had, strict=True)]
    elif scales is not None and scales.numel():
        by = scales.tolist()
        wanted = [int(size * scale) for size, scale in zip(had, by, strict=True)]
    else:
        raise NotFollowed("a Resize without sizes and scales")
    if wanted[:2] != had[:2]:
        raise NotFollowed("a Resize of batch or channels")
    return wanted[2:], by[2:]


WEIGHTED_KERNELS: Mapping[str, Kernel] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": lambda call: call.x @ call.inputs[1],
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global(torch.mean),
    "GlobalMaxPool": _global(torch.amax),
    "Resize": _resize,
}
