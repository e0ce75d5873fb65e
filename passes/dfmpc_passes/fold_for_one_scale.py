"""Make BatchNormalization part of the layer in front of it first, where weights may not have a scale a channel."""

from __future__ import annotations

from typing import ClassVar

import msgspec
import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.edit import Namer, remove
from dfmpc_onnx.graph.operators import batch_norm_parameters, op_of
from dfmpc_onnx.graph.query import constant, has_input, input_constant, only_consumer, producer
from dfmpc_onnx.numerics.batch_norm import SMALLEST
from dfmpc_onnx.pipeline.facts import Normalized
from dfmpc_onnx.pipeline.manager import Pass, PassResult, Rewrite
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.grid_rules import GridRules


class FoldForOneScaleOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """whole: whether the shift goes into the layer's bias too, and no BatchNormalization is left."""

    whole: bool = False


class FoldForOneScale(Pass[FoldForOneScaleOptions]):
    """Before: Conv(x, w, b) -> BatchNormalization(gamma, beta, m, s)
    After: Conv(x, w f, b f) -> BatchNormalization(g, beta, m f, g) with f = gamma / s, in float: a shift alone

    Why: what is folded into a quantized weight becomes a factor of its scale, another for each channel. A target that
    has one scale a tensor, or powers of two alone, cannot hold it, and rounding the weight a second time would lose
    what compensation and error feedback have gained. So the float weight takes the factors, and is rounded once, on the
    grid that it will have. What stays of the BatchNormalization is its shift, which becomes a bias at the end, and what
    it measured in training: mean and deviation of each channel, g^2 = gamma^2 (s^2 - epsilon) / s^2.

    Requires: a normalized graph.

    Refuses when: nothing is refused; a BatchNormalization stays that does not stand alone behind a layer with constant
    weight, or whose layer shares its weight with another. Where the target allows any scale nothing is done.

    Reference: Jacob et al. 2018, section 3.2 (folding before quantization).
    """

    name = "fold_for_one_scale"
    Options = FoldForOneScaleOptions
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
            if axis is None or not alone or not _takes(node, norm, axis):
                continue
            _scale(node, norm, axis, names)
            if self.options.whole:
                _shift(node, norm, names)
                dead.append(norm)
            what = "folded" if self.options.whole else "its factor folded"
            rewrites.append(Rewrite(norm.name, f"{what} into {node.name} before it is quantized"))
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


def _takes(node: gs.Node, batch_norm: gs.Node, axis: int) -> bool:
    """Whether weight and bias of a layer are constants that take the normalization behind it."""
    norm, weight = batch_norm_parameters(batch_norm), constant(node.inputs[1])
    bias = input_constant(node, 2)
    known = not has_input(node, 2) or (bias is not None and bias.size in (1, len(norm.mean) if norm else 0))
    if norm is None or weight is None or weight.dtype != np.float32 or not known:
        return False
    return bool(weight.shape[axis] == len(norm.mean))


def _scale(node: gs.Node, batch_norm: gs.Node, axis: int, names: Namer) -> None:
    """Take the factor of a normalization into the layer in front; what is left of it has the factor 1."""
    norm, weight = batch_norm_parameters(batch_norm), np.asarray(constant(node.inputs[1]), np.float64)
    assert norm is not None  # _takes has looked
    factor = norm.factor.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    node.inputs[1] = gs.Constant(names(f"{node.inputs[1].name}.folded"), (weight * factor).astype(np.float32))
    if has_input(node, 2):
        bias = np.asarray(input_constant(node, 2), np.float64).reshape(-1) * norm.factor
        node.inputs[2] = gs.Constant(names(f"{node.name}.bias"), bias.astype(np.float32))
    spread = np.sqrt(np.maximum(norm.output_variance, SMALLEST))
    fresh = spread, norm.beta, norm.mean * norm.factor, np.square(spread) - SMALLEST
    batch_norm.attrs["epsilon"] = SMALLEST
    batch_norm.inputs = [
        batch_norm.inputs[0],
        *(gs.Constant(names(t.name), v.astype(np.float32)) for t, v in zip(batch_norm.inputs[1:], fresh, strict=True)),
    ]


def _shift(node: gs.Node, batch_norm: gs.Node, names: Namer) -> None:
    """Take what is left of a normalization into the layer's bias."""
    norm, bias = batch_norm_parameters(batch_norm), input_constant(node, 2)
    assert norm is not None  # as _scale has written it
    old = 0.0 if bias is None else np.asarray(bias, np.float64)
    fresh = gs.Constant(names(f"{node.name}.bias"), (old - norm.mean + norm.beta).astype(np.float32))
    node.inputs = [*node.inputs[:2], fresh]
    node.outputs = list(batch_norm.outputs)
