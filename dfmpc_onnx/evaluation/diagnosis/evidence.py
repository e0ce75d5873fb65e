"""What is measured of a suspect, for the rules that name its cause."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import onnx
from onnx import numpy_helper

from dfmpc_onnx.evaluation.diagnosis.blame import Restorable
from dfmpc_onnx.evaluation.diagnosis.channel_likeness import ChannelLikeness
from dfmpc_onnx.evaluation.diagnosis.roundings import Rounding
from dfmpc_onnx.evaluation.matched_tensors import RUNTIME_LAYERS, called, fed_at
from dfmpc_onnx.evaluation.paired_networks import FETCHED_BYTES, NamedArrays, PairedNetworks, Pieces, within_bounds
from dfmpc_onnx.evaluation.tensor_sums import ChannelChange, TensorSums, channel_axis
from dfmpc_onnx.memory import held_together
from dfmpc_onnx.model.protos import RUNTIME_DOMAINS, initializers, makers, op_of
from dfmpc_onnx.numerics.arrays import Array, Float
from dfmpc_onnx.qdq.decode_chains import DecodeChains
from dfmpc_onnx.runtime.session import Session

LEVELS_OF_4_BITS = 16  # values of a weight, up to which 4 bits hold them
CUTS = frozenset({"Relu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Softplus", "Elu"})
INTEGER_WEIGHTS: Mapping[str, int] = {"QLinearConv": 3, "QLinearMatMul": 3}  # followed by its scale


@dataclasses.dataclass(frozen=True)
class WeightEvidence:
    """Of a layer: what its weights alone do to its output, fed as in the float network.

    error: relative. channel, share, gain: the output channel with most of that error, its part of it, and what its
    values are beside the float network's. channels: how many there are. levels: how many values a weight takes, by its
    bits where a codebook's entries hold several; None where it is float, or has too few values to tell. scales: how
    many there are. reaches: the largest weight of each channel. alike: how that channel's values correlate with those
    of the float network's, without the sign. swapped: the channel that it has changed places with, if so.
    """

    error: float
    channel: int
    share: float
    gain: float
    channels: int
    levels: int | None
    scales: int
    reaches: Float
    alike: float = 1.0
    swapped: int | None = None


@dataclasses.dataclass(frozen=True)
class RoundingEvidence:
    """Of a rounded activation, on values that the float network would give.

    low, high: of the values. beyond: how many are beyond the codes, a share; clipped: their part of the rounding
    error. error: relative. reaches: the largest value of each channel. parts: where it joins tensors, the largest value
    of each. cut: whether all that reads it cuts negative values off.
    """

    low: float
    high: float
    beyond: float
    clipped: float
    error: float
    reaches: Float
    parts: tuple[float, ...] = ()
    cut: bool = False


class _Look(Protocol):
    """What is being found out of one suspect, run by run. reads: the float network's tensors that it is shown."""

    @property
    def reads(self) -> tuple[str, ...]: ...

    def add(self, feeds: NamedArrays, plain: NamedArrays, real: int) -> None:
        """One run, of so many inputs that are no filling."""

    def found(self) -> WeightEvidence | RoundingEvidence: ...


class _OfWeights:
    """A layer fed as in the float network, beside what that computes there."""

    def __init__(
        self,
        tensor: str,
        pieces: Pieces,
        factors: Mapping[str, ChannelChange],
        rounded: bool,
        weight: tuple[int | None, int, Float],
    ) -> None:
        self.reads = (tensor, *pieces.inner)
        self._pieces, self._factors, self._rounded, self._weight = pieces, factors, rounded, weight
        self._sums, self._crossed = TensorSums(), ChannelLikeness()

    def add(self, feeds: NamedArrays, plain: NamedArrays, real: int) -> None:
        tensor = self.reads[0]
        own = self._pieces.run(feeds, plain, self._factors)[tensor]
        own = within_bounds(own, plain[tensor]) if self._rounded else own
        self._sums.add(plain[tensor], own, own, self._factors.get(tensor), real)
        self._crossed.add(plain[tensor], own, real)

    def found(self) -> WeightEvidence:
        sums = self._sums
        channel, share, gain = sums.worst() or (0, 0.0, 1.0)
        alike, swapped = self._crossed.of(channel)
        error = sums.relative(sums.own)
        return WeightEvidence(error, channel, share, gain, sums.channels, *self._weight, alike, swapped)


class _OfRounding:
    """What an activation holds in the float network, beside its codes. parts: the tensors that it joins."""

    def __init__(self, rounding: Rounding, change: ChannelChange | None, parts: Sequence[str], cut: bool) -> None:
        self.reads = (rounding.tensor, *parts)
        self._rounding, self._change, self._cut = rounding, change, cut
        self._noise = self._beyond_noise = self._signal = 0.0
        self._low, self._high = math.inf, -math.inf
        self._beyond = self._count = 0
        self._reaches: Float | None = None
        self._parts = dict.fromkeys(parts, 0.0)

    def add(self, feeds: NamedArrays, plain: NamedArrays, real: int) -> None:
        rounding = self._rounding
        x = np.asarray(plain[rounding.tensor], np.float64)
        x = x if self._change is None else self._change.put_in(x)
        inside = np.clip(x, rounding.low, rounding.high)
        wrong = np.square(x - np.round(inside / rounding.step) * rounding.step)
        outside = np.abs(x - inside) > rounding.step / 2
        self._noise += float(wrong.sum())
        self._beyond_noise += float(wrong[outside].sum())
        self._signal += float(np.square(x).sum())
        self._low, self._high = min(self._low, float(x.min())), max(self._high, float(x.max()))
        self._beyond, self._count = self._beyond + int(outside.sum()), self._count + x.size
        axis = channel_axis(x.shape)
        here = np.abs(x).max(axis=tuple(i for i in range(x.ndim) if i != axis))
        known = self._reaches
        self._reaches = here if known is None or len(known) != len(here) else np.maximum(known, here)
        for part, most in self._parts.items():
            self._parts[part] = max(most, float(np.abs(plain[part]).max()))

    def found(self) -> RoundingEvidence:
        return RoundingEvidence(
            self._low,
            self._high,
            self._beyond / max(self._count, 1),
            self._beyond_noise / self._noise if self._noise else 0.0,
            float(np.sqrt(self._noise / self._signal)) if self._signal else 0.0,
            np.zeros(1) if self._reaches is None else self._reaches,
            tuple(self._parts.values()),
            self._cut,
        )


