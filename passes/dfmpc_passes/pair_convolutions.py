"""Find the layers, and which of them can be quantized low because the next one repairs them."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.facts import Layer, Layers, Normalized, Pair, Pairs, Position
from dfmpc_onnx.graph import (
    Namer,
    constant,
    has_input,
    input_constant,
    is_weighted,
    nested_nodes,
    only_consumer,
    producer,
    shown,
)
from dfmpc_onnx.manager import NoOptions, Pass, PassResult, Refusal, Rewrite
from dfmpc_onnx.operators import batch_norm_parameters
from dfmpc_onnx.pattern import Chain, Match, Mismatch, Step
from dfmpc_onnx.workspace import Workspace
from dfmpc_passes.constant_folding import origin


def _trained_norm(node: gs.Node) -> str | None:
    if node.attrs.get("training_mode", 0) or len(node.outputs) > 1:
        return "it is in training mode"
    return "its parameters are not constants" if batch_norm_parameters(node) is None else None


def _contracting(node: gs.Node) -> str | None:
    """Why an activation may enlarge an error; None where it cannot."""
    if node.op not in ("LeakyRelu", "PRelu"):
        return None
    slope = input_constant(node, 1) if node.op == "PRelu" else np.array(float(node.attrs.get("alpha", 0.01)))
    if slope is None:
        return "its slope is computed"
    return None if np.abs(slope).max(initial=0.0) <= 1 else "its slope is over 1, so it enlarges errors"


CHAIN = Chain(
    (
        Step("low", frozenset({"Conv"})),
        Step("batch_norm", frozenset({"BatchNormalization"}), optional=True, check=_trained_norm),
        Step("activation", frozenset({"Relu", "LeakyRelu", "PRelu", "Clip"}), optional=True, check=_contracting),
        Step("pool", frozenset({"MaxPool", "AveragePool"}), repeated=True),
        Step("high", frozenset({"Conv"})),
    )
)


class PairConvolutions(Pass[NoOptions]):
    """Before: Conv -> BatchNormalization -> Relu -> Conv
    After: the same graph; the first Conv is known as low, the second as the high one that repairs it

    Why: with A = relu(BN(X)), |c A^ - A| <= |c BN(X^) - BN(X)| for c >= 0 (DF-MPC, equation 19), so a factor per
    channel between the two Convs can repair what quantizing the first one broke. So it is for LeakyRelu and PRelu of
    slopes up to 1. Clip is 1-Lipschitz, so the bound holds with c in front of it. From the last Conv of a chain
    backward every second one is low, if it can be: in a basic block the first 3x3, in a bottleneck the 3x3, in a plain
    chain every other one. Refused as low: the first layer, depthwise and grouped Convs, and those whose output does not
    reach the next Conv alone. Where the BatchNormalization was folded into the Conv the pair is one all the same, for
    the recipes that measure on images.

    Requires: a normalized graph.

    Refuses when: the chain is broken; the reason names the node where it breaks. A layer within control flow or
    within a function of the model's own stays in float.

    Reference: Chen et al. 2023, section 3 and figure 2.
    """

    name = "pair_convolutions"
    requires: ClassVar = (Normalized,)
    provides: ClassVar = (Layers, Pairs)

    def run(self, workspace: Workspace) -> PassResult:
        graph = workspace.graph
        layers = Layers(tuple(find_layers(graph)), tuple(nested_layers(graph)))
        by_name = layers.by_name()
        pairs: dict[str, Pair] = {}
        refused: dict[str, str] = {}
        for node in reversed(graph.nodes):
            layer = by_name.get(node.name)
            if layer is None:
                continue
            found = _pair(graph, node, layer, by_name)
            if isinstance(found, Pair) and found.high in pairs:
                refused[layer.name] = f"the next layer '{shown(found.high)}' is low itself; this one repairs nothing"
            elif isinstance(found, Pair):
                pairs[layer.name] = found
            else:
                refused[layer.name] = found
        ordered = [pairs[layer.name] for layer in layers.all if layer.name in pairs]
        workspace.put(layers)
        workspace.put(Pairs(tuple(ordered), refused))
        rewrites = tuple(Rewrite(p.low, f"low; repaired in '{shown(p.high)}'") for p in ordered)
        reasons = {layer.name: layer.refused or refused.get(layer.name) for layer in layers.listed}
        refusals = tuple(Refusal(name, reason) for name, reason in reasons.items() if reason)
        return PassResult(self.name, rewrites, refusals)


def find_layers(graph: gs.Graph) -> list[Layer]:
    """Every Conv, ConvTranspose, Gemm and MatMul with a weight, in graph order; positions marked."""
    found: list[Layer] = []
    for node in graph.nodes:
        if not is_weighted(node):
            continue
        tensor = node.inputs[1]
        if node.op == "MatMul" and not isinstance(tensor, gs.Constant):
            continue  # a product of two activations has no weight
        found.append(_layer(graph, node, tensor))
    live = [i for i, layer in enumerate(found) if layer.refused is None]
    last = _classifier(graph, found)
    for index in live:
        position: Position = "first" if index == live[0] else "last" if found[index].name == last else "inner"
        found[index] = dataclasses.replace(found[index], position=position)
    return found


def nested_layers(graph: gs.Graph) -> list[Layer]:
    """Every layer where no pass reaches, with the reason why it stays in float."""
    names = Namer(graph)
    found = []
    for path, place, node in nested_nodes(graph):
        if not is_weighted(node) or len(node.inputs) < 2:
            continue
        tensor = node.inputs[1]
        shape = _shape(tensor)
        if node.op == "MatMul" and not shape:
            continue
        reason = f"it lies in {place}, which is not entered; left in float"
        found.append(Layer(names(path), node.op, tensor.name, shape, 0, refused=reason))
    return found


def _shape(tensor: gs.Tensor) -> tuple[int, ...]:
    """The shape of a constant, or of what a Constant node makes; empty where a weight is computed or handed in."""
    by = producer(tensor)
    value = by.attrs.get("value") if by is not None and by.op == "Constant" else tensor
    return tuple(int(d) for d in value.shape) if isinstance(value, gs.Constant) else ()


def _layer(graph: gs.Graph, node: gs.Node, tensor: gs.Tensor) -> Layer:
    groups = int(node.attrs.get("group", 1))
    shape = tuple(int(d) for d in tensor.shape) if isinstance(tensor, gs.Constant) else ()
    axis = 0 if node.op == "Conv" or node.attrs.get("transB", 0) else 1
    following = only_consumer(graph, node.outputs[0])
    norm = None
    if isinstance(following, gs.Node) and following.op == "BatchNormalization" and _trained_norm(following) is None:
        norm = following.name
    reason = _unquantizable(node, tensor)
    return Layer(node.name, node.op, tensor.name, shape, axis, groups, norm, refused=reason)


def _unquantizable(node: gs.Node, tensor: gs.Tensor) -> str | None:
    if not isinstance(tensor, gs.Constant):
        return origin(tensor)
    if isinstance(node.inputs[0], gs.Constant):
        return "its input is a constant; nothing flows through it"
    if node.op == "ConvTranspose":
        return "ConvTranspose has no integer kernel in onnxruntime; left in float"
    if tensor.dtype != np.float32:
        return f"its weight is {np.dtype(tensor.dtype).name}, not float32"
    if len(tensor.shape) < 2 or 0 in tensor.shape:
        return f"its weight has shape {list(tensor.shape)}"
    if node.op == "MatMul" and len(tensor.shape) != 2:
        return f"its weight has {len(tensor.shape)} dimensions; a matrix has 2"
    if node.op == "Gemm" and node.attrs.get("transA", 0):
        return "its input is transposed (transA)"
    return None


def _classifier(graph: gs.Graph, layers: list[Layer]) -> str | None:
    """The one layer behind which no other layer lies on the way to the first output."""
    weighted = {layer.name: layer for layer in layers if layer.refused is None}
    stack = list(graph.outputs[:1])
    ends: list[str] = []
    seen: set[int] = set()
    while stack:
        node = producer(stack.pop())
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if node.name in weighted:
            ends.append(node.name)
        else:
            stack.extend(t for t in node.inputs if not isinstance(t, gs.Constant))
    return ends[0] if len(ends) == 1 else None


def _pair(graph: gs.Graph, node: gs.Node, layer: Layer, layers: dict[str, Layer]) -> Pair | str:
    """The pair that a layer is the low half of, or why it cannot be."""
    if layer.refused is not None:
        return layer.refused
    if layer.op != "Conv":
        return "only a Conv is quantized low"
    if layer.position == "first":
        return "the first layer is kept high: nothing in front of it is normalized"
    if layer.depthwise:
        return "a depthwise Conv is kept high: its few weights leave nothing to average over"
    if layer.groups > 1:
        return "a grouped Conv is kept high"
    if has_input(node, 2) and constant(node.inputs[2]) is None:
        return "its bias is computed, so its statistics without it are not known"
    found = CHAIN.match(graph, node)
    return found.reason if isinstance(found, Mismatch) else _as_pair(found, layers)


def _as_pair(found: Match, layers: dict[str, Layer]) -> Pair | str:
    low, norm, high = found.one("low"), found.one("batch_norm"), found.one("high")
    assert low is not None and high is not None  # not optional in the chain
    activation = found.one("activation")
    partner = layers[high.name]
    if partner.refused is not None:
        return f"the next layer '{shown(high.name)}' cannot repair it: {partner.refused}"
    if constant(high.inputs[1]) is None:
        return f"the weight of the next layer '{shown(high.name)}' is computed"
    exact = activation is None or activation.op != "Clip"
    return Pair(low.name, norm.name if norm else None, activation.name if activation else None, high.name, exact)
