"""Make BatchNormalization part of the layer in front of it first, where weights may not have a scale a channel."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.edit import Namer, remove
from dfmpc_onnx.graph.operators import batch_norm_parameters, op_of
from dfmpc_onnx.graph.query import constant, has_input, input_constant, only_consumer, producer
from dfmpc_onnx.pipeline.facts import Normalized
from dfmpc_onnx.pipeline.manager import NoOptions, Pass, PassResult, Rewrite
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.grid_rules import GridRules


class FoldForOneScale(Pass[NoOptions]):
    """Before: Conv(x, w, b) -> BatchNormalization(gamma, beta, m, s)
    After: Conv(x, w gamma / s, (b - m) gamma / s + beta), in float

    Why: what is folded into a quantized weight becomes a factor of its scale, another for each channel. A target that
    has one scale a tensor, or powers of two alone, cannot hold it, and rounding the weight a second time would lose
    what compensation and error feedback have gained. So the float weight takes the factors, and is rounded once, on the
    grid that it will have.

    Requires: a normalized graph.

    Refuses when: nothing is refused; a BatchNormalization stays that does not stand alone behind a layer with constant
    weight, or whose layer shares its weight with another. Where the target allows any scale nothing is done.

    Reference: Jacob et al. 2018, section 3.2 (folding before quantization).
    """

    name = "fold_for_one_scale"
    requires: ClassVar = (Normalized,)

    def run(self, workspace: Workspace) -> PassResult:
        rules, graph = GridRules.of(workspace.settings.target), workspace.graph
        shared = workspace.get(Normalized).shared
        names, dead, rewrites = Namer(graph), [], []
        for norm in graph.nodes if workspace.settings.activations != "none" else ():
            node: gs.Node | None = producer(norm.inputs[0]) if op_of(norm) == "BatchNormalization" else None
            if node is None or rules.leaves_free(op_of(node)) or node.name in shared:
                continue
            axis = _output_axis(node)
            alone = only_consumer(graph, node.outputs[0]) is norm
            if axis is not None and alone and _fold(node, norm, axis, names):
                dead.append(norm)
                rewrites.append(Rewrite(norm.name, f"folded into {node.name} before it is quantized"))
        remove(graph, dead)
        return PassResult(self.name, tuple(rewrites))


def _output_axis(node: gs.Node) -> int | None:
    """The axis of the output channels in the weight of a layer; None for what is no layer of a plain product."""
    op = op_of(node)
    if op == "Conv":
        return 0
    if op == "ConvTranspose":
        return 1 if int(node.attrs.get("group", 1)) == 1 else None
    plain = all(float(node.attrs.get(name, 1.0)) == 1.0 for name in ("alpha", "beta"))
    return (0 if node.attrs.get("transB", 0) else 1) if op == "Gemm" and plain else None


def _fold(node: gs.Node, batch_norm: gs.Node, axis: int, names: Namer) -> bool:
    """Fold into a layer whose weight and bias are constants; whether that was done."""
    norm, weight = batch_norm_parameters(batch_norm), constant(node.inputs[1])
    bias = input_constant(node, 2)
    known = not has_input(node, 2) or (bias is not None and bias.size in (1, len(norm.mean) if norm else 0))
    if norm is None or weight is None or weight.dtype != np.float32 or not known or len(batch_norm.outputs) > 1:
        return False
    if weight.shape[axis] != len(norm.mean) or batch_norm.attrs.get("training_mode", 0):
        return False
    factor = norm.factor.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    scaled = (weight.astype(np.float64) * factor).astype(np.float32)
    old = 0.0 if bias is None else np.asarray(bias, np.float64).reshape(-1)
    folded = ((old - norm.mean) * norm.factor + norm.beta).astype(np.float32)
    fresh = gs.Constant(names(f"{node.inputs[1].name}.folded"), scaled)
    node.inputs = [node.inputs[0], fresh, gs.Constant(names(f"{node.name}.bias"), folded)]
    node.outputs = list(batch_norm.outputs)
    return True
