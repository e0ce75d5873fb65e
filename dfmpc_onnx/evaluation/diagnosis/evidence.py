"""What is measured of a suspect, for the rules that name its cause."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from dfmpc_onnx.evaluation.diagnosis.roundings import Rounding
from dfmpc_onnx.evaluation.matched_tensors import RUNTIME_LAYERS, called, fed_at
from dfmpc_onnx.evaluation.paired_networks import PairedNetworks, within_bounds
from dfmpc_onnx.evaluation.tensor_sums import ChannelChange, TensorSums, channel_axis
from dfmpc_onnx.model.protos import RUNTIME_DOMAINS, initializers, makers, op_of
from dfmpc_onnx.numerics.arrays import Array, Float
from dfmpc_onnx.qdq.decode_chains import DecodeChains
from dfmpc_onnx.runtime.session import Session

LEVELS_OF_4_BITS = 16  # values of a weight, up to which 4 bits hold them


INTEGER_WEIGHTS: Mapping[str, int] = {"QLinearConv": 3, "QLinearMatMul": 3}  # followed by its scale


@dataclasses.dataclass(frozen=True)
class WeightEvidence:
    """Of a layer: what its weights alone do to its output, fed as in the float network.

    error: relative. channel, share, gain: the output channel with most of that error, its part of it, and what its
    values are beside the float network's. channels: how many there are. levels: how many values a weight takes, by its
    bits where a codebook's entries hold several; None where it is float, or has too few values to tell. scales: how
    many there are. reaches: the largest weight of each channel.
    """

    error: float
    channel: int
    share: float
    gain: float
    channels: int
    levels: int | None
    scales: int
    reaches: Float


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

    def of_weights(self, tensor: str, layer: str) -> WeightEvidence:
        """tensor: what the layer computes."""
        pieces, sums = self._pair.pieces([tensor], unrounded=tensor), TensorSums()
        for feeds, real in self._pair.feeds():
            plain = self._pair.plain(feeds, sorted({tensor, *pieces.inner}))
            change = self._factors.get(tensor)
            own = pieces.run(feeds, plain, self._factors)[tensor]
            own = within_bounds(own, plain[tensor]) if change is None and self._is_rounded(tensor) else own
            sums.add(plain[tensor], own, own, change, real)
        channel, share, gain = sums.worst() or (0, 0.0, 1.0)
        levels, scales, reaches = self._weight(layer)
        return WeightEvidence(sums.relative(sums.own), channel, share, gain, sums.channels, levels, scales, reaches)

    def is_integer(self, layer: str) -> bool:
        """Whether a layer of the quantized network is an operator on integers."""
        return op_of(self._nodes[layer]) in RUNTIME_LAYERS

    def _is_rounded(self, tensor: str) -> bool:
        return any(found.name == tensor != found.stands for found in self._pair.matching.tensors)

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

    def of_rounding(self, rounding: Rounding) -> RoundingEvidence:
        """What an activation is that a network with the float network's values in front would round there."""
        name, change = rounding.tensor, self._factors.get(rounding.tensor)
        known = name in self._pair.kinds
        parts = self._joined(name)
        noise = beyond_noise = signal = 0.0
        low, high, beyond, count = np.inf, -np.inf, 0, 0
        reaches: Float | None = None
        of_parts = dict.fromkeys(parts, 0.0)
        for feeds, _ in self._pair.feeds():
            plain = self._pair.plain(feeds, sorted({name, *parts})) if known else feeds
            x = np.asarray(plain[name], np.float64)
            x = x if change is None else change.put_in(x)
            inside = np.clip(x, rounding.low, rounding.high)
            rounded = np.round(inside / rounding.step) * rounding.step
            outside = np.abs(x - inside) > rounding.step / 2
            noise += float(np.square(x - rounded).sum())
            beyond_noise += float(np.square(x - rounded)[outside].sum())
            signal += float(np.square(x).sum())
            low, high = min(low, float(x.min())), max(high, float(x.max()))
            beyond, count = beyond + int(outside.sum()), count + x.size
            axis = channel_axis(x.shape)
            here = np.abs(x).max(axis=tuple(i for i in range(x.ndim) if i != axis))
            reaches = here if reaches is None or len(reaches) != len(here) else np.maximum(reaches, here)
            for part in parts:
                of_parts[part] = max(of_parts[part], float(np.abs(plain[part]).max()))
        return RoundingEvidence(
            low,
            high,
            beyond / max(count, 1),
            beyond_noise / noise if noise else 0.0,
            float(np.sqrt(noise / signal)) if signal else 0.0,
            np.zeros(1) if reaches is None else reaches,
            tuple(of_parts.values()),
            self._cuts(name),
        )

    def _joined(self, name: str) -> list[str]:
        """The tensors that the float network's Concat joins to this one; none elsewhere."""
        node = self._makers.get(name)
        joined = [] if node is None or op_of(node) != "Concat" else list(node.input)
        return joined if all(part in self._pair.kinds for part in joined) else []

    def _cuts(self, name: str) -> bool:
        """Whether all that reads a tensor in the float network cuts its negative values off, or nearly."""
        found = self._readers.get(name, [])
        return bool(found) and all(op_of(node) in CUTS for node in found)


CUTS = frozenset({"Relu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Softplus", "Elu"})


def _reaches(node: onnx.NodeProto, values: Array) -> Float:
    """How far the weights of each output channel reach."""
    first = op_of(node, RUNTIME_DOMAINS) in ("Conv", "QLinearConv") or _transposes(node)
    rows = np.abs(np.moveaxis(np.asarray(np.atleast_2d(values), np.float64), 0 if first else -1, 0))
    found: Float = rows.reshape(len(rows), -1).max(axis=1)
    return found


def _transposes(node: onnx.NodeProto) -> bool:
    return op_of(node) == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
