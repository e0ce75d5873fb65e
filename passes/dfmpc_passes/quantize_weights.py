"""Turn float weights into codes; their dequantized values take their place in the graph."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec
import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.graph.query import constant, nodes_by_name
from dfmpc_onnx.numerics.granularity import Granularity, PerAxis, PerTensor
from dfmpc_onnx.numerics.quantized import QuantizedWeight
from dfmpc_onnx.numerics.ternary import ternary, ternary_optimal
from dfmpc_onnx.numerics.uniform import dorefa, symmetric, with_zero_channels
from dfmpc_onnx.pipeline.facts import BitPlan, Codes, FloatStatistics, Layer, Layers, Originals
from dfmpc_onnx.pipeline.manager import Figure, Pass, PassResult, Rewrite
from dfmpc_onnx.pipeline.settings import FLOAT, TERNARY, BitWidth
from dfmpc_onnx.pipeline.shared_weights import layers_of_one_weight
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.qdq.kernel_pairs import LIMITED_OUTPUTS, without_saturation
from dfmpc_onnx.quantization.grid_rules import GridRules
from dfmpc_onnx.quantization.weight_grids import nearest


class QuantizeWeightsOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """granularity: one scale a tensor, or one an output channel. ternary: the paper's threshold, or the scale and
    support of least squared error, weighted by the second moment of the input channel where it is known.
    uniform: the paper's DoReFa grid, or the integer grid with a zero."""

    granularity: Literal["per_tensor", "per_channel"] = "per_channel"
    ternary: Literal["threshold", "optimal"] = "threshold"
    uniform: Literal["dorefa", "symmetric"] = "symmetric"


class QuantizeWeights(Pass[QuantizeWeightsOptions]):
    """Before: Conv(x, w float)
    After: Conv(x, scale * (codes - zero_point)); codes, scale and zero point known beside the graph

    Why: ternary codes are +1, 0, -1 by W > D, |W| <= D, W < -D with D = 0.7 mean |W| (DF-MPC, equations 3 and 4);
    k bits are rounded to max|W| (2 q / (2^k - 1) - 1) (equation 6) or to integer multiples of a scale. Layers that read
    one weight get one set of codes.

    Requires: a bit plan.

    Refuses when: never; layers that cannot be quantized are float in the plan.

    Reference: Li et al. 2016 (ternary); Zhou et al. 2016 (DoReFa); Chen et al. 2023, equations 3 to 6.
    """

    name = "quantize_weights"
    Options = QuantizeWeightsOptions
    requires: ClassVar = (BitPlan, Layers)
    provides: ClassVar = (Codes, Originals)

    def run(self, workspace: Workspace) -> PassResult:
        plan = workspace.get(BitPlan).layers
        statistics = workspace.find(FloatStatistics)
        nodes = nodes_by_name(workspace.graph)
        rules = GridRules.of(workspace.settings.target)
        workspace.put(Codes({}))
        originals, rewrites = {}, []
        groups = {layer.name: group for group in layers_of_one_weight(workspace) for layer in group}
        made: dict[tuple[str, BitWidth], tuple[QuantizedWeight, int]] = {}  # of the first of those that share a weight
        for layer in workspace.get(Layers).all:
            bits = plan[layer.name].bits
            if bits == FLOAT:
                continue
            if plan[layer.name].role == "auto":
                raise OptionError("weights 'auto': this recipe measures no error to choose by; give LOW/HIGH or BITS")
            weight = np.asarray(constant(nodes[layer.name].inputs[1]), np.float32)
            users, width = groups.get(layer.name, (layer,)), workspace.settings.rounded_at(bits)
            if (users[0].name, width) not in made:
                pooled = _pooled([_second_moment(nodes[user.name], user, statistics) for user in users])
                if not rules.leaves_free(layer.op):
                    found = nearest(weight, layer, width, rules)
                else:
                    found = self._quantize(weight, width, layer.axis, pooled)
                limits = workspace.settings.limits_pairs
                made[users[0].name, width] = without_saturation(layer, weight, found) if limits else (found, 0)
            quantized, limited = made[users[0].name, width]
            values = workspace.set_weight(nodes[layer.name], quantized)
            if plan[layer.name].role == "low":
                originals[layer.name] = weight
            figures: dict[str, Figure] = {"bits": quantized.bits, "sqnr_db": _sqnr(weight, values)}
            if limited:
                figures[LIMITED_OUTPUTS] = limited
            rewrites.append(Rewrite(layer.name, "quantized", figures))
        workspace.put(Originals(originals))
        return PassResult(self.name, tuple(rewrites))

    def _quantize(self, weight: np.ndarray, bits: BitWidth, axis: int, second_moment: np.ndarray) -> QuantizedWeight:
        per_channel = self.options.granularity == "per_channel"
        granularity: Granularity = PerAxis(axis) if per_channel else PerTensor()
        if bits == TERNARY or float(bits) < 3:
            if self.options.ternary == "optimal":
                return ternary_optimal(weight, second_moment, granularity)
            return ternary(weight, granularity)
        if self.options.uniform == "dorefa":
            return with_zero_channels(dorefa(weight, int(bits), granularity), weight, axis)
        return symmetric(weight, int(bits), granularity)


def _second_moment(node: gs.Node, layer: Layer, statistics: FloatStatistics | None) -> np.ndarray:
    """``E[A_i^2]`` of a Conv's input channels, shaped to broadcast against its weight; ones where not known."""
    ones = np.ones((1,) * len(layer.shape), np.float32)
    moments = statistics.tensors.get(node.inputs[0].name) if statistics else None
    if moments is None or layer.op != "Conv" or layer.groups != 1 or len(moments.mean) != layer.shape[1]:
        return ones
    second = moments.variance + np.square(moments.mean)
    return np.minimum(second, np.finfo(np.float32).max).astype(np.float32).reshape(1, -1, *ones.shape[2:])


def _pooled(moments: list[np.ndarray]) -> np.ndarray:
    """The mean of those that are known, of one mean each; where none is, ones."""
    if len(moments) == 1:
        return moments[0]
    known = [moment / moment.mean(dtype=np.float64) for moment in moments if moment.size > 1 and moment.any()]
    return np.asarray(np.mean(known, axis=0) if known else np.ones_like(moments[0]), np.float32)


def _sqnr(weight: np.ndarray, dequantized: np.ndarray) -> float:
    signal = float(np.vdot(weight, weight))
    error = weight - dequantized
    noise = float(np.vdot(error, error))
    return round(10 * float(np.log10(signal / noise)), 2) if signal > 0 and noise > 0 else 200.0
