"""Two streams of activations, float and quantized, that advance together through a graph.

The graph is walked once, node by node, each node run in onnxruntime on the tensors that live at that moment and no
longer. Behind every BatchNormalization the float stream has exactly the mean and deviation that it had in training:
the normalization takes the statistics of the batch, so at any depth only the correlations come from the images
(docs/method.md, section 3). A layer or normalization is first shown to a visitor, which may set its quantized weight.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import ModelError, shown
from dfmpc_onnx.graph.operators import batch_norm_parameters, op_of, squashes
from dfmpc_onnx.graph.query import constant, describe, has_input, producer, reads
from dfmpc_onnx.numerics.arrays import Float, Float32
from dfmpc_onnx.numerics.batch_norm import BatchNormParameters
from dfmpc_onnx.numerics.least_squares import PatchMoments, SampledMoments
from dfmpc_onnx.numerics.output_loss import OutputLoss, is_vector, lost_share
from dfmpc_onnx.runtime.node_runner import NodeRunner
from dfmpc_onnx.statistics.error_at_next_layer import Known, Moments
from dfmpc_onnx.statistics.patches import gather_patches, sample_patches

POSITIONS = 4000  # sampled patches a layer: docs/method.md, section 4
PATCH_VALUES = 2**25  # of one stream's sampled patches, to bound memory; at least 1,000 patches
LARGEST = 1e8  # of a value that is measured: its fourth power still fits into float32
SMALLEST = 1e-12  # of a variance that is divided by
FEWEST = 64  # values a channel below which a batch's own statistics are too rough to use


@dataclasses.dataclass(frozen=True)
class Both:
    """A tensor in both streams; `hat` is the same array where nothing in front of it has been quantized."""

    plain: npt.NDArray[np.generic]
    hat: npt.NDArray[np.generic]

    @property
    def same(self) -> bool:
        return self.plain is self.hat


@dataclasses.dataclass(frozen=True)
class ChannelStatistics:
    """Per channel of one tensor over the batch, in both streams: ``[channels]`` float64 each.

    mean, variance: of the float stream; mean_hat, variance_hat: of the quantized one.
    """

    mean: Float
    variance: Float
    mean_hat: Float
    variance_hat: Float
    count: int

    def shifted(self, by: Float, by_hat: Float) -> ChannelStatistics:
        """With a constant a channel added to the tensor in each stream."""
        return dataclasses.replace(self, mean=self.mean + by, mean_hat=self.mean_hat + by_hat)

    @classmethod
    def of(cls, both: Both) -> ChannelStatistics:
        """both: ``[n, channels, ...]``."""
        x = np.asarray(both.plain, np.float32)
        rows = x.reshape(x.shape[0], x.shape[1], -1)
        count = rows.shape[0] * rows.shape[2]
        mean = channel_mean(rows)
        centred = rows - mean.astype(np.float32)[:, None]
        variance = _inner(centred, centred) / count
        if both.same:
            return cls(mean, variance, mean, variance, count)
        rows_hat = np.asarray(both.hat, np.float32).reshape(rows.shape)
        mean_hat = channel_mean(rows_hat)
        centred_hat = rows_hat - mean_hat.astype(np.float32)[:, None]
        return cls(
            mean,
            variance,
            mean_hat,
            _inner(centred_hat, centred_hat) / count,
            count,
        )


def output_loss(both: Both) -> OutputLoss:
    """What an output loses in the quantized network; of one vector for each of several images, of its variance between
    them."""
    vector = is_vector(both.plain.shape)
    if both.same:
        return OutputLoss(0.0, vector)
    if not vector or both.plain.ndim < 2 or len(both.plain) < 2:
        return OutputLoss(lost_share(both.plain, both.hat), vector)
    plain, hat = (np.asarray(x, np.float64) for x in (both.plain, both.hat))
    variance, error = float(plain.var(axis=0).sum()), float(np.square(hat - plain).mean(axis=0).sum())
    share = min(error / variance, 1.0) if variance > 1e-12 * float(np.square(plain).mean()) else 0.0
    return OutputLoss(share, vector)


def channel_mean(x: npt.NDArray[np.generic]) -> Float:
    """Mean of each channel, the second dimension, over all others: ``[channels]``, summed in float64 over the batch."""
    rows = np.asarray(x, np.float32).reshape(x.shape[0], x.shape[1], -1)
    result: Float = rows.mean(axis=2).mean(axis=0, dtype=np.float64)
    return result


def _inner(a: Float32, b: Float32) -> Float:
    """Sum over batch and positions of a product, summed in float64 over the images: ``[channels]``."""
    result: Float = np.einsum("nci,nci->nc", a, b).sum(axis=0, dtype=np.float64)
    return result


class Visitor(Protocol):
    """Decides, at each layer and normalization, what the quantized network continues with."""

    def layer(self, node: gs.Node, moments: Callable[[], PatchMoments], known: Known) -> None:
        """A Conv, Gemm or MatMul is about to run; the visitor may set ``node.inputs[1].values``.

        known: tells the moments of tensors that live in the float network at that moment."""

    def after_layer(self, node: gs.Node, shift: Callable[[], Float] | None) -> None:
        """It has run. shift: tells by how much the mean of its output fell short, ``[channels]``; None where it is
        the same in both networks. The visitor may set the node's bias."""

    def batch_norm(self, node: gs.Node, statistics: ChannelStatistics) -> tuple[Float, Float]:
        """Scale and shift of the quantized network's output; may set the node's parameters."""

    def measured(self, tensor: str, values: Float32) -> None:
        """The values of a tensor in the float network, for what they are to be measured for."""


