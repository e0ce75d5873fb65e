"""Make BatchNormalization part of the layer in front of it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.edit import Namer, remove
from dfmpc_onnx.graph.operators import batch_norm_parameters, op_of
from dfmpc_onnx.graph.query import constant, has_input, input_constant, nodes_by_name
from dfmpc_onnx.pipeline.facts import (
    Codes,
    FloatStatistics,
    FoldedBatchNorms,
    Layer,
    Layers,
    Pairs,
    Recalibrated,
)
from dfmpc_onnx.pipeline.manager import NoOptions, Pass, PassResult, Refusal, Rewrite
from dfmpc_onnx.pipeline.workspace import Workspace


class FoldBatchNorm(Pass[NoOptions]):
    """Before: Conv(x, scale * codes, b) -> BatchNormalization(gamma, beta, m, s)
    After: Conv(x, (scale gamma / s) * codes, (b - m) gamma / s + beta)

    Why: the normalization is affine per output channel, so it is a new scale a channel and a new bias; the codes
    stay. A negative gamma would make a negative scale, which some runtimes refuse: the codes are mirrored instead.
    A gamma or c of 0 would make a scale 0: the codes become 0 and the scale 1.

    Requires: the layers and their codes.

    Refuses when: the BatchNormalization does not stand alone behind a layer; it stays a node of its own.

    Reference: docs/method.md, section 6, folding traps.
    """

    name = "fold_batch_norm"
    requires: ClassVar = (Layers, Codes)
    provides: ClassVar = (FoldedBatchNorms,)
    discards: ClassVar = (Pairs, Recalibrated, FloatStatistics)

    def run(self, workspace: Workspace) -> PassResult:
        graph = workspace.graph
        nodes = nodes_by_name(graph)
        names = Namer(graph)
        layers, dead, rewrites = [], [], []
        for layer in workspace.get(Layers).all:
            norm = nodes.get(layer.batch_norm) if layer.batch_norm else None
            # The axis of a ConvTranspose that was refused may not be that of its output channels.
            kinds = ("Conv", "Gemm", "ConvTranspose") if layer.refused is None else ("Conv", "Gemm")
            foldable = norm is not None and layer.op in kinds and constant(nodes[layer.name].inputs[1]) is not None
            if norm is not None and foldable and _scalable(nodes[layer.name], layer):
                _fold(workspace, nodes[layer.name], norm, layer, names)
                dead.append(norm)
                rewrites.append(Rewrite(norm.name, f"folded into {layer.name}"))
                layer = dataclasses.replace(layer, batch_norm=None)
            layers.append(layer)
        remove(graph, dead)
        workspace.put(Layers(tuple(layers), workspace.get(Layers).nested))
        workspace.put(FoldedBatchNorms(len(dead)))
        left = [node.name for node in graph.nodes if op_of(node) == "BatchNormalization"]
        why = "no layer stands alone in front of it; it stays a node"
        refusals = tuple(Refusal(name, why, "no-layer-in-front") for name in left)
        return PassResult(self.name, tuple(rewrites), refusals)


def _scalable(node: gs.Node, layer: Layer) -> bool:
    """Whether weight and bias are known, one number a channel, and the layer is a plain product and sum."""
    plain = float(node.attrs.get("alpha", 1.0)) == 1.0 and float(node.attrs.get("beta", 1.0)) == 1.0
    weight, bias = input_constant(node, 1), input_constant(node, 2)
    known = not has_input(node, 2) or (bias is not None and bias.size in (1, layer.channels))
    return plain and known and weight is not None and weight.dtype == np.float32


def _fold(workspace: Workspace, node: gs.Node, batch_norm: gs.Node, layer: Layer, names: Namer) -> None:
    norm = batch_norm_parameters(batch_norm)
    assert norm is not None  # find_layers names only BatchNormalizations with constant parameters
    shape = tuple(-1 if i == layer.axis else 1 for i in range(len(layer.shape)))
    factor = norm.factor.reshape(shape).astype(np.float32)
    quantized = workspace.codes().get(layer.name)
    if quantized is None:
        node.inputs[1].values = (np.asarray(constant(node.inputs[1])) * factor).astype(np.float32)
    else:
        workspace.set_weight(node, quantized.scaled(factor))
    bias = input_constant(node, 2)
    old = 0.0 if bias is None else np.asarray(bias, np.float64).reshape(-1)
    folded = ((old - norm.mean) * norm.factor + norm.beta).astype(np.float32)
    tensor = gs.Constant(names(f"{node.name}.bias"), folded)
    node.inputs = [*node.inputs[:2], tensor]
    node.outputs = list(batch_norm.outputs)
