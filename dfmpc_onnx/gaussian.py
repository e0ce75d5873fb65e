"""Two networks, float and quantized, as one Gaussian process that advances through a graph: statistics without images.

Each tensor has 2 C channels, the float network's and behind them the quantized one's, a mean, a covariance function,
and covariance functions with the other tensors that still have readers, so that a residual sum knows how its
operands hang together. Visitors are those of `dfmpc_onnx.activations`; the module there runs images instead.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from dfmpc_onnx.activations import ChannelStatistics, Visitor, conv_geometry, reads
from dfmpc_onnx.facts import Float
from dfmpc_onnx.graph import constant, has_input, input_constant
from dfmpc_onnx.numerics import gaussian_process as gp
from dfmpc_onnx.numerics.least_squares import PatchMoments
from dfmpc_onnx.preprocess import Preprocess
from dfmpc_onnx.propagation import Unknown, batch_norm_parameters, clip_bounds, input_moments

ELEMENTS = 2**20  # of one covariance function: decides the window of lags
MOST_ELEMENTS = 2**25
LARGEST_WINDOW = 24  # beyond twelve pixels of a map correlations change little
SMALLEST_WINDOW = 5  # lags that a patch of 3x3 needs
DEFAULT_SIDE = 224
SAMPLES = 10**6  # a derived covariance has no sampling noise


@dataclasses.dataclass(frozen=True)
class Cross:
    """Covariance with another tensor, as a spectrum: it only ever meets linear maps. step: the stride of its grid."""

    spectrum: gp.Spectrum
    grid: tuple[int, int]
    step: int

    def scaled(self, gain: npt.NDArray[np.float32]) -> Cross:
        return dataclasses.replace(self, spectrum=self.spectrum * gain[:, None])

    def transposed(self) -> Cross:
        return dataclasses.replace(self, spectrum=self.spectrum.conj().swapaxes(1, 2))

    def coarser(self, step: int) -> Cross:
        """On a grid of a larger stride."""
        if step == self.step:
            return self
        factor = step // self.step
        lags = gp.decimate(gp.to_lags(self.spectrum, self.grid), (factor, factor))
        return Cross(gp.to_spectrum(lags), (lags.shape[0], lags.shape[1]), step)


@dataclasses.dataclass(frozen=True)
class Field:
    """One tensor. mean: ``[2 C]``; lags: own covariance; size: height and width of the map.

    others: covariance with other tensors by name. stride: pixels of the input between neighbours of this map.
    """

    mean: Float
    lags: gp.Lags
    size: tuple[int, int]
    stride: int
    others: dict[str, Cross]

    @property
    def channels(self) -> int:
        return len(self.mean) // 2

    @property
    def variance(self) -> Float:
        return np.maximum(np.diagonal(self.lags[0, 0]).astype(np.float64), np.float64(0))

    @property
    def grid(self) -> tuple[int, int]:
        return self.lags.shape[0], self.lags.shape[1]


class GaussianStreams:
    """Walks a graph; see the module's text. Raises Unknown where a node has no rule."""

    def __init__(
        self, graph: gs.Graph, shapes: dict[str, tuple[int, ...]], preprocess: Preprocess, layers: frozenset[str]
    ) -> None:
        self._graph = graph
        self._layers = layers
        self._live: dict[str, Field] = {}
        self._left: dict[str, int] = {}
        for node in graph.nodes:
            for tensor in reads(node):
                self._left[tensor.name] = self._left.get(tensor.name, 0) + 1
        for node in graph.nodes:
            if node.op == "Conv" and isinstance(node.inputs[1], gs.Constant):
                self._window((DEFAULT_SIDE, DEFAULT_SIDE), int(node.inputs[1].shape[0]))  # refuse before any work
        for tensor in graph.inputs:
            self._live[tensor.name] = self._input(tensor, shapes[tensor.name], preprocess)

    def _input(self, tensor: gs.Tensor, shape: tuple[int, ...], preprocess: Preprocess) -> Field:
        moments = input_moments(tensor, preprocess)
        if moments is None or len(shape) != 4:
            raise Unknown("an input is no image")
        channels = len(moments.mean)
        std = np.sqrt(moments.variance)
        colours = 0.8 * np.outer(std, std) + 0.2 * np.diag(moments.variance)
        size = (int(shape[2]), int(shape[3]))
        lags = gp.window(gp.natural_prior(*size, colours), *self._window(size, channels))
        joint = np.tile(lags, (1, 1, 2, 2))
        return Field(np.tile(moments.mean, 2), joint, size, 1, {})

    @staticmethod
    def _window(size: tuple[int, int], channels: int) -> tuple[int, int]:
        square = 4 * channels * channels
        if square * SMALLEST_WINDOW**2 > MOST_ELEMENTS and min(size) >= SMALLEST_WINDOW:
            raise Unknown(f"{channels} channels are too many for covariance functions")
        side = min(max(int((ELEMENTS / square) ** 0.5), SMALLEST_WINDOW), LARGEST_WINDOW)
        return min(size[0], side), min(size[1], side)

    def run(self, visitor: Visitor) -> None:
        """One pass through the graph."""
        for node in self._graph.nodes:
            if node.name in self._layers:
                result = self._layer(node, visitor)
            elif node.op == "BatchNormalization":
                result = self._batch_norm(node, visitor)
            elif node.op in ("Conv", "Gemm", "MatMul"):
                result = self._linear(node, self._field(node, 0), None, None)
            else:
                result = self._other(node)
            for tensor in reads(node):
                self._left[tensor.name] -= 1
                if self._left[tensor.name] == 0:
                    self._live.pop(tensor.name, None)
            name = node.outputs[0].name
            if self._left.get(name):
                others = {k: v for k, v in result.others.items() if k in self._live}
                self._live[name] = dataclasses.replace(result, others=others)

    def _field(self, node: gs.Node, index: int) -> Field:
        name = node.inputs[index].name
        if name not in self._live:
            raise Unknown(f"the covariance of '{name}' is not known")
        return self._live[name]

    # -- layers

    def _layer(self, node: gs.Node, visitor: Visitor) -> Field:
        x = self._field(node, 0)
        old = np.asarray(constant(node.inputs[1]), np.float32)
        bias = input_constant(node, 2)
        visitor.layer(node, lambda: self._moments(node, x, old))
        fresh = np.asarray(constant(node.inputs[1]), np.float32)
        result = self._linear(node, x, old, fresh)
        half = result.channels
        shift = result.mean[:half] - result.mean[half:]
        visitor.after_layer(node, (lambda: shift) if np.any(shift) else None)
        changed = input_constant(node, 2)
        if changed is not None and (bias is None or not np.array_equal(bias, changed)):
            mean = result.mean.copy()
            mean[half:] += np.asarray(changed, np.float64).reshape(-1)
            if bias is not None:
                mean[half:] -= np.asarray(bias, np.float64).reshape(-1)
            result = dataclasses.replace(result, mean=mean)
        return result

    def _moments(self, node: gs.Node, x: Field, weight: npt.NDArray[np.float32]) -> PatchMoments:
        """Second moments of the patches that a layer reads, corrected by the BatchNormalization behind it."""
        groups = int(node.attrs.get("group", 1)) if node.op == "Conv" else 1
        kernel, _, dilations = _planar(node)
        per_group = x.channels // groups
        found = []
        for group in range(groups):
            own = np.arange(group * per_group, (group + 1) * per_group)
            both = np.concatenate([own, own + x.channels])
            covariance = gp.patch_covariance(x.lags[:, :, both[:, None], both], kernel, dilations)
            mean = np.repeat(x.mean[both], kernel[0] * kernel[1])
            found.append(self._corrected(node, weight, group, groups, covariance, mean))
        k = len(found[0][1]) // 2
        second = np.stack([c + np.outer(m, m) for c, m in found])
        means = np.stack([m for _, m in found])
        return PatchMoments(
            second[:, k:, k:],
            second[:, :k, k:],
            second[:, :k, :k],
            means[:, :k],
            means[:, k:],
            np.zeros(groups),
            SAMPLES,
        )

    def _corrected(
        self, node: gs.Node, weight: npt.NDArray[np.float32], group: int, groups: int, covariance: Float, mean: Float
    ) -> tuple[Float, Float]:
        readers = node.outputs[0].outputs
        norm = (
            batch_norm_parameters(readers[0]) if len(readers) == 1 and readers[0].op == "BatchNormalization" else None
        )
        if norm is None or node.op != "Conv":
            return covariance, mean
        rows = weight.reshape(groups, len(weight) // groups, -1)[group].astype(np.float64)
        part = slice(group * len(rows), (group + 1) * len(rows))
        bias = input_constant(node, 2)
        true_mean = norm.mean if bias is None else norm.mean - np.asarray(bias, np.float64)
        padded = np.concatenate([rows, np.zeros_like(rows)], axis=1)
        return gp.measured(covariance, mean, padded, true_mean[part], norm.std[part])

    def _linear(
        self, node: gs.Node, x: Field, plain: npt.NDArray[np.float32] | None, hat: npt.NDArray[np.float32] | None
    ) -> Field:
        """A Conv or matrix product, with one weight for the float half and one for the other."""
        weight = np.asarray(input_constant(node, 1), np.float32)
        plain, hat = (weight if plain is None else plain), (weight if hat is None else hat)
        _, strides, dilations = _planar(node)
        if node.op == "Conv":
            joined = [_dense(w, int(node.attrs.get("group", 1)), x.channels) for w in (plain, hat)]
        else:
            axis = 0 if node.attrs.get("transB", 0) else 1
            joined = [(w if axis == 0 else w.T)[:, :, None, None] for w in (plain, hat)]
        if joined[0].shape[1] != x.channels:
            raise Unknown("its input's channels are not known")
        out, inputs = joined[0].shape[:2]
        weights = np.stack(joined)
        sums = weights.sum(axis=(3, 4), dtype=np.float64)
        mean = np.concatenate([sums[0] @ x.mean[:inputs], sums[1] @ x.mean[inputs:]])
        if has_input(node, 2):
            bias = input_constant(node, 2)
            if bias is None or bias.size != out:
                raise Unknown("its bias is not one number a channel")
            mean = mean + np.tile(np.asarray(bias, np.float64).reshape(-1), 2)
        size = tuple(max(-(-s // step), 1) for s, step in zip(x.size, strides, strict=True))
        spectrum = gp.to_spectrum(x.lags)
        mapped = gp.apply_both(spectrum, gp.kernel_spectrum(weights, x.grid, dilations))
        own = gp.decimate(gp.to_lags(mapped, x.grid), strides)
        own = gp.window(own, *self._window((size[0], size[1]), out))
        stride = x.stride * strides[0]
        others = {}
        for name, cross in self._neighbours(node, x, spectrum).items():
            spread = (dilations[0] * (x.stride // cross.step), dilations[1] * (x.stride // cross.step))
            left = gp.apply_left(cross.spectrum, gp.kernel_spectrum(weights, cross.grid, spread))
            moved = dataclasses.replace(cross, spectrum=left)
            others[name] = moved.coarser(min(stride, self._live[name].stride))
        return Field(mean, own, (size[0], size[1]), stride, others)

    # -- normalization and activations

    def _batch_norm(self, node: gs.Node, visitor: Visitor) -> Field:
        x = self._field(node, 0)
        norm = batch_norm_parameters(node)
        if norm is None:
            raise Unknown("a BatchNormalization's parameters are computed")
        half = x.channels
        cross = np.einsum("ii->i", x.lags[0, 0, :half, half:]).astype(np.float64)
        statistics = ChannelStatistics(
            x.mean[:half], x.variance[:half], x.mean[half:], x.variance[half:], cross, SAMPLES
        )
        epsilon = float(node.attrs.get("epsilon", 1e-5))
        scale_hat, shift_hat = visitor.batch_norm(node, statistics)
        factor = norm.gamma / np.sqrt(statistics.variance + epsilon)
        return self._scaled(
            node,
            x,
            np.concatenate([factor, scale_hat]),
            np.concatenate([norm.beta - factor * statistics.mean, shift_hat]),
        )

    def _scaled(self, node: gs.Node, x: Field, factor: Float, offset: Float) -> Field:
        gain = factor.astype(np.float32)
        others = {name: cross.scaled(gain) for name, cross in self._neighbours(node, x).items()}
        return dataclasses.replace(
            x, mean=x.mean * factor + offset, lags=x.lags * (gain[:, None] * gain), others=others
        )

    def _neighbours(self, node: gs.Node, x: Field, spectrum: gp.Spectrum | None = None) -> dict[str, Cross]:
        """The covariances that a node's output inherits: those of its input, and with the input if that lives on."""
        found = {name: cross for name, cross in x.others.items() if name in self._live}
        name = node.inputs[0].name
        for other, field in self._live.items():
            if name in field.others and other not in found:
                found[other] = field.others[name].transposed()
        if self._left[name] > 1:
            found[name] = Cross(gp.to_spectrum(x.lags) if spectrum is None else spectrum, x.grid, x.stride)
        return found

    def _other(self, node: gs.Node) -> Field:
        if node.op in ("Relu", "Clip"):
            x = self._field(node, 0)
            activation = gp.clip_activation(x.mean, x.variance, *clip_bounds(node))
            lags = gp.activate(x.lags, x.variance, activation, x.channels)
            gain = activation.gain.astype(np.float32)
            others = {name: cross.scaled(gain) for name, cross in self._neighbours(node, x).items()}
            return dataclasses.replace(x, mean=activation.mean, lags=lags, others=others)
        if node.op == "Add":
            return self._add(node)
        if node.op == "GlobalAveragePool":
            x = self._field(node, 0)
            return Field(x.mean, x.lags.mean(axis=(0, 1), keepdims=True), (1, 1), x.stride, {})
        if node.op in ("MaxPool", "AveragePool", "Slice"):
            x = self._field(node, 0)
            steps = _steps(node)
            size = (max(-(-x.size[0] // steps[0]), 1), max(-(-x.size[1] // steps[1]), 1))
            stride = x.stride * steps[0]
            others = {
                name: cross.coarser(min(stride, self._live[name].stride))
                for name, cross in self._neighbours(node, x).items()
            }
            own = gp.window(gp.decimate(x.lags, steps), *self._window(size, x.channels))
            return Field(x.mean, own, size, stride, others)
        if node.op == "Pad":
            return self._pad(node)
        if node.op == "Flatten":
            x = self._field(node, 0)
            if x.size != (1, 1):
                raise Unknown("a map is flattened before it is pooled")
            return x
        if node.op in ("Identity", "Dropout", "Softmax", "Reshape", "Transpose") and not any(
            n for t in node.outputs for n in t.outputs
        ):
            return self._field(node, 0)
        raise Unknown(f"no rule for {node.op}")

    def _add(self, node: gs.Node) -> Field:
        a, b = self._field(node, 0), self._field(node, 1)
        if a.grid != b.grid or a.channels != b.channels:
            raise Unknown("a sum of maps of different size")
        first, second = node.inputs[0].name, node.inputs[1].name
        lags = a.lags + b.lags
        cross = a.others.get(second)
        if cross is None and first in b.others:
            cross = b.others[first].transposed()
        if cross is not None:
            between = gp.window(gp.to_lags(cross.spectrum, cross.grid), *a.grid)
            lags = lags + between + gp.transposed(between)
        others: dict[str, Cross] = {}
        for part in (a, b):
            for name, value in part.others.items():
                if name not in self._live or name in (first, second):
                    continue
                if name in others:
                    value = dataclasses.replace(value, spectrum=others[name].spectrum + value.spectrum)
                others[name] = value
        return Field(a.mean + b.mean, lags, a.size, a.stride, others)

    def _pad(self, node: gs.Node) -> Field:
        """Channels of zeros in front and behind, as a shortcut without weights has them."""
        x = self._field(node, 0)
        pads = input_constant(node, 1)
        if pads is None or pads.size != 8 or any(int(p) for i, p in enumerate(pads) if i % 4 in (0,)):
            raise Unknown("its pads are not constant")
        before, after = int(pads[1]), int(pads[5])
        if before == after == 0:
            return x
        channels = x.channels + before + after
        index = np.arange(x.channels) + before
        index = np.concatenate([index, index + channels])
        mean = np.zeros(2 * channels)
        mean[index] = x.mean
        lags = np.zeros((*x.grid, 2 * channels, 2 * channels), np.float32)
        lags[:, :, index[:, None], index] = x.lags
        others = {}
        for name, cross in self._neighbours(node, x).items():
            wide = np.zeros((len(cross.spectrum), 2 * channels, cross.spectrum.shape[2]), np.complex64)
            wide[:, index] = cross.spectrum
            others[name] = dataclasses.replace(cross, spectrum=wide)
        return Field(mean, gp.window(lags, *self._window(x.size, channels)), x.size, x.stride, others)


def _dense(weight: npt.NDArray[np.float32], groups: int, channels: int) -> npt.NDArray[np.float32]:
    """A grouped Conv's weight as that of a Conv without groups."""
    if groups == 1:
        return weight
    out, per_group = weight.shape[:2]
    dense = np.zeros((out, channels, *weight.shape[2:]), np.float32)
    for index in range(out):
        start = index // (out // groups) * per_group
        dense[index, start : start + per_group] = weight[index]
    return dense


Pair = tuple[int, int]


def _planar(node: gs.Node) -> tuple[Pair, Pair, Pair]:
    """Kernel, strides and dilations of a Conv over height and width; ones for a matrix product."""
    if node.op != "Conv":
        return (1, 1), (1, 1), (1, 1)
    kernel, strides, dilations = conv_geometry(node)
    if len(kernel) != 2:
        raise Unknown(f"a Conv over {len(kernel)} dimensions")
    return (kernel[0], kernel[1]), (strides[0], strides[1]), (dilations[0], dilations[1])


def _steps(node: gs.Node) -> tuple[int, int]:
    """The stride of a pooling or a slice over height and width."""
    if node.op != "Slice":
        steps = node.attrs.get("strides", (1, 1))
        return int(steps[0]), int(steps[1])
    axes, step = input_constant(node, 3), input_constant(node, 4)
    if axes is None or not {int(a) for a in axes} <= {2, 3}:
        raise Unknown("a slice along other axes than height and width")
    found = {int(a): 1 if step is None else int(step[i]) for i, a in enumerate(axes)}
    return found.get(2, 1), found.get(3, 1)