class Streams:
    """Walks a graph with a batch of inputs; see the module's text."""

    def __init__(
        self,
        graph: gs.Graph,
        feeds: Mapping[str, npt.NDArray[np.generic]],
        layers: frozenset[str],
        seed: int,
        positions: int = POSITIONS,
    ) -> None:
        """layers: names of those that the visitor is shown. positions: sampled for each."""
        self._graph = graph
        self._positions = positions
        self._layers = layers
        self._generator = np.random.default_rng(seed)
        self._live: dict[str, Both] = {name: Both(x, x) for name, x in feeds.items()}
        self._reads: dict[str, int] = {}
        for node in graph.nodes:
            for tensor in reads(node):
                self._reads[tensor.name] = self._reads.get(tensor.name, 0) + 1
        # What the outputs lose is asked for at the end: until then they live.
        self._compared = [compared_tensor(t) for t in graph.outputs]
        for tensor in self._compared:
            self._reads[tensor.name] = self._reads.get(tensor.name, 0) + 1
        self.peak_bytes = 0

    def lost(self) -> list[OutputLoss]:
        """What the quantized network has lost of each output that holds finite numbers, after `run`."""
        pairs = [self._live[t.name] for t in self._compared if t.name in self._live]
        return [
            output_loss(both)
            for both in pairs
            if isinstance(both.plain, np.ndarray) and both.plain.dtype.kind == "f" and np.isfinite(both.plain).all()
        ]

    def run(self, visitor: Visitor) -> None:
        """One pass through the graph. Raises ModelError where a node cannot be run."""
        for node in self._graph.nodes:
            if node.name in self._layers:
                self._layer(node, visitor)
            elif op_of(node) == "BatchNormalization" and self._normalizable(node):
                self._batch_norm(node, visitor)
            else:
                outputs = self._both(node)
                self._keep(node, outputs)
                if outputs:
                    _measure(node, outputs[0], visitor)
            self._forget(node)

    def _layer(self, node: gs.Node, visitor: Visitor) -> None:
        x = self._fed(node)
        old = [t.values if isinstance(t, gs.Constant) else None for t in node.inputs[1:]]
        visitor.layer(node, lambda: patch_moments(x, node, self._generator, self._positions), self._moments)
        if all(isinstance(t, gs.Constant) and t.values is v for t, v in zip(node.inputs[1:], old, strict=True)):
            outputs = self._both(node)
        else:
            inputs = {t.name: self._live[t.name] for t in reads(node)}
            plain = NodeRunner(self._graph, node, [None, *old])({name: both.plain for name, both in inputs.items()})[0]
            hat = NodeRunner(self._graph, node)({name: both.hat for name, both in inputs.items()})[0]
            outputs = [Both(plain, hat)]
        fixed = outputs[0]
        _measure(node, fixed, visitor)
        bias = _bias(node)
        visitor.after_layer(node, None if fixed.same else lambda: _mean_difference(fixed))
        changed = _bias(node)
        if changed is not None and (bias is None or not np.array_equal(bias, changed)):
            shift = np.asarray(changed, np.float32)
            if bias is not None:
                shift = shift - np.asarray(bias, np.float32)
            hat = np.asarray(fixed.hat, np.float32) + shift.reshape(-1, *(1,) * (fixed.hat.ndim - 2))
            fixed = Both(fixed.plain, hat)
        self._keep(node, [fixed])

    def _moments(self, tensor: gs.Tensor) -> Moments | None:
        """Mean and variance of each channel of a tensor that lives, in the float network."""
        both = self._live.get(tensor.name)
        if both is None or not isinstance(both.plain, np.ndarray) or both.plain.ndim < 2 or not both.plain.size:
            return None
        statistics = ChannelStatistics.of(Both(both.plain, both.plain))
        return statistics.mean, statistics.variance

    def _normalizable(self, node: gs.Node) -> bool:
        if isinstance(node.inputs[0], gs.Constant):
            return False
        x = self._live[node.inputs[0].name].plain
        return batch_norm_parameters(node) is not None and x.ndim >= 2 and x.size // x.shape[1] >= FEWEST

    def _fed(self, node: gs.Node) -> Both:
        """What a layer or normalization reads; raises ModelError where there is nothing in it to measure."""
        x = self._live[node.inputs[0].name]
        for stream in (x.plain,) if x.same else (x.plain, x.hat):
            largest = max(float(stream.max(initial=0)), -float(stream.min(initial=0)))  # NaN if one value is
            if not largest <= LARGEST:
                found = f"values up to {largest:.2g}" if np.isfinite(largest) else "NaN or infinity"
                raise ModelError(
                    f"{describe(node)}: its input holds {found} on the images that statistics are taken from; "
                    "the network was not trained or exported properly"
                )
        return x

    def _batch_norm(self, node: gs.Node, visitor: Visitor) -> None:
        x = self._fed(node)
        norm = batch_norm_parameters(node)
        assert norm is not None  # _normalizable has looked
        statistics = ChannelStatistics.of(x)
        epsilon = float(node.attrs.get("epsilon", 1e-5))
        scale_hat, shift_hat = visitor.batch_norm(node, statistics)
        factor = norm.gamma / batch_deviation(statistics.variance, epsilon)
        plain = _affine(x.plain, factor, norm.beta - factor * statistics.mean)
        identical = (
            x.same
            and np.array_equal(scale_hat, factor)
            and np.array_equal(shift_hat, norm.beta - factor * statistics.mean)
        )
        both = Both(plain, plain if identical else _affine(x.hat, scale_hat, shift_hat))
        _measure(node, both, visitor)
        self._keep(node, [both])

    def _both(self, node: gs.Node) -> list[Both]:
        """A node's outputs in both streams; run once where its inputs are the same in both."""
        names = [t.name for t in reads(node)]
        runner = NodeRunner(self._graph, node)
        try:
            inputs = {name: self._live[name] for name in names}
        except KeyError as missing:
            raise ModelError(f"{describe(node)}: its input {shown(str(missing))} cannot be followed") from None
        plain = runner({name: both.plain for name, both in inputs.items()})
        if all(both.same for both in inputs.values()):
            return [Both(x, x) for x in plain]
        hat = runner({name: both.hat for name, both in inputs.items()})
        return [Both(x, y) for x, y in zip(plain, hat, strict=True)]

    def _keep(self, node: gs.Node, outputs: list[Both]) -> None:
        for tensor, both in zip([t for t in node.outputs if not t.is_empty()], outputs, strict=True):
            if self._reads.get(tensor.name):
                self._live[tensor.name] = both
        total = sum(_bytes(b.plain) + (0 if b.same else _bytes(b.hat)) for b in self._live.values())
        self.peak_bytes = max(self.peak_bytes, total)

    def _forget(self, node: gs.Node) -> None:
        for tensor in reads(node):
            self._reads[tensor.name] -= 1
            if self._reads[tensor.name] == 0:
                self._live.pop(tensor.name, None)


