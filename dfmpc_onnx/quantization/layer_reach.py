"""How far the outputs of layers without BatchNormalization may reach, collected while statistics are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.channels import channel_readings
from dfmpc_onnx.graph.operators import (
    activation,
    batch_norm_parameters,
    is_clip,
    keeps_scale,
    meaning_of,
    op_of,
    squashes,
)
from dfmpc_onnx.graph.output_layers import output_layers
from dfmpc_onnx.graph.query import constant, consumers, input_constant, producer
from dfmpc_onnx.numerics.arrays import Float, Float32
from dfmpc_onnx.numerics.batch_norm import BatchNormParameters
from dfmpc_onnx.numerics.least_squares import PatchMoments
from dfmpc_onnx.numerics.moments import ChannelMoments
from dfmpc_onnx.numerics.reach import Reach, pushed_reach
from dfmpc_onnx.pipeline.facts import Layer
from dfmpc_onnx.statistics.channel_statistics import ChannelStatistics, channel_moments
from dfmpc_onnx.statistics.error_at_next_layer import Known
from dfmpc_onnx.statistics.walk import bias_of

CHANNEL_SAMPLES = 4096  # of a channel, that say enough of its moments
CHANNELWISE = frozenset({"MaxPool", "Resize", "Pad"})


class LayerReach:
    """The reach of each layer's output behind which no BatchNormalization tells it, by tensor name.

    It is the wider of eight deviations as measured and of eight deviations that the weights make of independent
    entries. Of an entry that is seldom active, as what waits for a pattern is, not its deviation counts, but what the
    layer in front lets it reach; so of every entry that scores and boxes are made of.
    """

    def __init__(self, graph: gs.Graph, layers: Mapping[str, Layer]) -> None:
        head = output_layers(graph, layers)
        self._scores = {n.outputs[0].name for n in graph.nodes if n.name in layers and (n.name in head or _gates(n))}
        self._channels: dict[str, Reach] = {}
        outputs = {node.outputs[0].name: node for node in graph.nodes if node.name in layers}
        self._tensors = {name: node for name, node in outputs.items() if not only_norms_read(graph, node.outputs[0])}

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        """The range of each tensor that has one."""
        found = {name: reach.bounds for name, reach in self._channels.items() if reach.mean.size}
        return {name: bounds for name, bounds in found.items() if np.isfinite(bounds).all()}

    def of(self, tensor: gs.Tensor) -> Reach | None:
        """The channels of a tensor, by those of the layers in front of it; None where that is not known."""
        return _through(tensor, self._channels)

    def sampled(self, node: gs.Node, rows: Float32, moments: PatchMoments) -> Float:
        """A layer is about to run on a sample, of whose patches moments are given; else as `layer`."""
        variance = np.maximum(moments.diagonal - np.square(moments.mean_hat), 0.0)
        return self.layer(node, rows, moments.mean_hat, variance)

    def layer(self, node: gs.Node, rows: Float32, mean: Float, variance: Float) -> Float:
        """A layer is about to run. rows: its float weight, ``[groups, out/group, k]``; mean, variance: of the entries
        of its patches, ``[groups, k]``. Of its bias a constant for each channel counts.

        Returns the variance, ``[groups, k]``, that entries of its patches may have which are seldom active.
        """
        out, bias = rows.shape[0] * rows.shape[1], bias_of(node)
        offset = np.asarray(bias, np.float64).reshape(-1) if bias is not None and bias.size == out else 0.0
        measured, allowed = Reach.of_moments(mean, variance), self._allowed(node, mean)
        entries = measured if allowed is None else measured.roused(allowed)
        if node.outputs[0].name in self._tensors:
            pushed = pushed_reach(rows, entries, offset)
            if allowed is not None and node.outputs[0].name in self._scores:
                pushed = pushed.with_(pushed_reach(rows, allowed, offset))
            self._channels[node.outputs[0].name] = pushed
        return entries.unseen(variance)

    def observe(self, tensor: str, values: Float32) -> None:
        """The values of a tensor in the float network."""
        node = self._tensors.get(tensor)
        if node is None or values.ndim < 2 or not values.size:
            return
        x = values if op_of(node) in ("Conv", "ConvTranspose") else values.reshape(-1, values.shape[-1])
        x = x.reshape(*x.shape[:2], -1)
        step = max(1, x.shape[0] * x.shape[2] // CHANNEL_SAMPLES)
        step += step % 2 == 0  # an odd step visits every column of an even-sized map
        measured = Reach.of_moments(*channel_moments(x[:, :, ::step]))
        before = self._channels.get(tensor)
        alike = before is not None and before.mean.shape == measured.mean.shape
        self._channels[tensor] = measured.with_(before) if before is not None and alike else measured

    def _allowed(self, node: gs.Node, mean: Float) -> Reach | None:
        """How far the layers in front let each entry of a layer's patches go, ``[groups, k]``; None where not known."""
        source = _through(node.inputs[0], self._channels)
        if source is None or mean.size % source.mean.size:
            return None
        taps = mean.size // source.mean.size  # channels come group by group, each with its taps
        low, high = (np.repeat(v, taps).reshape(mean.shape) for v in (source.low, source.high))
        return Reach(mean, np.minimum(mean, low), np.maximum(mean, high))


