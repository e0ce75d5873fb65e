"""Channels that stand on one grid of few levels: the same reach, and where no Relu cuts them the mean 0, for all.

With 256 levels a channel that reaches a tenth as far as the widest has 25 of them left; with 16 it has one. Factors and
shifts move from a BatchNormalization through Relu and sums into the Convs behind, and the network stays what it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.graph.affine import apply_behind, apply_in_front, is_moderate, takes_input_shift
from dfmpc_onnx.graph.edit import Namer
from dfmpc_onnx.graph.joined_channels import JoinedChannels, joined_channels
from dfmpc_onnx.graph.operators import batch_norm_parameters, clip_bounds, is_clip, op_of
from dfmpc_onnx.graph.query import constant, producer
from dfmpc_onnx.numerics.arrays import Float, Float32
from dfmpc_onnx.numerics.equalization import ChannelReader, quietest
from dfmpc_onnx.numerics.few_levels import best_end
from dfmpc_onnx.numerics.moments import ChannelMoments
from dfmpc_onnx.pipeline.facts import Layer
from dfmpc_onnx.pipeline.manager import Figure, Rewrite
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.layer_reach import to_rows
from dfmpc_onnx.statistics.independent_moments import propagate

FAINTEST_CHANNEL = 1 / 32  # of the median reach: what reaches less is taken to reach as far as that
CLIP_ROOM = 2.0  # times as far as its levels go a channel is not clipped: its tail may be longer than a Gaussian's
LEVEL_SPAN = 5.4  # deviations that the best 16 levels of a Gaussian span


def level_channels(workspace: Workspace, layers: Mapping[str, Layer], bits: int) -> list[Rewrite]:
    """Give the channels that layers read with few bits the same reach, and the mean 0 where that can be.

    layers: those whose weights may change, by name. Only what a BatchNormalization makes is looked at, whose moments
    are known. A Clip from 0 stays where it is, and clips no channel nearer than twice where its levels end.
    """
    graph = workspace.graph
    convs = {name for name, layer in layers.items() if layer.op == "Conv"}
    norms = {n.name for n in graph.nodes if op_of(n) == "BatchNormalization" and batch_norm_parameters(n) is not None}
    clips = {node.name: bound for node in graph.nodes if (bound := _upper_bound(node)) is not None}
    known, names = propagate(graph, workspace.inputs)[0], Namer(graph)
    rewrites = []
    for group in joined_channels(graph, convs, norms, clips):
        if not all(node.name in norms for node in group.makers):
            continue  # moments that no BatchNormalization states are too far off to clip by
        found = _Level(group, known, layers, bits, workspace.settings.weights.high)
        if found.apply({clips[node.name] for node in group.bounded}, names):
            rewrites.append(Rewrite(group.makers[0].name, "channels leveled for few bits", found.figures))
    return rewrites


def _upper_bound(node: gs.Node) -> float | None:
    """The bound above of a Clip from 0; None of any other node."""
    try:
        low, high = clip_bounds(node) if is_clip(node) and op_of(node) == "Clip" else (-np.inf, np.inf)
    except Unknown:
        return None
    return high if low == 0.0 and 0 < high < np.inf else None


@dataclasses.dataclass
class _Level:
    """One group of channels, and what is done to it."""

    group: JoinedChannels
    known: Mapping[str, ChannelMoments]
    layers: Mapping[str, Layer]
    bits: int
    weight_bits: float
    figures: dict[str, Figure] = dataclasses.field(default_factory=dict)

    def apply(self, bounds: set[float], names: Namer) -> bool:
        """Whether factors, or shifts, were moved."""
        group, read = self.group, [node.inputs[0] for node in self.group.readers]
        reaches = [self._reach(tensor) for tensor in {t.name: t for t in read}.values()]
        if len(bounds) > 1 or not group.makers or any(reach is None for reach in reaches) or self._sums_what_is_cut():
            return False
        reach = np.sqrt(np.mean([np.square(r) for r in reaches if r is not None], axis=0))
        if not np.isfinite(reach).all() or not (reach > 0).any():
            return False
        reach = np.maximum(reach, FAINTEST_CHANNEL * np.median(reach[reach > 0]))
        whole = float(np.exp(np.log(reach).mean()))
        if bounds:
            whole = bounds.pop()
            reach = np.minimum(CLIP_ROOM * reach, whole)
        factors = quietest(self._readers(), reach / whole, reach, self.weight_bits, 2**self.bits - 1)
        if not is_moderate(factors):
            return False
        centred = self._is_linear() and all(takes_input_shift(node) for node in group.readers)
        self._move(factors, names, centred=centred)
        self.figures["spread"] = round(float(factors.max() / factors.min()), 2)
        return True

    def _reach(self, tensor: gs.Tensor) -> Float | None:
        """How far the levels should go that lose least of each channel, ``[channels]``; None where it is not known."""
        node, moments = producer(tensor), self.known.get(tensor.name)
        if moments is None or not moments.mean.size:
            return None
        before = self.known.get(node.inputs[0].name) if node is not None and op_of(node) in ("Relu", "Clip") else None
        if before is not None:
            return best_end(before.mean, np.sqrt(before.variance), self.bits)
        std = np.sqrt(np.maximum(moments.variance, 0.0))
        if (moments.low >= 0).all():
            return best_end(moments.mean, std, self.bits)
        return LEVEL_SPAN * std if self._is_linear() else np.abs(moments.mean) + LEVEL_SPAN / 2 * std

    def _sums_what_is_cut(self) -> bool:
        """Whether both sums and Relus stand between, as in ResNets: the moments of such sums do not follow from those
        of what they add, which are far from independent."""
        between = [by for tensor in self.group.tensors if (by := producer(tensor)) is not None]
        return not self._is_linear() and any(op_of(by) == "Add" for by in between)

    def _is_linear(self) -> bool:
        """Whether nothing but sums stands between what makes the channels and what reads them."""
        makers = {id(node) for node in self.group.makers}
        return all(
            (by := producer(tensor)) is not None and (id(by) in makers or op_of(by) == "Add")
            for tensor in self.group.tensors
        ) and all(node.outputs[0].name in self.known for node in self.group.makers)

    def _readers(self) -> list[ChannelReader]:
        found = []
        for node in self.group.readers:
            layer, moments = self.layers[node.name], self.known[node.inputs[0].name]
            rows: Float32 = to_rows(np.asarray(constant(node.inputs[1]), np.float32), layer)
            squares = moments.variance + np.square(moments.mean)
            taps = rows.shape[0] * rows.shape[2] // len(squares)
            found.append(ChannelReader(rows, np.repeat(squares, taps).reshape(rows.shape[0], rows.shape[2])))
        return found

    def _move(self, factors: Float, names: Namer, *, centred: bool) -> None:
        """Divide channels by factors where they are made, and take that back where they are read."""
        for node in self.group.makers:
            mean = self.known[node.outputs[0].name].mean if centred else np.zeros(1)
            apply_behind(node, 1 / factors, -mean / factors, names)
        for node in self.group.readers:
            mean = self.known[node.inputs[0].name].mean if centred else np.zeros(1)
            apply_in_front(node, factors, mean, names)