def compared_tensor(output: gs.Tensor) -> gs.Tensor:
    """The output of a network to compare: itself, or what stands in front of a function that squeezes scores."""
    node = producer(output)
    if node is None or not squashes(node) or isinstance(node.inputs[0], gs.Constant):
        return output
    source: gs.Tensor = node.inputs[0]
    return source


def _bytes(value: object) -> int:
    """What a tensor, or a sequence of tensors, takes."""
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    return sum(map(_bytes, value)) if isinstance(value, list) else 0


def _measure(node: gs.Node, output: Both, visitor: Visitor) -> None:
    if isinstance(output.plain, np.ndarray) and output.plain.dtype == np.float32 and output.plain.size:
        visitor.measured(node.outputs[0].name, np.asarray(output.plain, np.float32))


def _mean_difference(output: Both) -> Float:
    """Mean of float less quantized output for each channel, the second dimension."""
    return channel_mean(output.plain) - channel_mean(output.hat)


def _bias(node: gs.Node) -> npt.NDArray[np.generic] | None:
    return constant(node.inputs[2]) if has_input(node, 2) else None


def _affine(x: npt.NDArray[np.generic], factor: Float, offset: Float) -> npt.NDArray[np.generic]:
    shape = (-1, *(1,) * (x.ndim - 2))
    result = np.asarray(x, np.float32) * factor.astype(np.float32).reshape(shape)
    result += offset.astype(np.float32).reshape(shape)
    return result.astype(x.dtype, copy=False)


