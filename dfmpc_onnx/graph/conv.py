"""The geometry of a Conv: kernel, strides, dilations, padding, and the size of what comes out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.graph.operators import op_of
from dfmpc_onnx.graph.query import input_constant

Extents = tuple[int, ...]


def conv_geometry(node: gs.Node) -> tuple[Extents, Extents, Extents]:
    """Kernel, strides and dilations of a Conv."""
    kernel = tuple(int(k) for k in node.inputs[1].shape[2:])
    strides = tuple(int(s) for s in node.attrs.get("strides", (1,) * len(kernel)))
    return kernel, strides, tuple(int(d) for d in node.attrs.get("dilations", (1,) * len(kernel)))


def taps_seen(node: gs.Node, size: Extents) -> npt.NDArray[np.bool_]:
    """Which taps of a Conv's kernel ever read a value of a map of this size; the others read padding alone."""
    kernel, strides, dilations = conv_geometry(node)
    pads = conv_pads(size, node)
    seen = np.ones(kernel, np.bool_)
    for axis, extent in enumerate(size):
        step, spread, (before, after) = strides[axis], dilations[axis], pads[axis]
        outputs = (extent + before + after - (kernel[axis] - 1) * spread - 1) // step + 1
        for tap in range(kernel[axis]):
            at = tap * spread - before
            first = max(-(at // step), 0)  # the output at which it comes into the map
            if first >= outputs or at + first * step >= extent:
                seen[(slice(None),) * axis + (tap,)] = False
    return seen


def conv_pads(size: Extents, node: gs.Node) -> list[tuple[int, int]]:
    """Padding of a Conv on a map of a given size, before and after in each spatial dimension."""
    kernel, strides, dilations = conv_geometry(node)
    mode = node.attrs.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        pads = []
        for extent, k, s, d in zip(size, kernel, strides, dilations, strict=True):
            total = max((-(-extent // s) - 1) * s + (k - 1) * d + 1 - extent, 0)
            small, large = total // 2, total - total // 2
            pads.append((small, large) if mode == "SAME_UPPER" else (large, small))
        return pads
    flat = [0] * (2 * len(kernel)) if mode == "VALID" else list(node.attrs.get("pads", (0,) * 2 * len(kernel)))
    return list(zip(flat[: len(kernel)], flat[len(kernel) :], strict=True))


def output_size(x: npt.NDArray[np.generic], node: gs.Node) -> tuple[int, ...]:
    if op_of(node) != "Conv":
        return (int(np.prod(x.shape[1:-1])),) if x.ndim > 2 else ()
    (kernel, strides, dilations), pads = conv_geometry(node), conv_pads(x.shape[2:], node)
    return tuple(
        (size + a + b - (k - 1) * d - 1) // s + 1
        for size, k, s, d, (a, b) in zip(x.shape[2:], kernel, strides, dilations, pads, strict=True)
    )


HeightWidth = tuple[int, int]


def planar(node: gs.Node) -> tuple[HeightWidth, HeightWidth, HeightWidth]:
    """Kernel, strides and dilations of a Conv over height and width; ones for a matrix product."""
    if op_of(node) != "Conv":
        return (1, 1), (1, 1), (1, 1)
    kernel, strides, dilations = conv_geometry(node)
    if len(kernel) != 2:
        raise Unknown(f"a Conv over {len(kernel)} dimensions")
    if len(strides) != 2 or len(dilations) != 2 or len(node.attrs.get("pads", (0,) * 4)) != 4:
        raise Unknown("strides, dilations or pads of other dimensions than the kernel's")
    return (kernel[0], kernel[1]), (strides[0], strides[1]), (dilations[0], dilations[1])


def steps_of(node: gs.Node) -> tuple[int, int]:
    """The stride of a pooling or a slice over height and width."""
    if op_of(node) != "Slice":
        steps = node.attrs.get("strides", (1, 1))
        return int(steps[0]), int(steps[1])
    axes, step = input_constant(node, 3), input_constant(node, 4)
    if axes is None or not {int(a) for a in axes} <= {2, 3}:
        raise Unknown("a slice along other axes than height and width")
    found = {int(a): 1 if step is None else int(step[i]) for i, a in enumerate(axes)}
    return found.get(2, 1), found.get(3, 1)


def map_size(node: gs.Node, size: tuple[int, int], steps: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a node's output: as inferred, or those of its input, padded to keep it, by its strides."""
    shape = node.outputs[0].shape
    if shape is not None and len(shape) == 4 and all(isinstance(d, int) and d > 0 for d in shape[2:]):
        return int(shape[2]), int(shape[3])
    return max(-(-size[0] // steps[0]), 1), max(-(-size[1] // steps[1]), 1)


def within_map(node: gs.Node, weight: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """A weight without the taps that read nothing but padding: on a map of 1x1 a 3x3 kernel has one tap left."""
    if op_of(node) != "Conv" or weight.ndim != 4 or (seen := taps_seen(node, size)).all():
        return weight
    return weight * seen
