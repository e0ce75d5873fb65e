"""Streams of images whose float network sees, in front of each layer, what its BatchNormalizations saw in training.

In batch-statistics mode the output of a BatchNormalization has the mean and deviation of training on any images, but
what lies between one and the next, correlations of channels and of neighbours, is the images' own: on procedural ones
the next Conv's outputs have other means and deviations than that Conv's BatchNormalization measured. So what the Conv
reads is moved (`dfmpc_onnx.numerics.recolouring`), in both networks by the same, and everything behind sees that.

The correction is fitted to some of the images. How much of it is kept is decided by others, layer by layer.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.channels import channel_readings
from dfmpc_onnx.graph.conv import conv_geometry, conv_pads, output_size
from dfmpc_onnx.graph.operators import batch_norm_parameters, op_of
from dfmpc_onnx.graph.query import constant, consumers
from dfmpc_onnx.numerics.arrays import Float32
from dfmpc_onnx.numerics.batch_norm import BatchNormParameters
from dfmpc_onnx.numerics.recolouring import Correction, Line, fit, response_of_outputs
from dfmpc_onnx.runtime.node_runner import NodeRunner
from dfmpc_onnx.statistics.channel_statistics import channel_moments
from dfmpc_onnx.statistics.image_streams import LARGEST_VALUE, Both, ImageStreams
from dfmpc_onnx.statistics.walk import bias_of

FITTED_POSITIONS = 4096  # of a layer's output, that a correction is fitted to, and as many that decide on it
FEWEST_FITTED = 8  # images
WINDOW = 32  # height and width of what is looked at of a larger map
VALUES_MOVED = 2**18  # that are moved, so that they stay in the processor's cache
SHARES_KEPT = np.linspace(0.0, 1.0, 11)  # shares of a correction that are tried
READ = "read"  # by the maps that are run by themselves
LEAST_FALL = 0.1  # of the mismatch of the deciding images, below which a layer stays as it is


class RecolouredStreams(ImageStreams):
    """The engine of images with the correction."""

    @functools.cached_property
    def moved(self) -> dict[str, tuple[float, float]]:
        """The mismatch before and after, by layer."""
        return {}

    def advance(self, node: gs.Node) -> None:
        for tensor in node.outputs:
            if tensor.name in self.live:
                for reader in consumers(tensor):
                    self._correct(reader, tensor.name)

    def _correct(self, node: gs.Node, name: str) -> None:
        """Move what a Conv is about to read, where a BatchNormalization behind it says how."""
        norm = norm_behind(self._graph, node) if node.inputs[0].name == name else None
        both = self.live[name]
        x = both.plain
        if norm is None or not isinstance(x, np.ndarray) or x.dtype != np.float32 or len(x) < 2 * FEWEST_FITTED:
            return
        low, high = x.min(), x.max()
        if not max(-low, high) <= LARGEST_VALUE:
            return  # what cannot be measured is reported where it is
        layer = _Layer(self._graph, node, np.asarray(x, np.float32))
        correction = layer.correction(norm)
        if correction is not None:
            self.moved[node.name] = layer.mismatch
            self.live.put(name, _moved(both, layer, correction, (low, high)))


def _moved(both: Both, layer: _Layer, correction: Correction, bounds: tuple[np.float32, np.float32]) -> Both:
    """Both streams with the same change, each within the range that it had: what was rectified stays so."""
    x, old = np.asarray(both.plain, np.float32), np.asarray(both.hat, np.float32)
    moved = np.empty_like(x)
    hat = moved if both.same else np.empty_like(x)
    lowest, highest = min(bounds[0], old.min()), max(bounds[1], old.max())
    step = max(1, VALUES_MOVED // x[0].size)
    for part in (slice(first, first + step) for first in range(0, len(x), step)):
        np.add(x[part], layer.change(correction, x[part]), out=moved[part])
        np.clip(moved[part], *bounds, out=moved[part])
        if not both.same:
            np.subtract(moved[part], x[part], out=hat[part])
            hat[part] += old[part]
            np.clip(hat[part], lowest, highest, out=hat[part])
    return Both(moved, hat)


def norm_behind(graph: gs.Graph, node: gs.Node) -> BatchNormParameters | None:
    """What the first BatchNormalization behind a Conv measured of its outputs; None where there is none, or where its
    weight or bias is computed."""
    if op_of(node) != "Conv" or constant(node.inputs[1]) is None:
        return None
    if len(node.inputs) > 2 and not node.inputs[2].is_empty() and bias_of(node) is None:
        return None
    readings = channel_readings(graph, node.outputs[0])
    if isinstance(readings, str):
        return None
    for reading in readings:
        norm = batch_norm_parameters(reading.node) if op_of(reading.node) == "BatchNormalization" else None
        if norm is not None:
            return norm.channels(reading.offset, len(node.inputs[1].values))
    return None


class _Pointwise:
    """A Conv of one tap a channel pair, and its transpose: products of matrices."""

    def __init__(self, weight: Float32) -> None:
        self._weight = weight.reshape(weight.shape[:2])

    def forward(self, x: Float32) -> Float32:
        return self._product(self._weight, x)

    def back(self, g: Float32) -> Float32:
        return self._product(self._weight.T, g)

    @staticmethod
    def _product(weight: Float32, x: Float32) -> Float32:
        result: Float32 = np.matmul(weight, x.reshape(*x.shape[:2], -1))
        return result.reshape(len(x), len(weight), *x.shape[2:])


class _Convolution:
    """A Conv without its bias, on maps of one size, and its transpose, in onnxruntime."""

    def __init__(self, graph: gs.Graph, node: gs.Node, size: tuple[int, ...]) -> None:
        self._forward = NodeRunner(graph, without_bias(node))
        self._back = NodeRunner(graph, transpose_of(node, size))

    def forward(self, x: Float32) -> Float32:
        (y,) = self._forward({READ: x})
        return np.asarray(y, np.float32)

    def back(self, g: Float32) -> Float32:
        (x,) = self._back({READ: g})
        return np.asarray(x, np.float32)


class _Layer:
    """A Conv as a linear map A and its transpose, on what it reads."""

    def __init__(self, graph: gs.Graph, node: gs.Node, x: Float32) -> None:
        self._x, self._graph, self._node = x, graph, node
        self._weight = np.asarray(constant(node.inputs[1]), np.float32)
        bias = bias_of(node)
        self._bias = np.zeros(len(self._weight)) if bias is None else np.asarray(bias, np.float64).reshape(-1)
        self._map = self._map_of(x.shape[2:])
        self._cropped: _Convolution | None = None  # for windows of large maps
        self.mismatch = 0.0, 0.0

    def _map_of(self, size: tuple[int, ...]) -> _Pointwise | _Convolution:
        node = self._node
        kernel, strides, _ = conv_geometry(node)
        alone = math.prod(kernel) * math.prod(strides) * int(node.attrs.get("group", 1)) == 1
        if alone and not any(map(sum, conv_pads(size, node))):
            return _Pointwise(self._weight)
        return _Convolution(self._graph, node, size)

    def correction(self, norm: BatchNormParameters) -> Correction | None:
        """By which its outputs come next to what was measured; None where none helps."""
        norm = norm.without_bias(self._bias)
        count = self._count()
        y = self._map.forward(self._x[: 2 * count])
        self._metric = channel_moments(self._x[: 2 * count])[1]
        y, seen = self._window(y[:count]), self._window(y[count:])
        found = fit(y, self._response, response_of_outputs(self._weight, self._metric), norm)
        share, after, before = Line.of(seen, self._response(found.of(seen))).best(norm, SHARES_KEPT)
        self.mismatch = before, after
        return found.scaled(share) if after <= (1 - LEAST_FALL) * before else None

    def _count(self) -> int:
        """How many images a correction is fitted to, and as many decide on it."""
        size = output_size(self._x, self._node)
        positions = math.prod(min(extent, WINDOW) for extent in size)
        return min(max(FEWEST_FITTED, -(-FITTED_POSITIONS // positions)), len(self._x) // 2)

    def _window(self, y: Float32) -> Float32:
        """A part from the middle of large maps, which says as much."""
        parts = tuple(
            slice((extent - WINDOW) // 2, (extent + WINDOW) // 2) if extent > WINDOW else slice(None)
            for extent in y.shape[2:]
        )
        return np.ascontiguousarray(y[(slice(None), slice(None), *parts)])

    def change(self, correction: Correction, x: Float32) -> Float32:
        """The change of some of the images."""
        return self._transposed(self._map, correction.of(self._map.forward(x)))

    def _transposed(self, linear: _Pointwise | _Convolution, g: Float32) -> Float32:
        x = linear.back(g)
        x *= self._metric.astype(np.float32).reshape(-1, *(1,) * (g.ndim - 2))
        return x

    def _response(self, g: Float32) -> Float32:
        near = self._near(g.shape[2:])
        return near.forward(self._transposed(near, g))

    def _near(self, size: tuple[int, ...]) -> _Pointwise | _Convolution:
        """The map whose outputs have that size."""
        if isinstance(self._map, _Pointwise) or size == output_size(self._x, self._node):
            return self._map
        if self._cropped is None:
            self._cropped = _Convolution(self._graph, *cropped(self._node, self._x.shape[2:], size))
        return self._cropped


def cropped(node: gs.Node, whole: tuple[int, ...], size: tuple[int, ...]) -> tuple[gs.Node, tuple[int, ...]]:
    """A Conv with the padding of whole maps, and the size of the maps of which it makes outputs of another size."""
    (kernel, strides, dilations), pads = conv_geometry(node), conv_pads(whole, node)
    inner = tuple(
        (extent - 1) * s + (k - 1) * d + 1 - a - b
        for extent, k, s, d, (a, b) in zip(size, kernel, strides, dilations, pads, strict=True)
    )
    attrs = {**node.attrs, "auto_pad": "NOTSET", "pads": [a for a, _ in pads] + [b for _, b in pads]}
    inputs = [gs.Variable(READ), *node.inputs[1:]]
    return gs.Node("Conv", node.name, attrs, inputs, [gs.Variable("y")]), inner


def without_bias(node: gs.Node) -> gs.Node:
    weight = np.asarray(constant(node.inputs[1]), np.float32)
    inputs = [gs.Variable(READ), gs.Constant("weight", weight)]
    return gs.Node("Conv", node.name, dict(node.attrs), inputs, [gs.Variable("y")])


def transpose_of(node: gs.Node, size: tuple[int, ...]) -> gs.Node:
    """The ConvTranspose that is the transpose of a Conv, without its bias, on maps of a size."""
    weight = np.asarray(constant(node.inputs[1]), np.float32)
    (kernel, strides, dilations), pads = conv_geometry(node), conv_pads(size, node)
    left = [
        (extent + a + b - (k - 1) * d - 1) % s
        for extent, k, s, d, (a, b) in zip(size, kernel, strides, dilations, pads, strict=True)
    ]
    attrs = {
        "group": int(node.attrs.get("group", 1)),
        "kernel_shape": list(kernel),
        "strides": list(strides),
        "dilations": list(dilations),
        "pads": [a for a, _ in pads] + [b for _, b in pads],
        "output_padding": left,
    }
    inputs = [gs.Variable(READ), gs.Constant("weight", weight)]
    return gs.Node("ConvTranspose", node.name, attrs, inputs, [gs.Variable("x")])
