"""How far the outputs of layers without BatchNormalization may reach, collected while statistics are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.operators import activation, is_clip, keeps_scale, meaning_of, op_of
from dfmpc_onnx.graph.output_layers import output_layers
from dfmpc_onnx.graph.query import consumers, producer
from dfmpc_onnx.numerics.arrays import Float, Float32
from dfmpc_onnx.numerics.least_squares import PatchMoments
from dfmpc_onnx.numerics.reach import Reach, independent_reach, pushed_reach
from dfmpc_onnx.pipeline.facts import Layer
from dfmpc_onnx.statistics.channel_statistics import channel_moments

SAMPLES = 4096  # of a channel, that say enough of its moments
CHANNELWISE = frozenset({"MaxPool", "Resize", "Pad"})


class LayerReach:
    """The reach of each layer's output behind which no BatchNormalization tells it, by tensor name.

    It is the widest of eight deviations as measured, of eight deviations that the weights make of independent entries,
    and, of layers whose values go to the outputs, of entries pushed up on purpose. So is a channel that stands still on
    the sample, as what waits for a pattern does.
    """

    def __init__(self, graph: gs.Graph, layers: Mapping[str, Layer]) -> None:
        self._head = output_layers(graph, layers)
        self._channels: dict[str, Reach] = {}
        self._tensors = {
            node.outputs[0].name: node for node in graph.nodes if node.name in layers and not _normalized(node)
        }

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        """The range of each tensor that has one."""
        found = {name: reach.bounds for name, reach in self._channels.items() if reach.mean.size}
        return {name: bounds for name, bounds in found.items() if np.isfinite(bounds).all()}

    def layer(self, node: gs.Node, rows: Float32, moments: PatchMoments, bias: Float | None) -> None:
        """A layer is about to run. rows: its float weight, ``[groups, out/group, k]``."""
        if node.outputs[0].name not in self._tensors:
            return
        out = rows.shape[0] * rows.shape[1]
        offset = bias if bias is not None and bias.size == out else 0.0
        mean, variance = moments.mean_hat, moments.diagonal - np.square(moments.mean_hat)
        reach = independent_reach(rows, mean, variance, offset)
        pushed = pushed_reach(rows, self._entries(node, mean, variance), offset)
        self._channels[node.outputs[0].name] = reach.with_(pushed) if node.name in self._head else reach.roused(pushed)

    def observe(self, tensor: str, values: Float32) -> None:
        """The values of a tensor in the float network."""
        node = self._tensors.get(tensor)
        if node is None or values.ndim < 2 or not values.size:
            return
        x = values if op_of(node) in ("Conv", "ConvTranspose") else values.reshape(-1, values.shape[-1])
        x = x.reshape(*x.shape[:2], -1)
        step = max(1, x.shape[0] * x.shape[2] // SAMPLES)
        step += step % 2 == 0  # an odd step visits every column of an even-sized map
        measured = Reach.of_moments(*channel_moments(x[:, :, ::step]))
        before = self._channels.get(tensor)
        alike = before is not None and before.mean.shape == measured.mean.shape
        self._channels[tensor] = measured.with_(before) if before is not None and alike else measured

    def _entries(self, node: gs.Node, mean: Float, variance: Float) -> Reach:
        """The reach of each entry of a layer's patches ``[groups, k]``: by moments, and by the layers in front."""
        entries = Reach.of_moments(mean, variance)
        source = _through(node.inputs[0], self._channels)
        if source is None or mean.size % source.mean.size:
            return entries
        taps = mean.size // source.mean.size  # channels come group by group, each with its taps
        spread = Reach(mean, *(np.repeat(v, taps).reshape(mean.shape) for v in (source.low, source.high)))
        return Reach(mean, np.minimum(mean, spread.low), np.maximum(mean, spread.high))


def _normalized(node: gs.Node) -> bool:
    readers = consumers(node.outputs[0])
    return bool(readers) and all(op_of(reader) == "BatchNormalization" for reader in readers)


def _through(tensor: gs.Tensor, known: Mapping[str, Reach]) -> Reach | None:
    """The reach of a tensor's channels by that of the layer in front of it; None where more than a function of one
    value stands between."""
    functions: list[Callable[[Float], Float]] = []
    while tensor.name not in known:
        node = producer(tensor)
        if node is None:
            return None
        function = activation(node)
        if function is not None and (is_clip(node) or meaning_of(node).rectifies or meaning_of(node).squashes):
            functions.append(function)
        elif not (op_of(node) in CHANNELWISE and keeps_scale(node)):
            return None
        tensor = node.inputs[0]
    reach = known[tensor.name]
    mean, low, high = reach.mean, reach.low, reach.high
    for function in reversed(functions):
        mean, low, high = (function(v[:, None])[:, 0] for v in (mean, low, high))
    return Reach(mean, np.minimum(low, high), np.maximum(low, high))