class Evidence:
    """Looks into suspects of two networks."""

    def __init__(
        self,
        pair: PairedNetworks,
        factors: Mapping[str, ChannelChange],
        quantized: onnx.ModelProto,
        float_model: onnx.ModelProto,
    ) -> None:
        self._pair, self._factors, self._model = pair, factors, quantized
        self._nodes = {called(node): node for node in quantized.graph.node}
        self._makers = makers(float_model.graph.node)
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in float_model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def of(self, suspects: Sequence[Restorable]) -> list[WeightEvidence | RoundingEvidence]:
        """Of each. The float network runs once for as many as may be held together."""
        looks = [self._rounding(s.rounding) if s.rounding is not None else self._weights(s) for s in suspects]
        for group in held_together(looks, self._bytes_of, FETCHED_BYTES):
            names = sorted({name for look in group for name in look.reads})
            for feeds, real in self._pair.feeds():
                plain = {**feeds, **self._pair.plain(feeds, [name for name in names if name in self._pair.kinds])}
                for look in group:
                    look.add(feeds, plain, real)
        return [look.found() for look in looks]

    def _bytes_of(self, look: _Look) -> int:
        return sum(map(self._pair.bytes_of, look.reads))

    def _weights(self, suspect: Restorable) -> _OfWeights:
        name = suspect.tensor
        change = self._factors.get(name)
        rounded = change is None and any(t.name == name != t.stands for t in self._pair.matching.tensors)
        pieces = self._pair.pieces([name], unrounded=name)
        return _OfWeights(name, pieces, self._factors, rounded, self._weight(suspect.layers[0]))

    def _rounding(self, rounding: Rounding) -> _OfRounding:
        """What a network with the float network's values in front would round there."""
        name = rounding.tensor
        return _OfRounding(rounding, self._factors.get(name), self._joined(name), self._cuts(name))

    def is_integer(self, layer: str) -> bool:
        """Whether a layer of the quantized network is an operator on integers."""
        return op_of(self._nodes[layer]) in RUNTIME_LAYERS

    def _weight(self, layer: str) -> tuple[int | None, int, Float]:
        """How many values a layer's weight takes, how many scales it has, and how far each output channel reaches."""
        node, stored = self._nodes[layer], initializers(self._model.graph)
        place = INTEGER_WEIGHTS.get(op_of(node, RUNTIME_DOMAINS), 1)  # of the weight among its inputs
        name = node.input[place]
        values = numpy_helper.to_array(stored[name]) if name in stored else self._computed(name)
        if place > 1:
            scale = stored.get(node.input[place + 1])
            count = 1 if scale is None else int(np.prod(scale.dims, dtype=np.int64))
            return int(np.unique(values).size), count, _reaches(node, values)
        chain = DecodeChains(self._model.graph).of_layer(node)
        decoder = next((n for n in self._model.graph.node if name in n.output), None)
        levels, scales = None, 1
        if chain is not None:
            # Of a codebook each weight may have many values, of which few bits choose: the bits count.
            most = math.ceil(2 ** (chain.stored_bits / max(math.prod(chain.shape), 1)))
            levels, scales = min(int(np.unique(chain.codes()).size), most), int(chain.scale().size)
        elif decoder is not None and op_of(decoder) == "DequantizeLinear" and decoder.input[0] in stored:
            levels = int(np.unique(numpy_helper.to_array(stored[decoder.input[0]])).size)
            scale = stored.get(decoder.input[1])
            scales = 1 if scale is None else int(np.prod(scale.dims, dtype=np.int64))
        if values.size // max(scales, 1) <= LEVELS_OF_4_BITS:  # then each may have a code of its own
            levels = None
        return levels, scales, _reaches(node, values)

    def _computed(self, name: str) -> Array:
        model, _ = fed_at(self._model, {}, [name])
        return Session(model, label="the weight").run({}, [name])[0]

    def _joined(self, name: str) -> list[str]:
        """The tensors that the float network's Concat joins to this one; none elsewhere."""
        node = self._makers.get(name)
        joined = [] if node is None or op_of(node) != "Concat" else list(node.input)
        return joined if all(part in self._pair.kinds for part in joined) else []

    def _cuts(self, name: str) -> bool:
        """Whether all that reads a tensor in the float network cuts its negative values off, or nearly."""
        found = self._readers.get(name, [])
        return bool(found) and all(op_of(node) in CUTS for node in found)


def _reaches(node: onnx.NodeProto, values: Array) -> Float:
    """How far the weights of each output channel reach."""
    first = op_of(node, RUNTIME_DOMAINS) in ("Conv", "QLinearConv") or _transposes(node)
    rows = np.abs(np.moveaxis(np.asarray(np.atleast_2d(values), np.float64), 0 if first else -1, 0))
    found: Float = rows.reshape(len(rows), -1).max(axis=1)
    return found


def _transposes(node: onnx.NodeProto) -> bool:
    return op_of(node) == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
