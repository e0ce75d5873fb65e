"""Two networks, float and quantized, as one Gaussian process that advances through a graph: statistics without images.

Each tensor has 2 C channels, the float network's and behind them the quantized one's, a mean, a covariance function,
and covariance functions with the other tensors that still have readers, so that a residual sum knows how its
operands hang together. It is an engine of `dfmpc_onnx.statistics.walk`, as `image_streams` is, which runs images.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.graph.channels import joins_channels
from dfmpc_onnx.graph.conv import map_size, planar, steps_of, within_map
from dfmpc_onnx.graph.operators import (
    averages_space,
    clip_bounds,
    elementwise,
    flattens_each,
    is_clip,
    op_of,
)
from dfmpc_onnx.graph.query import constant, has_input, input_constant
from dfmpc_onnx.inputs.spec import DEFAULT_SIDE, InputSpec, InputSpecs
from dfmpc_onnx.numerics import gaussian_process as gp
from dfmpc_onnx.numerics import lags as lg
from dfmpc_onnx.numerics.arrays import Array, Float, Float32
from dfmpc_onnx.numerics.batch_norm import BatchNormParameters
from dfmpc_onnx.numerics.least_squares import PatchMoments
from dfmpc_onnx.numerics.moments import MeanVariance
from dfmpc_onnx.numerics.output_loss import OutputLoss
from dfmpc_onnx.runtime.threads import limit_blas
from dfmpc_onnx.statistics.channel_statistics import ChannelStatistics
from dfmpc_onnx.statistics.gaussian_field import Cross, Field, Kernels, check_input_channels, places
from dfmpc_onnx.statistics.gaussian_layers import anchor_mean, patch_moments
from dfmpc_onnx.statistics.independent_moments import input_moments
from dfmpc_onnx.statistics.lag_windows import Windows
from dfmpc_onnx.statistics.walk import Affine, Live

MOST_NUMBERS = 2**29  # two gigabytes of covariances that are kept at once


class GaussianStreams:
    """The engine of covariance functions. Raises Unknown where a node has no rule."""

    def __init__(self, graph: gs.Graph, inputs: InputSpecs) -> None:
        self._graph = graph
        self._windows = Windows(graph)
        self.live: Live[Field] = Live(graph, lambda field: 4 * field.numbers)
        for node in graph.nodes:
            if op_of(node) == "Conv" and isinstance(node.inputs[1], gs.Constant):
                # refuse before any work
                self._windows.side(node.outputs[0].name, (DEFAULT_SIDE, DEFAULT_SIDE), int(node.inputs[1].shape[0]))
        for spec in inputs:
            self.live.put(spec.name, self._input(spec))

    def _input(self, spec: InputSpec) -> Field:
        moments, shape = input_moments(spec), spec.shape
        if moments is None or len(shape) != 4:
            raise Unknown("an input is no image")
        if spec.channels_last:
            raise Unknown("an input has its channels last")
        channels = len(moments.mean)
        std = np.sqrt(moments.variance)
        colours = 0.8 * np.outer(std, std) + 0.2 * np.diag(moments.variance)
        size = spec.side
        lags = lg.window(gp.natural_prior(*size, colours), *self._windows.side(spec.name, size, channels))
        joint = np.tile(lags, (1, 1, 2, 2))
        return Field(np.tile(moments.mean, 2), joint, size, 1, {})

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Numbers that float32 cannot hold are refused. One thread for products: there are thousands of small ones."""
        try:
            # Threads would wait for each other at every one, and far longer on a busy machine.
            with (
                limit_blas(1),
                np.errstate(over="raise", invalid="raise", divide="raise"),
            ):
                yield
        except FloatingPointError as error:
            raise Unknown(f"covariances that are no numbers in float32: {error}") from None

    def advance(self, node: gs.Node) -> None:
        """Covariances with what is no longer read are dropped; raises Unknown where too many are left."""
        name = node.outputs[0].name
        if name in self.live:
            field = self.live[name]
            others = {k: v for k, v in field.others.items() if k in self.live}
            self.live.put(name, dataclasses.replace(field, others=others))
            if self.live.bytes > 4 * MOST_NUMBERS:
                raise Unknown("covariances between too many maps that are read again later")

    def values(self, output: Field) -> Float32 | None:
        """None: there are no values, only what they would be like."""

    def losses(self) -> list[OutputLoss]:
        """Of outputs nothing is known: the last layers' fields say how they err, not by how much."""
        return []

    def _field(self, node: gs.Node, index: int) -> Field:
        name = node.inputs[index].name if index < len(node.inputs) else ""
        if name not in self.live:
            raise Unknown(f"the covariance of '{name}' is not known")
        return self.live[name]

    # -- layers

    def check(self, node: gs.Node) -> None:
        x = self._field(node, 0)
        if op_of(node) == "ConvTranspose":
            raise Unknown(f"no rule for {node.op}")
        check_input_channels(node, x, _weight(node))  # before the visitor measures what is not there

    def layer(self, node: gs.Node, weight: Array, weight_hat: Float32 | None) -> Field:
        plain = np.asarray(weight, np.float32)
        hat = plain if weight_hat is None else weight_hat
        return self._linear(node, anchor_mean(self._graph, node, self._field(node, 0), plain), plain, hat)

    def shortfall(self, output: Field) -> Callable[[], Float] | None:
        half = output.channels
        shift = output.mean[:half] - output.mean[half:]
        return (lambda: shift) if np.any(shift) else None

    def with_bias(self, output: Field, old: Array | None, new: Float32) -> Field:
        mean = output.mean.copy()
        mean[output.channels :] += np.asarray(new, np.float64).reshape(-1)
        if old is not None:
            mean[output.channels :] -= np.asarray(old, np.float64).reshape(-1)
        return dataclasses.replace(output, mean=mean)

    def known(self, tensor: gs.Tensor) -> MeanVariance | None:
        field = self.live.get(tensor.name)
        return None if field is None else (field.mean[: field.channels], field.variance[: field.channels])

    def patch_moments(self, node: gs.Node) -> PatchMoments:
        return patch_moments(self._graph, node, self._field(node, 0), _weight(node))

    def _linear(
        self, node: gs.Node, x: Field, plain: npt.NDArray[np.float32] | None, hat: npt.NDArray[np.float32] | None
    ) -> Field:
        """A Conv or matrix product, with one weight for the float half and one for the other."""
        values = input_constant(node, 1)
        if values is None:
            raise Unknown("its weight is computed")
        weight = np.asarray(values, np.float32)
        check_input_channels(node, x, weight)
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
            left = kernels.left_product(cross.spectrum, cross.grid, x.stride // cross.step)
            moved = dataclasses.replace(cross, spectrum=left)
            others[name] = moved.coarser(min(stride, self.live[name].stride))
        return Field(mean, own, size, stride, others, x.flat)

    # -- normalization and activations

    def normalizes(self, node: gs.Node) -> bool:
        return True

    def channel_statistics(self, node: gs.Node, norm: BatchNormParameters) -> ChannelStatistics:
        x = self._field(node, 0)
        half = x.channels
        if len(norm.gamma) != half:
            raise Unknown("a BatchNormalization does not have as many channels as its input")
        return ChannelStatistics(x.mean[:half], x.variance[:half], x.mean[half:], x.variance[half:])

    def affine(self, node: gs.Node, plain: Affine, hat: Affine) -> Field:
        factor, offset = (np.concatenate(parts) for parts in zip(plain, hat, strict=True))
        return self._scale(node, self._field(node, 0), factor, offset)

    def _even(self, node: gs.Node, x: Field, strides: tuple[int, int]) -> None:
        """Covariances with other tensors have one stride for both directions."""
        if strides[0] != strides[1] and self._neighbours(node, x):
            raise Unknown("beside branches, a stride that differs along height and width")

    def _scale(self, node: gs.Node, x: Field, factor: Float, offset: Float, index: int = 0) -> Field:
        gain = factor.astype(np.float32)
        others = {name: cross.scaled(gain) for name, cross in self._neighbours(node, x, index).items()}
        return dataclasses.replace(
            x, mean=x.mean * factor + offset, lags=x.lags * (gain[:, None] * gain), others=others
        )

    def _neighbours(self, node: gs.Node, x: Field, index: int = 0) -> dict[str, Cross]:
        """The covariances that a node's output inherits: those of its input, and with the input if that lives on."""
        found = {name: cross for name, cross in x.others.items() if name in self.live}
        name = node.inputs[index].name
        for other, field in self.live.items():
            if name in field.others and other not in found:
                found[other] = field.others[name].transposed()
        if self.live.readers(name) > 1:
            found[name] = Cross(lg.to_spectrum(x.lags), x.grid, x.stride)
        return found

    def other(self, node: gs.Node) -> list[Field]:
        if op_of(node) == "BatchNormalization":
            raise Unknown("a BatchNormalization's parameters are computed")
        if op_of(node) in ("Conv", "Gemm", "MatMul"):
            return [self._linear(node, self._field(node, 0), None, None)]
        return [self._other(node)]

    def _other(self, node: gs.Node) -> Field:
        if op_of(node) in ("Add", "Sub", "Mul", "Div"):
            return self._arithmetic(node)
        if op_of(node) == "Concat":
            return self._concat(node)
        x = self._field(node, 0)
        function = elementwise(node)
        if is_clip(node):
            return self._activation(node, x, gp.clip_activation(x.mean, x.variance, *clip_bounds(node)))
        if function is not None:
            return self._activation(node, x, gp.function_activation(x.mean, x.variance, function))
        if op_of(node) == "GlobalAveragePool" or (op_of(node) == "ReduceMean" and averages_space(node)):
            flat = op_of(node) == "ReduceMean" and not node.attrs.get("keepdims", 1)
            return dataclasses.replace(self._average_over_map(x), flat=flat)
        if op_of(node) == "AveragePool" and tuple(node.attrs.get("kernel_shape", ())) == x.size:
            return self._average_over_map(x)
        if op_of(node) in ("MaxPool", "AveragePool", "Slice"):
            return self._decimate(node, x)
        if op_of(node) == "Pad":
            return self._pad(node)
        if op_of(node) == "Flatten":
            if x.size != (1, 1) or not flattens_each(node):
                raise Unknown("a map is flattened before it is pooled")
            return dataclasses.replace(x, others={}, flat=True)
        if op_of(node) in ("Identity", "Dropout"):
            return dataclasses.replace(x, others=self._neighbours(node, x))
        if op_of(node) in ("Softmax", "Reshape", "Transpose") and not any(n for t in node.outputs for n in t.outputs):
            return x
        raise Unknown(f"no rule for {op_of(node)}")

    def _activation(self, node: gs.Node, x: Field, activation: gp.Activation) -> Field:
        lags = gp.activate(x.lags, x.variance, activation, x.channels)
        gain = activation.gain.astype(np.float32)
        others = {name: cross.scaled(gain) for name, cross in self._neighbours(node, x).items()}
        return dataclasses.replace(x, mean=activation.mean, lags=lags, others=others)

    @staticmethod
    def _average_over_map(x: Field) -> Field:
        return Field(x.mean, lg.spatial_mean(x.lags, x.size)[None, None], (1, 1), x.stride, {})

    def _decimate(self, node: gs.Node, x: Field) -> Field:
        """Pooling over windows, or every n-th pixel. The largest of a window is taken as any one of it."""
        steps = steps_of(node)
        # A Slice is one for each direction, as exporters write x[:, :, ::2, ::2]; the second makes it even.
        if op_of(node) != "Slice":
            self._even(node, x, steps)
        size = map_size(node, x.size, steps)
        stride = x.stride * steps[0]
        lags, others = x.lags, self._neighbours(node, x)
        if op_of(node) == "AveragePool":
            ky, kx = (int(k) for k in node.attrs["kernel_shape"])
            taps = np.full((2 * x.channels, ky, kx), 1 / (ky * kx), np.float32)
            lags = lg.depthwise_both(lags, lg.depthwise_spectrum(taps, x.grid, (1, 1)))
            for name, cross in others.items():
                step = x.stride // cross.step
                left = cross.spectrum * lg.depthwise_spectrum(taps, cross.grid, (step, step))[:, :, None]
                others[name] = dataclasses.replace(cross, spectrum=left)
        others = {name: c.coarser(min(stride, self.live[name].stride)) for name, c in others.items()}
        side = self._windows.side(node.outputs[0].name, size, x.channels)
        return Field(x.mean, lg.window(lg.decimate(lags, steps), *side), size, stride, others)

    def _arithmetic(self, node: gs.Node) -> Field:
        """A sum of two maps, or a map and one constant a channel."""
        for index in (0, 1):
            values = input_constant(node, index)
            if values is not None:
                return self._affine(node, index, np.asarray(values, np.float64))
        if op_of(node) != "Add":
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
        if op_of(node) == "Add":
            factor, offset = one, constant_of
        elif op_of(node) == "Sub":
            factor, offset = (one, -constant_of) if index == 1 else (-one, constant_of)
        elif op_of(node) == "Mul":
            factor, offset = constant_of, zero
        elif index == 1 and constant_of.all():
            factor, offset = 1.0 / constant_of, zero
        else:
            raise Unknown("a division by what is not constant")
        return self._scale(node, x, np.tile(factor, 2), np.tile(offset, 2), 1 - index)

    def _sum(self, node: gs.Node) -> Field:
        a, b = self._field(node, 0), self._field(node, 1)
        if a.size != b.size or a.channels != b.channels:
            raise Unknown("a sum of maps of different size")
        first, second = node.inputs[0].name, node.inputs[1].name
        if a.size == (1, 1) and second not in a.others and first not in b.others:
            raise Unknown("a sum of averages, whose covariance is not followed")
        if first == second:
            return self._scale(node, a, np.full(2 * a.channels, 2.0), np.zeros(2 * a.channels))
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
        a, b = self.live[first], self.live[second]
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


def _weight(node: gs.Node) -> npt.NDArray[np.float32]:
    return np.asarray(constant(node.inputs[1]), np.float32)
