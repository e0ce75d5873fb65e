"""What the channels between Convs cost where a tensor has one scale: which of its numbers are how large, and matter."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.graph.affine import apply_behind, apply_in_front, output_channels
from dfmpc_onnx.graph.edit import Namer
from dfmpc_onnx.graph.joined_channels import JoinedChannels
from dfmpc_onnx.graph.operators import clip_bounds, is_clip, meaning_of
from dfmpc_onnx.graph.query import consumers, has_input
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.one_scale import Cut, Held
from dfmpc_onnx.numerics.ranges import DEVIATIONS, REACH
from dfmpc_onnx.numerics.reach import Reach

BIAS_SHARE = 0.25  # of a bias's rounding that is left when the layers behind have taken up its mean
COVER = 1.2  # of a range that has room, so much may be cut at most
LEAST_STD = 1e-6  # of a channel that does not vary
CUT_WEIGHT = 100.0  # an error that all pixels of a channel share adds up where that of rounding averages out


class OneScaleChannels:
    """The numbers of each group of joined channels, kept up as factors are applied.

    reach: how far channels of tensors reach, by name. squares: by layer the mean
    squares of its patches' entries, ``[groups, k]``. gains: of noise in a tensor's channels, ``[channels]`` or ``[1]``.
    """

    def __init__(
        self,
        graph: gs.Graph,
        reach: Mapping[str, Reach],
        squares: Mapping[str, Float],
        gains: Mapping[str, Float],
    ) -> None:
        self._names = Namer(graph)
        self._reach, self._squares, self._gains = dict(reach), dict(squares), dict(gains)

    def knows(self, group: JoinedChannels) -> bool:
        """Whether all is known of a group that its noise follows from."""
        layers = {node.name for node in (*group.makers, *group.readers)}
        tensors = [*_rounded(group), *(clip.inputs[0] for clip in group.bounded)]
        size = output_channels(group.makers[0])
        known = all((len(self._reach[t.name].mean) == size if t.name in self._reach else False) for t in tensors)
        return known and bool(_rounded(group)) and layers <= self._squares.keys()

    def held(self, group: JoinedChannels) -> list[Held]:
        """The tensors that a factor a channel changes: weights, biases and activations."""
        found = []
        for node in group.makers:
            weight = np.abs(np.asarray(node.inputs[1].values, np.float64))
            size = len(weight)
            gain, power = self._gain(node.outputs[0], size), self._squares[node.name].sum(axis=1)
            found.append(Held(weight.reshape(size, -1).max(axis=1), gain * np.repeat(power, size // len(power)), True))
            if has_input(node, 2):
                found.append(Held(np.abs(np.asarray(node.inputs[2].values, np.float64)), gain * BIAS_SHARE, True))
        for tensor in _rounded(group):
            reach, cover = self._reach[tensor.name], 1.0 if group.bounded else COVER
            far = np.maximum(reach.high, -reach.low)
            found.append(Held(far, self._gain(tensor, len(far)), True, REACH, cover))
        return [*found, *(self._read(node) for node in group.readers)]

    def cuts(self, group: JoinedChannels) -> list[Cut]:
        """What the Clips of a group cut."""
        found = []
        for clip in group.bounded:
            reach = self._reach[clip.inputs[0].name]
            std = np.maximum(REACH * (reach.high - reach.mean) / DEVIATIONS, LEAST_STD)
            gain = self._gain(clip.outputs[0], len(std))
            found.append(Cut(reach.mean, std, CUT_WEIGHT * gain, clip_bounds(clip)[1]))
        return found

    def apply(self, group: JoinedChannels, factors: Float, common: float = 1.0) -> None:
        """Divide channels by factors, all of them by a common one too."""
        whole = factors * common
        for node in group.makers:
            apply_behind(node, 1 / whole, np.zeros(1), self._names)
        for node in group.readers:
            apply_in_front(node, whole, np.zeros(1), self._names)
            squares = self._squares[node.name]
            entries = np.repeat(whole, squares.size // len(whole)).reshape(squares.shape)
            self._squares[node.name] = squares / np.square(entries)
        for clip in group.bounded:
            _bound(clip, clip_bounds(clip)[1] / common, self._names)
        for tensor in group.tensors:
            if tensor.name in self._gains:
                self._gains[tensor.name] = self._gains[tensor.name] * np.square(whole)
            if tensor.name in self._reach:
                reach = self._reach[tensor.name]
                self._reach[tensor.name] = Reach(reach.mean / whole, reach.low / whole, reach.high / whole)
        for clip in group.bounded:
            reach, most = self._reach[clip.inputs[0].name], clip_bounds(clip)[1]
            cut = (np.clip(values, 0, most) for values in (reach.mean, reach.low, reach.high))
            self._reach[clip.outputs[0].name] = Reach(*cut)

    def _read(self, node: gs.Node) -> Held:
        weight, squares = np.abs(np.asarray(node.inputs[1].values, np.float64)), self._squares[node.name]
        groups, inputs = len(squares), weight.shape[1]
        columns = weight.reshape(groups, len(weight) // groups, inputs, -1).max(axis=(1, 3)).reshape(-1)
        gain = self._gain(node.outputs[0], len(weight)).reshape(groups, -1).sum(axis=1)
        power = squares.reshape(groups, inputs, -1).sum(axis=2) * gain[:, None]
        return Held(columns, power.reshape(-1), False)

    def _gain(self, tensor: gs.Tensor, size: int) -> Float:
        gain = self._gains.get(tensor.name, np.ones(1))
        return np.broadcast_to(gain if len(gain) in (1, size) else np.array([gain.mean()]), size)


def cuts_at_constant(node: gs.Node) -> bool:
    """Whether a node bounds values from 0 to a constant, as Relu6 does."""
    try:
        low, high = clip_bounds(node)
    except Unknown:
        return False
    return low == 0 and 0 < high < math.inf


def _rounded(group: JoinedChannels) -> list[gs.Tensor]:
    """The tensors of a group that are rounded: all but what a function alone reads that its layer takes in."""
    return [tensor for tensor in group.tensors if not _is_cut(consumers(tensor))]


def _is_cut(readers: Collection[gs.Node]) -> bool:
    return len(readers) == 1 and all(is_clip(node) or meaning_of(node).rectifies for node in readers)


def _bound(clip: gs.Node, high: float, names: Namer) -> None:
    """Give a Clip another upper bound."""
    if "max" in clip.attrs:
        clip.attrs["max"] = high
        return
    old = clip.inputs[2]
    fresh = gs.Constant(names(old.name), np.asarray(high, old.values.dtype).reshape(old.values.shape))
    clip.inputs = [*clip.inputs[:2], fresh]
