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

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.graph.channels import channel_readings, joins_channels
from dfmpc_onnx.graph.conv import map_size, planar, steps_of, taps_seen, within_map
from dfmpc_onnx.graph.operators import averages_space, batch_norm_parameters, clip_bounds, elementwise, flattens_each
from dfmpc_onnx.graph.query import constant, has_input, input_constant, reads
from dfmpc_onnx.inputs.spec import DEFAULT_SIDE, InputSpec, InputSpecs
from dfmpc_onnx.numerics import gaussian_process as gp
from dfmpc_onnx.numerics import lags as lg
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.least_squares import GivenMoments, PatchMoments
from dfmpc_onnx.statistics.error_at_next_layer import Moments
from dfmpc_onnx.statistics.gaussian_field import Cross, Field, Kernels, check_fed, places
from dfmpc_onnx.statistics.image_streams import ChannelStatistics, Visitor, batch_deviation
from dfmpc_onnx.statistics.independent_moments import input_moments
from dfmpc_onnx.statistics.lag_windows import Windows

MOST_NUMBERS = 2**29  # two gigabytes of covariances that are kept at once
SAMPLES = 10**6  # a derived covariance has no sampling noise


class GaussianStreams:
    """Walks a graph; see the module's text. Raises Unknown where a node has no rule."""

    def __init__(self, graph: gs.Graph, inputs: InputSpecs, layers: frozenset[str]) -> None:
        self._graph = graph
        self._layers = layers
        self._windows = Windows(graph)
        self._live: dict[str, Field] = {}
        self._left: dict[str, int] = {}
        for node in graph.nodes:
            for tensor in reads(node):
                self._left[tensor.name] = self._left.get(tensor.name, 0) + 1
        for node in graph.nodes:
            if node.op == "Conv" and isinstance(node.inputs[1], gs.Constant):
                # refuse before any work
                self._windows.side(node.outputs[0].name, (DEFAULT_SIDE, DEFAULT_SIDE), int(node.inputs[1].shape[0]))
        for spec in inputs:
            self._live[spec.name] = self._input(spec)

    def _input(self, spec: InputSpec) -> Field:
        moments, shape = input_moments(spec), spec.shape
        if moments is None or len(shape) != 4:
            raise Unknown("an input is no image")
        channels = len(moments.mean)
        std = np.sqrt(moments.variance)
        colours = 0.8 * np.outer(std, std) + 0.2 * np.diag(moments.variance)
        size = (shape[2], shape[3])
        lags = lg.window(gp.natural_prior(*size, colours), *self._windows.side(spec.name, size, channels))
        joint = np.tile(lags, (1, 1, 2, 2))
        return Field(np.tile(moments.mean, 2), joint, size, 1, {})

    def run(self, visitor: Visitor) -> None:
        """One pass through the graph."""
        try:
            with np.errstate(over="raise", invalid="raise", divide="raise"):
                self._walk(visitor)
        except FloatingPointError as error:
            raise Unknown(f"covariances that are no numbers in float32: {error}") from None

    def _walk(self, visitor: Visitor) -> None:
        for node in self._graph.nodes:
            if node.name in self._layers and node.op != "ConvTranspose":
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
                if sum(field.numbers for field in self._live.values()) > MOST_NUMBERS:
                    raise Unknown("covariances between too many maps that are read again later")

    def _field(self, node: gs.Node, index: int) -> Field:
        name = node.inputs[index].name if index < len(node.inputs) else ""
        if name not in self._live:
            raise Unknown(f"the covariance of '{name}' is not known")
        return self._live[name]

    # -- layers

    def _layer(self, node: gs.Node, visitor: Visitor) -> Field:
        x = self._field(node, 0)
        old = np.asarray(constant(node.inputs[1]), np.float32)
        bias = input_constant(node, 2)
        check_fed(node, x, old)  # before the visitor measures what is not there
        visitor.layer(node, lambda: self._moments(node, x, old), self._known)
        fresh = np.asarray(constant(node.inputs[1]), np.float32)
        result = self._linear(node, self._anchored(node, x, old), old, fresh)
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

    def _known(self, tensor: gs.Tensor) -> Moments | None:
        """Mean and variance of a tensor's channels in the float network."""
        field = self._live.get(tensor.name)
        return None if field is None else (field.mean[: field.channels], field.variance[: field.channels])

    def _moments(self, node: gs.Node, x: Field, weight: npt.NDArray[np.float32]) -> PatchMoments:
        """Second moments of the patches that a layer reads, corrected by the BatchNormalization behind it."""
        groups = int(node.attrs.get("group", 1)) if node.op == "Conv" else 1
        kernel, _, dilations = planar(node)
        per_group = x.channels // groups
        measured, seen = self._measured(node), taps_seen(node, x.size) if node.op == "Conv" else np.ones((1, 1), bool)
        found = []
        for group in range(groups):
            own = np.arange(group * per_group, (group + 1) * per_group)
            both = np.concatenate([own, own + x.channels])
            covariance = gp.patch_covariance(x.lags[:, :, both[:, None], both], kernel, dilations)
            mean = np.repeat(x.mean[both], kernel[0] * kernel[1])
            if not seen.all():
                reads_map = np.tile(seen.reshape(-1), len(both))
                covariance, mean = covariance * np.outer(reads_map, reads_map), mean * reads_map
            if measured is not None:
                outputs = slice(group * len(weight) // groups, (group + 1) * len(weight) // groups)
                rows = weight[outputs].reshape(-1, len(mean) // 2).astype(np.float64)
                if len(rows) < per_group * seen.sum():  # more outputs than inputs cannot all be met
                    padded = np.concatenate([rows, np.zeros_like(rows)], axis=1)
                    covariance, mean = gp.measured(covariance, mean, padded, *(v[outputs] for v in measured))
            found.append((covariance, mean))
        k = len(found[0][1]) // 2
        covariances, means = np.stack([c for c, _ in found]), np.stack([m for _, m in found])
        second = gp.nearest_covariance(covariances) + means[:, :, None] * means[:, None, :]
        return GivenMoments(
            second[:, k:, k:],
            means[:, :k],
            means[:, k:],
            np.zeros(groups),
            SAMPLES,
            second[:, :k, k:],
            second[:, :k, :k],
        )

    def _anchored(self, node: gs.Node, x: Field, weight: npt.NDArray[np.float32]) -> Field:
        """A layer's input with the mean that its BatchNormalization saw behind it: what rounding shifts hangs on it."""
        measured = self._measured(node)
        groups = int(node.attrs.get("group", 1)) if node.op == "Conv" else 1
        if measured is None or groups != 1 or len(weight) >= x.channels:
            return x
        rows = within_map(node, weight, x.size).sum(axis=(2, 3), dtype=np.float64)
        padded = np.concatenate([rows, np.zeros_like(rows)], axis=1)
        _, mean = gp.measured(x.lags[0, 0].astype(np.float64), x.mean, padded, *measured)
        return dataclasses.replace(x, mean=mean)

    def _measured(self, node: gs.Node) -> tuple[Float, Float] | None:
        """Mean and deviation of a Conv's outputs without its bias, as a BatchNormalization behind it has them.

        Where several read it, through Concats, they have measured the same; the first is taken.
        """
        readings = channel_readings(self._graph, node.outputs[0]) if node.op == "Conv" else ""
        if isinstance(readings, str) or any(reading.node.op != "BatchNormalization" for reading in readings):
            return None
        whole = batch_norm_parameters(readings[0].node)
        if whole is None:
            return None
        norm = whole.channels(readings[0].offset, len(node.inputs[1].values))
        bias = input_constant(node, 2)
        return (norm.mean if bias is None else norm.mean - np.asarray(bias, np.float64)), norm.std

    def _linear(
        self, node: gs.Node, x: Field, plain: npt.NDArray[np.float32] | None, hat: npt.NDArray[np.float32] | None
    ) -> Field:
        """A Conv or matrix product, with one weight for the float half and one for the other."""
        values = input_constant(node, 1)
        if values is None:
            raise Unknown("its weight is computed")
        weight = np.asarray(values, np.float32)
        check_fed(node, x, weight)
        plain, hat = (within_map(node, weight if given is None else given, x.size) for given in (plain, hat))
        kernels = Kernels(node, plain, hat, x.channels)
        mean = kernels.mean(x.mean)
        if has_input(node, 2):
            bias = input_constant(node, 2)
            if bias is None or bias.size != kernels.out:
                raise Unknown("its bias is not one number a channel")
            mean = mean + np.tile(np.asarray(bias, np.float64).reshape(-1), 2)
        _, strides, _ = planar(node)
        self._even(node, x, strides)
        size = map_size(node, x.size, strides)
        own = kernels.both(x.lags, strides)
        own = lg.window(own, *self._windows.side(node.outputs[0].name, size, kernels.out))
        stride = x.stride * strides[0]
        others = {}
        for name, cross in self._neighbours(node, x).items():
            left = kernels.left(cross.spectrum, cross.grid, x.stride // cross.step)
            moved = dataclasses.replace(cross, spectrum=left)
            others[name] = moved.coarser(min(stride, self._live[name].stride))
        return Field(mean, own, size, stride, others, x.flat)

    # -- normalization and activations

    def _batch_norm(self, node: gs.Node, visitor: Visitor) -> Field:
        x = self._field(node, 0)
        norm = batch_norm_parameters(node)
        if norm is None:
            raise Unknown("a BatchNormalization's parameters are computed")
        half = x.channels
        statistics = ChannelStatistics(x.mean[:half], x.variance[:half], x.mean[half:], x.variance[half:], SAMPLES)
        epsilon = float(node.attrs.get("epsilon", 1e-5))
        scale_hat, shift_hat = visitor.batch_norm(node, statistics)
        factor = norm.gamma / batch_deviation(statistics.variance, epsilon)
        return self._scaled(
            node,
            x,
            np.concatenate([factor, scale_hat]),
            np.concatenate([norm.beta - factor * statistics.mean, shift_hat]),
        )

    def _even(self, node: gs.Node, x: Field, strides: tuple[int, int]) -> None:
        """Covariances with other tensors have one stride for both directions."""
        if strides[0] != strides[1] and self._neighbours(node, x):
            raise Unknown("beside branches, a stride that differs along height and width")

    def _scaled(self, node: gs.Node, x: Field, factor: Float, offset: Float, index: int = 0) -> Field:
        gain = factor.astype(np.float32)
        others = {name: cross.scaled(gain) for name, cross in self._neighbours(node, x, index).items()}
        return dataclasses.replace(
            x, mean=x.mean * factor + offset, lags=x.lags * (gain[:, None] * gain), others=others
        )

    def _neighbours(self, node: gs.Node, x: Field, index: int = 0) -> dict[str, Cross]:
        """The covariances that a node's output inherits: those of its input, and with the input if that lives on."""
        found = {name: cross for name, cross in x.others.items() if name in self._live}
        name = node.inputs[index].name
        for other, field in self._live.items():
            if name in field.others and other not in found:
                found[other] = field.others[name].transposed()
        if self._left[name] > 1:
            found[name] = Cross(lg.to_spectrum(x.lags), x.grid, x.stride)
        return found

    def _other(self, node: gs.Node) -> Field:
        if node.op in ("Add", "Sub", "Mul", "Div"):
            return self._arithmetic(node)
        if node.op == "Concat":
            return self._concat(node)
        x = self._field(node, 0)
        function = elementwise(node)
        if node.op in ("Relu", "Clip"):
            return self._activated(node, x, gp.clip_activation(x.mean, x.variance, *clip_bounds(node)))
        if function is not None:
            return self._activated(node, x, gp.function_activation(x.mean, x.variance, function))
        if node.op == "GlobalAveragePool" or (node.op == "ReduceMean" and averages_space(node)):
            flat = node.op == "ReduceMean" and not node.attrs.get("keepdims", 1)
            return dataclasses.replace(self._pooled(x), flat=flat)
        if node.op == "AveragePool" and tuple(node.attrs.get("kernel_shape", ())) == x.size:
            return self._pooled(x)
        if node.op in ("MaxPool", "AveragePool", "Slice"):
            return self._thinned(node, x)
        if node.op == "Pad":
            return self._pad(node)
        if node.op == "Flatten":
            if x.size != (1, 1) or not flattens_each(node):
                raise Unknown("a map is flattened before it is pooled")
            return dataclasses.replace(x, others={}, flat=True)
        if node.op in ("Identity", "Dropout"):
            return dataclasses.replace(x, others=self._neighbours(node, x))
        if node.op in ("Softmax", "Reshape", "Transpose") and not any(n for t in node.outputs for n in t.outputs):
            return x
        raise Unknown(f"no rule for {node.op}")

    def _activated(self, node: gs.Node, x: Field, activation: gp.Activation) -> Field:
        lags = gp.activate(x.lags, x.variance, activation, x.channels)
        gain = activation.gain.astype(np.float32)
        others = {name: cross.scaled(gain) for name, cross in self._neighbours(node, x).items()}
        return dataclasses.replace(x, mean=activation.mean, lags=lags, others=others)

    @staticmethod
    def _pooled(x: Field) -> Field:
        return Field(x.mean, lg.spatial_mean(x.lags, x.size)[None, None], (1, 1), x.stride, {})

    def _thinned(self, node: gs.Node, x: Field) -> Field:
        """Pooling over windows, or every n-th pixel. The largest of a window is taken as any one of it."""
        steps = steps_of(node)
        if node.op != "Slice":  # one for each direction, as exporters write x[:, :, ::2, ::2]; the second makes it even
            self._even(node, x, steps)
        size = map_size(node, x.size, steps)
        stride = x.stride * steps[0]
        lags, others = x.lags, self._neighbours(node, x)
        if node.op == "AveragePool":
            ky, kx = (int(k) for k in node.attrs["kernel_shape"])
            taps = np.full((2 * x.channels, ky, kx), 1 / (ky * kx), np.float32)
            lags = lg.depthwise_both(lags, lg.depthwise_spectrum(taps, x.grid, (1, 1)))
            for name, cross in others.items():
                step = x.stride // cross.step
                left = cross.spectrum * lg.depthwise_spectrum(taps, cross.grid, (step, step))[:, :, None]
                others[name] = dataclasses.replace(cross, spectrum=left)
        others = {name: c.coarser(min(stride, self._live[name].stride)) for name, c in others.items()}
        side = self._windows.side(node.outputs[0].name, size, x.channels)
        return Field(x.mean, lg.window(lg.decimate(lags, steps), *side), size, stride, others)

    def _arithmetic(self, node: gs.Node) -> Field:
        """A sum of two maps, or a map and one constant a channel."""
        for index in (0, 1):
            values = input_constant(node, index)
            if values is not None:
                return self._affine(node, index, np.asarray(values, np.float64))
        if node.op != "Add":
            raise Unknown(f"no rule for a {node.op} of two maps")
        return self._sum(node)

    def _affine(self, node: gs.Node, index: int, values: Float) -> Field:
        x = self._field(node, 1 - index)
        per_channel = (x.channels,) if x.flat else (x.channels, 1, 1)
        shape = values.shape[values.ndim - len(per_channel) :] if values.ndim > len(per_channel) else values.shape
        if values.size != 1 and (shape != per_channel or values.size != x.channels):
            raise Unknown("a constant operand is not one number a channel")
        constant_of = np.broadcast_to(values.reshape(-1), (x.channels,))
        one, zero = np.ones(x.channels), np.zeros(x.channels)
        if node.op == "Add":
            factor, offset = one, constant_of
        elif node.op == "Sub":
            factor, offset = (one, -constant_of) if index == 1 else (-one, constant_of)
        elif node.op == "Mul":
            factor, offset = constant_of, zero
        elif index == 1 and constant_of.all():
            factor, offset = 1.0 / constant_of, zero
        else:
            raise Unknown("a division by what is not constant")
        return self._scaled(node, x, np.tile(factor, 2), np.tile(offset, 2), 1 - index)

    def _sum(self, node: gs.Node) -> Field:
        a, b = self._field(node, 0), self._field(node, 1)
        if a.size != b.size or a.channels != b.channels:
            raise Unknown("a sum of maps of different size")
        first, second = node.inputs[0].name, node.inputs[1].name
        if a.size == (1, 1) and second not in a.others and first not in b.others:
            raise Unknown("a sum of averages, whose covariance is not followed")
        if first == second:
            return self._scaled(node, a, np.full(2 * a.channels, 2.0), np.zeros(2 * a.channels))
        side = self._windows.side(node.outputs[0].name, a.size, a.channels)
        lags = lg.window(a.lags, *side) + lg.window(b.lags, *side)
        between = self._between(first, second, side)
        if between is not None:
            lags += between
            lags += lg.transposed(between)
        others: dict[str, Cross] = {}
        for index, part in enumerate((a, b)):
            for name, value in self._neighbours(node, part, index).items():
                others[name] = others[name].plus(value) if name in others else value
        return Field(a.mean + b.mean, lags, a.size, a.stride, others, a.flat)

    def _between(self, first: str, second: str, side: tuple[int, int]) -> lg.Lags | None:
        """The covariance of one live tensor with another; None where they have nothing in common."""
        a, b = self._live[first], self._live[second]
        if first == second:
            return lg.window(a.lags, *side)
        cross = a.others.get(second)
        if cross is None and first in b.others:
            cross = b.others[first].transposed()
        return None if cross is None else lg.window(lg.to_lags(cross.spectrum, cross.grid), *side)

    def _concat(self, node: gs.Node) -> Field:
        """Maps side by side: their covariances, and those of each with each."""
        if not joins_channels(node):
            raise Unknown("it joins along another axis than the channels")
        parts = [self._field(node, index) for index in range(len(node.inputs))]
        if len({(part.size, part.stride) for part in parts}) > 1 or parts[0].flat:
            raise Unknown("what it joins are not maps of one size")
        total = sum(part.channels for part in parts)
        side = self._windows.side(node.outputs[0].name, parts[0].size, total)
        mean, lags = np.zeros(2 * total), np.zeros((*side, 2 * total, 2 * total), np.float32)
        found: list[tuple[str, npt.NDArray[np.intp]]] = []
        others: dict[str, Cross] = {}
        for number, (tensor, part) in enumerate(zip(node.inputs, parts, strict=True)):
            index = places(part.channels, sum(p.channels for p in parts[:number]), total)
            mean[index], lags[:, :, index[:, None], index] = part.mean, lg.window(part.lags, *side)
            for name, before in found:
                between = self._between(name, tensor.name, side)
                if between is None and parts[0].size == (1, 1):
                    raise Unknown("it joins averages, whose covariance is not followed")
                if between is not None:
                    lags[:, :, before[:, None], index] = between
                    lags[:, :, index[:, None], before] = lg.transposed(between)
            found.append((tensor.name, index))
            for name, cross in self._neighbours(node, part, number).items():
                wide = cross.among(index, 2 * total)
                others[name] = others[name].plus(wide) if name in others else wide
        return Field(mean, lags, parts[0].size, parts[0].stride, others)

    def _pad(self, node: gs.Node) -> Field:
        """Channels of zeros in front and behind, as a shortcut without weights has them."""
        x = self._field(node, 0)
        pads = input_constant(node, 1)
        if pads is None or pads.size != 8 or any(int(p) for i, p in enumerate(pads) if i % 4 in (0,)):
            raise Unknown("its pads are not constant")
        before, after, size = int(pads[1]), int(pads[5]), map_size(node, x.size, (1, 1))
        if before == after == 0:
            return dataclasses.replace(x, others=self._neighbours(node, x), size=size)
        channels = x.channels + before + after
        index = places(x.channels, before, channels)
        mean = np.zeros(2 * channels)
        mean[index] = x.mean
        lags = np.zeros((*x.grid, 2 * channels, 2 * channels), np.float32)
        lags[:, :, index[:, None], index] = x.lags
        others = {name: cross.among(index, 2 * channels) for name, cross in self._neighbours(node, x).items()}
        side = self._windows.side(node.outputs[0].name, size, channels)
        return Field(mean, lg.window(lags, *side), size, x.stride, others)
