"""What a layer reads for one position of its output: patches of a Conv's input, or rows of a product's."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

Array = npt.NDArray[np.float32]


def sample_patches(
    x: npt.NDArray[np.generic], node: gs.Node, count: int, generator: np.random.Generator
) -> tuple[npt.NDArray[np.intp], ...]:
    """Positions of a layer's output to look at: image, and row and column of the output, ``[count]`` each.

    All of them where there are fewer than `count`.
    """
    size = _output_size(x, node)
    total = int(x.shape[0] * np.prod(size))
    flat = np.arange(total) if total <= count else np.sort(generator.choice(total, count, replace=False))
    return np.unravel_index(flat, (x.shape[0], *size))


def gather_patches(x: npt.NDArray[np.generic], node: gs.Node, positions: tuple[npt.NDArray[np.intp], ...]) -> Array:
    """Input patches ``[groups, n, in/group * taps]`` float32 of a Conv at output positions, or a product's rows.

    positions: image by image, as `sample_patches` has them.
    """
    if node.op != "Conv":
        rows = positions[0] if x.ndim == 2 else np.ravel_multi_index(positions, (x.shape[0], *_output_size(x, node)))
        return np.asarray(x, np.float32).reshape(-1, x.shape[-1])[rows][None]
    groups = int(node.attrs.get("group", 1))
    (kernel, strides, dilations), pads = conv_geometry(node), _pads(x.shape[2:], node)
    padded = np.asarray(x, np.float32)
    if np.any(pads):
        padded = np.pad(padded, [(0, 0), (0, 0), *pads])
    images, channels, size = positions[0], x.shape[1], padded.shape[2:]
    # Channel by channel, as the map lies in memory; what comes back is a transposed view, which products read as well.
    patches = np.empty((channels, math.prod(kernel), len(images)), np.float32)
    bounds = np.searchsorted(images, np.arange(len(x) + 1))
    for tap, offset in enumerate(np.ndindex(*kernel)):
        index = tuple(p * s + o * d for p, s, o, d in zip(positions[1:], strides, offset, dilations, strict=True))
        flat = np.ravel_multi_index(index, size) if size else np.zeros(len(images), np.intp)
        for image, (first, last) in enumerate(itertools.pairwise(bounds)):
            if last > first:
                plane = padded[image].reshape(channels, -1)
                patches[:, tap, first:last] = np.take(plane, flat[first:last], axis=1)
    return patches.reshape(groups, -1, len(images)).transpose(0, 2, 1)


Extents = tuple[int, ...]


def conv_geometry(node: gs.Node) -> tuple[Extents, Extents, Extents]:
    """Kernel, strides and dilations of a Conv."""
    kernel = tuple(int(k) for k in node.inputs[1].shape[2:])
    strides = tuple(int(s) for s in node.attrs.get("strides", (1,) * len(kernel)))
    return kernel, strides, tuple(int(d) for d in node.attrs.get("dilations", (1,) * len(kernel)))


def taps_seen(node: gs.Node, size: Extents) -> npt.NDArray[np.bool_]:
    """Which taps of a Conv's kernel ever read a value of a map of this size; the others read padding alone."""
    kernel, strides, dilations = conv_geometry(node)
    pads = _pads(size, node)
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


def _pads(size: Extents, node: gs.Node) -> list[tuple[int, int]]:
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


def _output_size(x: npt.NDArray[np.generic], node: gs.Node) -> tuple[int, ...]:
    if node.op != "Conv":
        return (int(np.prod(x.shape[1:-1])),) if x.ndim > 2 else ()
    (kernel, strides, dilations), pads = conv_geometry(node), _pads(x.shape[2:], node)
    return tuple(
        (size + a + b - (k - 1) * d - 1) // s + 1
        for size, k, s, d, (a, b) in zip(x.shape[2:], kernel, strides, dilations, pads, strict=True)
    )
