"""Turn float weights into codes; their dequantized values take their place in the graph."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec
import numpy as np

from dfmpc_onnx.facts import BitPlan, Codes, Layers, Originals, Pairs
from dfmpc_onnx.graph import constant, nodes_by_name
from dfmpc_onnx.manager import Pass, PassResult, Rewrite
from dfmpc_onnx.numerics.granularity import Granularity, PerAxis, PerTensor
from dfmpc_onnx.numerics.quantized import QuantizedWeight
from dfmpc_onnx.numerics.ternary import ternary, ternary_optimal
from dfmpc_onnx.numerics.uniform import dorefa, symmetric
from dfmpc_onnx.settings import FLOAT, TERNARY
from dfmpc_onnx.workspace import Workspace


class QuantizeWeightsOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """granularity: one scale a tensor, or one an output channel. ternary: the paper's threshold, or the scale and
    support of least squared error. uniform: the paper's DoReFa grid, or the integer grid with a zero."""

    granularity: Literal["per_tensor", "per_channel"] = "per_channel"
    ternary: Literal["threshold", "optimal"] = "threshold"
    uniform: Literal["dorefa", "symmetric"] = "symmetric"


class QuantizeWeights(Pass[QuantizeWeightsOptions]):
    """Before: Conv(x, w float)
    After: Conv(x, scale * (codes - zero_point)); codes, scale and zero point known beside the graph

    Why: ternary codes are +1, 0, -1 by W > D, |W| <= D, W < -D with D = 0.7 mean |W| (DF-MPC, equations 3 and 4);
    k bits are rounded to max|W| (2 q / (2^k - 1) - 1) (equation 6) or to integer multiples of a scale.

    Requires: a bit plan.

    Refuses when: never; layers that cannot be quantized are float in the plan.

    Reference: Li et al. 2016 (ternary); Zhou et al. 2016 (DoReFa); Chen et al. 2023, equations 3 to 6.
    """

    name = "quantize_weights"
    Options = QuantizeWeightsOptions
    requires: ClassVar = (BitPlan, Layers, Pairs)
    provides: ClassVar = (Codes, Originals)

    def run(self, workspace: Workspace) -> PassResult:
        plan = workspace.get(BitPlan).layers
        low = workspace.get(Pairs).by_low()
        nodes = nodes_by_name(workspace.graph)
        codes, originals, rewrites = {}, {}, []
        for layer in workspace.get(Layers).all:
            bits = plan[layer.name].bits
            if bits == FLOAT:
                continue
            tensor = nodes[layer.name].inputs[1]
            weight = np.asarray(constant(tensor), np.float32)
            quantized = self._quantize(weight, bits, layer.axis)
            tensor.values = quantized.dequantize()
            codes[layer.name] = quantized
            if layer.name in low:
                originals[layer.name] = weight
            rewrites.append(Rewrite(layer.name, "quantized", {"bits": quantized.bits, "sqnr_db": _sqnr(weight, tensor.values)}))
        workspace.put(Codes(codes))
        workspace.put(Originals(originals))
        return PassResult(self.name, tuple(rewrites))

    def _quantize(self, weight: np.ndarray, bits: int | str, axis: int) -> QuantizedWeight:
        per_channel = self.options.granularity == "per_channel"
        granularity: Granularity = PerAxis(axis) if per_channel else PerTensor()
        if bits == TERNARY or bits == 2:
            if self.options.ternary == "optimal":
                return ternary_optimal(weight, np.ones((1,) * weight.ndim, np.float32), granularity)
            return ternary(weight, granularity)
        return (dorefa if self.options.uniform == "dorefa" else symmetric)(weight, int(bits), granularity)


def _sqnr(weight: np.ndarray, dequantized: np.ndarray) -> float:
    signal = float(np.vdot(weight, weight))
    error = weight - dequantized
    noise = float(np.vdot(error, error))
    return round(10 * float(np.log10(signal / noise)), 2) if signal > 0 and noise > 0 else 200.0
