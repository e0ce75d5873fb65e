"""Make a BatchNormalization that no layer could take in a depthwise Conv, which has an integer kernel."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.edit import Namer
from dfmpc_onnx.graph.operators import batch_norm_parameters, op_of
from dfmpc_onnx.graph.query import element_type, only_consumer
from dfmpc_onnx.numerics.batch_norm import BatchNormParameters
from dfmpc_onnx.numerics.quantized import QuantizedWeight
from dfmpc_onnx.pipeline.facts import BitPlan, Codes, FoldedBatchNorms, Layer, LayerBits, Layers, Ranges
from dfmpc_onnx.pipeline.manager import NoOptions, Pass, PassResult, Refusal, Rewrite
from dfmpc_onnx.pipeline.refusals import Reason
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.qdq.placement import Placer

LARGEST_CODE = 63  # a code that also the reduced range has


class BatchNormToConv(Pass[NoOptions]):
    """Before: Conv -> Relu -> BatchNormalization(gamma, beta, m, s) -> Conv
    After: Conv -> Relu -> Conv(scale * codes, bias), one 1x1 filter a channel -> Conv

    Why: y = (gamma / s) x + (beta - m gamma / s) is a depthwise Conv with one weight a channel. Each has a scale of its
    own, so its code stands for it exactly: no accuracy is lost, and the layers on both sides need not leave integers.

    Requires: ranges and codes, and the BatchNormalizations behind layers folded.

    Refuses when: activations stay in float, or the target's operators between layers have no integer kernels; the range
    on either side is not known, or no layer that computes in integers reads the result.

    Reference: Jacob et al. 2018, section 3.2 (folding, where a layer stands in front).
    """

    name = "batch_norm_to_conv"
    requires: ClassVar = (Ranges, Codes, Layers, FoldedBatchNorms)
    provides: ClassVar = (Codes, Layers)

    def run(self, workspace: Workspace) -> PassResult:
        settings = workspace.settings
        if settings.activations == "none" or not settings.target.between or workspace.graph.opset < 13:
            return PassResult(self.name, notes=("nothing between layers computes in integers",))
        graph = workspace.graph
        ranges, layers = workspace.get(Ranges).tensors, workspace.get(Layers)
        chosen = Placer.of(workspace).place().tensors
        names = Namer(graph)
        made: list[Layer] = []
        refusals = []
        for node in graph.nodes:
            if op_of(node) != "BatchNormalization":
                continue
            norm = batch_norm_parameters(node)
            reason = _obstacle(graph, node, norm, set(ranges), set(chosen))
            if reason or norm is None:
                refusals.append(Refusal.of(node.name, reason or COMPUTED))
                continue
            made.append(_convert(workspace, node, norm, names))
        workspace.put(Layers((*layers.all, *made), layers.nested))
        plan = workspace.find(BitPlan)
        if plan is not None:
            eight = LayerBits(8, "8-bit", "BatchNormalization as a depthwise Conv, exact")
            workspace.put(BitPlan({**plan.layers, **{layer.name: eight for layer in made}}))
        rewrites = tuple(Rewrite(layer.name, "BatchNormalization to a depthwise Conv") for layer in made)
        return PassResult(self.name, rewrites, tuple(refusals))


COMPUTED = Reason("computed-parameters", "its parameters are computed")


def _obstacle(
    graph: gs.Graph, node: gs.Node, norm: BatchNormParameters | None, ranges: set[str], chosen: set[str]
) -> Reason | None:
    """Why a BatchNormalization stays one; None where it can be a Conv."""
    shape = node.inputs[0].shape
    following = only_consumer(graph, node.outputs[0])
    behind = following.outputs[0] if isinstance(following, gs.Node) and op_of(following) in ("Relu", "Clip") else None
    ends = [t.name for t in (node.outputs[0], behind) if t is not None]
    if norm is None:
        return COMPUTED
    if element_type(node.inputs[0]) not in (None, np.dtype(np.float32)):
        return Reason("input-type", "its input is not float32")
    if shape is None or len(shape) != 4:
        return Reason("not-a-map", "its input is no map of two dimensions")
    if node.inputs[0].name not in ranges or not any(name in ranges for name in ends):
        return Reason("range-unknown", "the range of its input or output is not known")
    if not any(name in chosen for name in ends):
        return Reason("no-integer-reader", "no layer that computes in integers reads it")
    return None


def _convert(workspace: Workspace, node: gs.Node, norm: BatchNormParameters, names: Namer) -> Layer:
    factor = norm.factor.reshape(-1, 1, 1, 1).astype(np.float32)
    unit = QuantizedWeight(
        np.full(factor.shape, LARGEST_CODE, np.int8),
        np.full(factor.shape, np.float32(1 / LARGEST_CODE)),
        np.zeros(factor.shape, np.float32),
        8,
    )
    tensor = gs.Constant(names(f"{node.name}.weight"), factor)
    bias = gs.Constant(names(f"{node.name}.bias"), (norm.beta - norm.mean * norm.factor).astype(np.float32))
    node.op, node.inputs = "Conv", [node.inputs[0], tensor, bias]
    node.attrs.clear()
    node.attrs.update({"group": len(factor), "kernel_shape": [1, 1]})
    workspace.set_weight(node, unit.scaled(factor))
    return Layer(node.name, "Conv", tensor.name, tuple(factor.shape), 0, groups=len(factor))
