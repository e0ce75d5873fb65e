"""Moments of every activation of the float network, from its weights and BatchNormalizations alone."""

from __future__ import annotations

from typing import ClassVar

from dfmpc_onnx.graph.operators import batch_norm_parameters, op_of
from dfmpc_onnx.pipeline.facts import FloatStatistics, Layers
from dfmpc_onnx.pipeline.manager import NoOptions, Pass, PassResult, Refusal
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.statistics.independent_moments import NOT_NEEDED, propagate


class EstimateStatistics(Pass[NoOptions]):
    """Before: BatchNormalization -> Relu with nothing known of their values
    After: the same graph; behind BN mean beta and variance gamma^2, behind Relu those of a rectified Gaussian

    Why: E relu(x) = b Phi(b/g) + g phi(b/g), E relu(x)^2 = (b^2 + g^2) Phi(b/g) + b g phi(b/g) for
    x ~ N(b, g^2); a sum adds means and variances; a Conv maps them by its weights' sums and sums of squares.
    Channels and pixels are taken as independent.

    Requires: the layers.

    Refuses when: an operator has no rule; tensors behind it stay unknown up to the next BatchNormalization.

    Reference: Chen et al. 2023, section 3; rectified Gaussian moments by integration.
    """

    name = "estimate_statistics"
    requires: ClassVar = (Layers,)
    provides: ClassVar = (FloatStatistics,)

    def run(self, workspace: Workspace) -> PassResult:
        tensors, unknown = propagate(workspace.graph, workspace.inputs)
        norms = {}
        for node in workspace.graph.nodes:
            if op_of(node) == "BatchNormalization":
                parameters = batch_norm_parameters(node)
                if parameters is not None:
                    norms[node.name] = parameters
        workspace.put(FloatStatistics(tensors, norms, unknown))
        refusals = tuple(
            Refusal(name, reason, "moments-unknown") for name, reason in unknown.items() if reason != NOT_NEEDED
        )
        notes = (f"{len(tensors)} activations described, {len(unknown)} not; {len(norms)} BatchNormalizations",)
        return PassResult(self.name, refusals=refusals, notes=notes)