def patch_moments(inputs: Both, node: gs.Node, generator: np.random.Generator, count: int = POSITIONS) -> PatchMoments:
    """Second moments of a layer's input patches in both streams, at shared positions."""
    width = int(np.prod(node.inputs[1].shape[1:])) * int(node.attrs.get("group", 1)) if op_of(node) == "Conv" else 1
    count = min(count, max(PATCH_VALUES // width, 1000))
    positions = sample_patches(inputs.plain, node, count, generator)
    plain = gather_patches(inputs.plain, node, positions)
    return SampledMoments.of(plain, plain if inputs.same else gather_patches(inputs.hat, node, positions))


RANGE_SAMPLES = 2**18
RANGE_PERCENTILES = (0.01, 99.99)  # docs/method.md, section 7


def measured_range(x: npt.NDArray[np.generic]) -> tuple[float, float]:
    """The percentiles that bound all but one value in ten thousand, of at most 2^18 values evenly spread."""
    flat = x.reshape(-1)
    step = max(1, flat.size // RANGE_SAMPLES)
    step += step % 2 == 0  # an odd step visits every column of an even-sized map
    with np.errstate(invalid="ignore", over="ignore"):  # of infinite values the range is infinite, or NaN
        low, high = np.percentile(np.asarray(flat[::step], np.float32), RANGE_PERCENTILES)
    return float(low), float(high)


def batch_deviation(variance: Float, epsilon: float) -> Float:
    """What a BatchNormalization divides by in batch-statistics mode; never 0, which an epsilon of 0 would allow."""
    result: Float = np.sqrt(np.maximum(variance + epsilon, SMALLEST))
    return result


def trained(norm: BatchNormParameters, epsilon: float) -> tuple[Float, Float]:
    """Mean and variance that a BatchNormalization measured in training."""
    return norm.mean, np.maximum(np.square(norm.std) - epsilon, 0.0)
