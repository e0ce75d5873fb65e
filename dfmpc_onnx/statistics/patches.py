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
    groups = int(node.attrs.get("group", 1))
    (kernel, strides, dilations), pads = conv_geometry(node), conv_pads(x.shape[2:], node)
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
    return patches.reshape(groups, channels // groups * math.prod(kernel), len(images)).transpose(0, 2, 1)