class ReachOfLayers:
    """The visitor that changes nothing and collects how far layers reach.

    squares: by layer the mean squares of its patches' entries, ``[groups, k]``, those of what is seldom active as large
    as the layers in front allow.
    """

    def __init__(self, reach: LayerReach, layers: Mapping[str, Layer]) -> None:
        self._reach = reach
        self._layers = layers
        self.squares: dict[str, Float] = {}

    def layer(self, node: gs.Node, moments: Callable[[], PatchMoments], known: Known) -> None:
        layer = self._layers[node.name]
        if layer.op == "ConvTranspose":
            return
        rows, found = to_rows(np.asarray(constant(node.inputs[1]), np.float32), layer), moments()
        if found.count:
            self.squares[node.name] = found.diagonal + self._reach.sampled(node, rows, found)

    def after_layer(self, node: gs.Node, shift: Callable[[], Float] | None) -> None:
        """Biases stay."""

    def batch_norm(self, node: gs.Node, norm: BatchNormParameters, statistics: ChannelStatistics) -> None:
        """Normalizations stay."""

    def observe(self, tensor: str, values: Float32) -> None:
        self._reach.observe(tensor, values)


def reach_by_moments(
    graph: gs.Graph, layers: Mapping[str, Layer], known: Mapping[str, ChannelMoments]
) -> dict[str, tuple[float, float]]:
    """The range of each layer's output, as `LayerReach` has them, where nothing was measured.

    known: moments of tensors by name.
    """
    found = LayerReach(graph, layers)
    for node in graph.nodes:
        layer, moments = layers.get(node.name), known.get(node.inputs[0].name) if node.inputs else None
        weight = input_constant(node, 1)
        if layer is None or moments is None or weight is None or layer.op == "ConvTranspose":
            continue
        rows = to_rows(np.asarray(weight, np.float32), layer)
        entries = rows.shape[0] * rows.shape[2]
        if not moments.mean.size or entries % moments.mean.size:
            continue
        mean, variance = (
            np.repeat(v, entries // moments.mean.size).reshape(rows.shape[0], -1)
            for v in (moments.mean, moments.variance)
        )
        found.layer(node, rows, mean, variance)
    return found.bounds


def to_rows(weight: Float32, layer: Layer) -> Float32:
    """A weight as ``[groups, out/group, k]``."""
    if layer.op == "Conv":
        return weight.reshape(layer.groups, weight.shape[0] // layer.groups, -1)
    return np.ascontiguousarray(weight if layer.axis == 0 else weight.T)[None]


def _gates(node: gs.Node) -> bool:
    """Whether a squashing function alone reads what a layer gives."""
    readers = consumers(node.outputs[0])
    return bool(readers) and all(squashes(reader) for reader in readers)


def only_norms_read(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Whether all that reads a layer's output, through Concats too, are BatchNormalizations of known parameters."""
    readings = channel_readings(graph, tensor)
    return not isinstance(readings, str) and all(
        op_of(reading.node) == "BatchNormalization" and batch_norm_parameters(reading.node) is not None
        for reading in readings
    )


def _through(tensor: gs.Tensor, known: Mapping[str, Reach], sums: bool = True) -> Reach | None:
    """The reach of a tensor's channels by that of the layers in front of it; None where more than functions of one
    value, and one sum of two, stand between."""
    functions: list[Callable[[Float], Float]] = []
    while tensor.name not in known:
        node = producer(tensor)
        if node is None:
            return None
        if sums and op_of(node) == "Add":
            parts = [_through(part, known, sums=False) for part in node.inputs]
            return _followed(_sum(parts), functions)
        function = activation(node)
        if function is not None and (is_clip(node) or meaning_of(node).rectifies or meaning_of(node).squashes):
            functions.append(function)
        elif not (op_of(node) in CHANNELWISE and keeps_scale(node)):
            return None
        tensor = node.inputs[0]
    return _followed(known[tensor.name], functions)


def _sum(parts: Sequence[Reach | None]) -> Reach | None:
    """Of independent tensors, whose ways from their means add up by their squares."""
    found = [part for part in parts if part is not None]
    if len(found) != len(parts) or len({part.mean.shape for part in found}) != 1:
        return None
    mean = np.sum([part.mean for part in found], axis=0)
    above, below = (
        np.sqrt(np.sum([np.square(far) for far in ways], axis=0))
        for ways in ([p.high - p.mean for p in found], [p.mean - p.low for p in found])
    )
    return Reach(mean, mean - below, mean + above)


def _followed(reach: Reach | None, functions: Sequence[Callable[[Float], Float]]) -> Reach | None:
    """Through functions of one value, the last first."""
    if reach is None:
        return None
    mean, low, high = reach.mean, reach.low, reach.high
    for function in reversed(functions):
        mean, low, high = (function(v[:, None])[:, 0] for v in (mean, low, high))
    return Reach(mean, np.minimum(low, high), np.maximum(low, high))


def from_rows(rows: Float32, layer: Layer) -> Float32:
    """The weight of `to_rows`."""
    if layer.op == "Conv":
        return np.ascontiguousarray(rows.reshape(layer.shape))
    return np.ascontiguousarray(rows[0] if layer.axis == 0 else rows[0].T)
