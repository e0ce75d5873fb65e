"""The range of every activation, from the network's own parameters."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from dfmpc_onnx.facts import Codes, Ranges
from dfmpc_onnx.manager import Pass, PassResult, Refusal
from dfmpc_onnx.numerics.ranges import DEVIATIONS, moment_range
from dfmpc_onnx.propagation import propagate
from dfmpc_onnx.workspace import Workspace


class EstimateRangesOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """deviations: how far from the mean a range reaches, in standard deviations."""

    deviations: float = DEVIATIONS


class EstimateRanges(Pass[EstimateRangesOptions]):
    """Before: BatchNormalization -> Relu with unknown range
    After: the same graph; the range is [0, max(beta + 6 |gamma|)] over the channels

    Why: behind a BatchNormalization a channel is N(beta, gamma^2) up to its shape, so mean +- 6 deviations, through
    the activation, holds all but rare outliers; a sum adds means and variances. An input has the range of the bytes
    0 to 255 after the preprocess.

    Requires: codes (the quantized network's BatchNormalizations count, not the float one's), and BN not yet folded.

    Refuses when: an operator has no rule; the layers on both sides then compute in float, with integer weights.

    Reference: METHOD, section 7; Nagel et al. 2019, section 4 (the same idea).
    """

    name = "estimate_ranges"
    Options = EstimateRangesOptions
    requires: ClassVar = (Codes,)
    provides: ClassVar = (Ranges,)

    def run(self, workspace: Workspace) -> PassResult:
        if workspace.settings.activations == "none":
            workspace.put(Ranges({}))
            return PassResult(self.name, notes=("activations stay in float: no ranges needed",))
        known, unknown = propagate(workspace.graph, workspace.settings.preprocess)
        ranges = {}
        for name, m in known.items():
            ranges[name] = moment_range(m.mean, m.variance, m.low, m.high, self.options.deviations)
        for tensor in workspace.graph.inputs:
            if tensor.name in known:
                ranges[tensor.name] = (float(known[tensor.name].low.min()), float(known[tensor.name].high.max()))
        workspace.put(Ranges(ranges))
        refusals = tuple(Refusal(name, reason) for name, reason in unknown.items())
        return PassResult(self.name, refusals=refusals, notes=(f"{len(ranges)} ranges",))
