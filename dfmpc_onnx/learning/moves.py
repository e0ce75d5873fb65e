"""Operators of the standard domain that move, choose, join or count values, in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import torch
import torch.nn.functional as F

from dfmpc_onnx.learning.calls import Call, Kernel, NotFollowed
from dfmpc_onnx.learning.torch_import import Tensor


def _reshape(call: Call) -> Tensor:
    wanted = call.ints("shape", 1) or []
    keeps = not call.attr("allowzero", 0)
    return call.x.reshape([call.x.shape[i] if size == 0 and keeps else size for i, size in enumerate(wanted)])


def _flatten(call: Call) -> Tensor:
    shape = tuple(call.x.shape)
    axis = int(call.attr("axis", 1))
    return call.x.reshape(int(np.prod(shape[:axis])), -1)


def _transpose(call: Call) -> Tensor:
    return call.x.permute(list(call.attr("perm", range(call.x.dim())[::-1])))


def _squeeze(call: Call) -> Tensor:
    axes = call.ints("axes", 1)
    return call.x.squeeze() if axes is None else call.x.squeeze(tuple(axes))


def _unsqueeze(call: Call) -> Tensor:
    axes = call.ints("axes", 1) or []
    rank = call.x.dim() + len(axes)
    result = call.x
    for axis in sorted(axis % rank for axis in axes):
        result = result.unsqueeze(axis)
    return result


def _concat(call: Call) -> Tensor:
    return torch.cat(list(call.inputs), dim=int(call.attr("axis", 0)))


def _split(call: Call) -> tuple[Tensor, ...]:
    axis, sizes = int(call.attr("axis", 0)), call.ints("split", 1)
    if sizes is None:
        parts = len(call.node.outputs)
        return tuple(torch.split(call.x, -(-call.x.shape[axis] // parts), dim=axis))
    return tuple(torch.split(call.x, sizes, dim=axis))


def _slice(call: Call) -> Tensor:
    starts, ends = call.ints("starts", 1) or [], call.ints("ends", 2) or []
    axes, steps = call.ints("axes", 3) or list(range(len(starts))), call.ints("steps", 4) or [1] * len(starts)
    result = call.x
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = result.shape[axis]
        chosen = range(size)[slice(start, end if step > 0 or end >= -size else None, step)]
        index = torch.tensor(list(chosen), device=result.device, dtype=torch.int64)
        result = result.index_select(axis, index)
    return result


def _pad(call: Call) -> Tensor:
    pads, mode = call.ints("pads", 1) or [], call.attr("mode", "constant")
    axes = [axis % call.x.dim() for axis in call.ints("axes", 3) or range(call.x.dim())]
    begins, ends = dict(zip(axes, pads, strict=False)), dict(zip(axes, pads[len(axes) :], strict=True))
    flat = [side for axis in reversed(range(call.x.dim())) for side in (begins.get(axis, 0), ends.get(axis, 0))]
    if mode == "constant":
        return F.pad(call.x, flat, value=call.number("value", 2, 0.0))
    if any(flat[2 * (call.x.dim() - 2) :]) or mode not in ("reflect", "edge"):
        raise NotFollowed(f"padding of mode {mode} of batch or channels")
    spatial = flat[: 2 * (call.x.dim() - 2)]
    return F.pad(call.x, spatial, mode="replicate" if mode == "edge" else "reflect")


def _gather(call: Call) -> Tensor:
    axis, index = int(call.attr("axis", 0)), call.inputs[1]
    size = call.x.shape[axis]
    flat = index.reshape(-1).to(torch.int64) % size
    shape = list(call.x.shape)
    axis %= len(shape)
    return call.x.index_select(axis, flat).reshape([*shape[:axis], *index.shape, *shape[axis + 1 :]])


def _shape(call: Call) -> Tensor:
    sizes = list(call.x.shape)[slice(int(call.attr("start", 0)), call.attr("end", None))]
    return torch.tensor(sizes, dtype=torch.int64, device=call.x.device)


def _expand(call: Call) -> Tensor:
    wanted = torch.broadcast_shapes(tuple(call.x.shape), tuple(call.ints("shape", 1) or ()))
    return call.x.expand(wanted)


def _constant(call: Call) -> Tensor:
    for name in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        value = call.node.attrs.get(name)
        if value is not None:
            values = np.asarray(value.values if isinstance(value, gs.Constant) else value)
            return as_tensor(values)
    raise NotFollowed("a constant of text, or a sparse one")


def _constant_of_shape(call: Call) -> Tensor:
    value = call.node.attrs.get("value")
    values = np.zeros(1, np.float32) if value is None else np.asarray(getattr(value, "values", value))
    return as_tensor(values).reshape(-1)[0].expand(call.x.tolist()).clone()


def _tile(call: Call) -> Tensor:
    return call.x.repeat(*(call.ints("repeats", 1) or []))


def _depth_to_space(call: Call) -> Tensor:
    n, c, h, w = call.x.shape
    size = int(call.attr("blocksize", 1))
    if call.attr("mode", "DCR") == "DCR":
        parts = call.x.reshape(n, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = call.x.reshape(n, c // size**2, size, size, h, w).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, c // size**2, h * size, w * size)


def _space_to_depth(call: Call) -> Tensor:
    n, c, h, w = call.x.shape
    size = int(call.attr("blocksize", 1))
    parts = call.x.reshape(n, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * size**2, h // size, w // size)


def _reduced(function: Callable[..., Any]) -> Kernel:
    def reduce(call: Call) -> Tensor:
        axes = call.ints("axes", 1)
        if not axes:
            if call.attr("noop_with_empty_axes", 0):
                return call.x
            axes = list(range(call.x.dim()))
        return function(call.x, dim=tuple(axes), keepdim=bool(call.attr("keepdims", 1)))

    return reduce


def as_tensor(values: np.typing.NDArray[np.generic]) -> Tensor:
    """A copy of an array, floats as float32."""
    if values.dtype.kind not in "fiub" or values.dtype.name in ("uint16", "uint32", "uint64"):
        if values.dtype.name != "bfloat16":
            raise NotFollowed(f"values of type {values.dtype.name}")
        values = values.astype(np.float32)
    return torch.from_numpy(values.astype(np.float32) if values.dtype.kind == "f" else np.array(values))


MOVE_KERNELS: Mapping[str, Kernel] = {
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Shape": _shape,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "Gather": _gather,
    "Expand": _expand,
    "Tile": _tile,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "ReduceMean": _reduced(torch.mean),
    "ReduceSum": _reduced(torch.sum),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMin": _reduced(torch.amin),
}
