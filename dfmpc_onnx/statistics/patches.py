"""What a layer reads for one position of its output: patches of a Conv's input, or rows of a product's."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.conv import conv_geometry, conv_pads, output_size
from dfmpc_onnx.graph.operators import op_of
from dfmpc_onnx.numerics.arrays import Float32


def sample_patches(
    x: npt.NDArray[np.generic], node: gs.Node, count: int, generator: np.random.Generator
) -> tuple[npt.NDArray[np.intp], ...]:
    """Positions of a layer's output to look at: image, and row and column of the output, ``[count]`` each.

    All of them where there are fewer than `count`.
    """
    size = output_size(x, node)
    if not x.size:  # as of a head on regions where there is none
        none = np.zeros(0, np.intp)
        return (none,) * (1 + len(size))
    total = int(x.shape[0] * np.prod(size))
    flat = np.arange(total) if total <= count else np.sort(generator.choice(total, count, replace=False))
    return np.unravel_index(flat, (x.shape[0], *size))


def gather_patches(x: npt.NDArray[np.generic], node: gs.Node, positions: tuple[npt.NDArray[np.intp], ...]) -> Float32:
    """Input patches ``[groups, n, in/group * taps]`` float32 of a Conv at output positions, or a product's rows.

    positions: image by image, as `sample_patches` has them.
    """
    if op_of(node) != "Conv":
        rows = positions[0] if x.ndim == 2 else np.ravel_multi_index(positions, (x.shape[0], *output_size(x, node)))
        return np.asarray(x, np.float32).reshape(math.prod(x.shape[:-1]), x.shape[-1])[rows][None]
    groups, maps = int(node.attrs.get("group", 1)), np.ascontiguousarray(x, np.float32)
    channels, images = maps.shape[1], positions[0]
    places, outside = _places(maps.shape[2:], node, positions[1:], len(images))
    taps, planes = len(places), maps.reshape(len(maps), channels, math.prod(maps.shape[2:]))
    # Channel by channel, as the map lies in memory; what comes back is a transposed view, which products read as well.
    patches = np.empty((channels, taps, len(images)), np.float32)
    bounds = np.searchsorted(images, np.arange(len(maps) + 1))
    for image, (first, last) in enumerate(itertools.pairwise(bounds)):
        if last > first:
            found = planes[image].take(places[:, first:last].reshape(-1), axis=1)
            patches[:, :, first:last] = found.reshape(channels, taps, last - first)
    patches.reshape(channels, taps * len(images))[:, outside] = 0
    return patches.reshape(groups, channels // groups * taps, len(images)).transpose(0, 2, 1)


def _places(
    size: tuple[int, ...], node: gs.Node, positions: tuple[npt.NDArray[np.intp], ...], count: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Where in a flat map each tap reads at output positions, ``[taps, count]``; which of these, flat, are padding."""
    (kernel, strides, dilations), pads = conv_geometry(node), conv_pads(size, node)
    places, inside = np.zeros((*kernel, count), np.intp), np.ones((*kernel, count), bool)
    for axis, (position, extent) in enumerate(zip(positions, size, strict=True)):
        offsets = np.arange(kernel[axis]) * dilations[axis] - pads[axis][0]
        at = position * strides[axis] + offsets[:, None]
        shape = tuple(kernel[axis] if i == axis else 1 for i in range(len(kernel)))
        inside &= ((at >= 0) & (at < extent)).reshape(*shape, count)
        places *= extent
        places += np.clip(at, 0, extent - 1).reshape(*shape, count)
    return places.reshape(math.prod(kernel), count), np.flatnonzero(~inside)
