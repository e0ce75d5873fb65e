"""Find the layers, and which of them can get few bits because the next one repairs their error."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import shown
from dfmpc_onnx.graph.chains import Chain, Link, Match, Mismatch
from dfmpc_onnx.graph.channels import channel_count, channel_readings, joins_channels
from dfmpc_onnx.graph.constant_folding import origin
from dfmpc_onnx.graph.edit import Namer
from dfmpc_onnx.graph.operators import batch_norm_parameters, is_weighted, op_of
from dfmpc_onnx.graph.query import (
    constant,
    consumers,
    describe,
    has_input,
    input_constant,
    nested_nodes,
    only_consumer,
    producer,
)
from dfmpc_onnx.pipeline.facts import Layer, Layers, Normalized, Pair, Pairs, Position
from dfmpc_onnx.pipeline.manager import NoOptions, Pass, PassResult, Refusal, Rewrite
from dfmpc_onnx.pipeline.refusals import Reason
from dfmpc_onnx.pipeline.workspace import Workspace


def _trained_norm(node: gs.Node) -> str | None:
    if node.attrs.get("training_mode", 0) or len(node.outputs) > 1:
        return "it is in training mode"
    return "its parameters are not constants" if batch_norm_parameters(node) is None else None


def _contracting(node: gs.Node) -> str | None:
    """Why an activation may enlarge an error; None where it cannot."""
    if op_of(node) not in ("LeakyRelu", "PRelu"):
        return None
    slope = input_constant(node, 1) if op_of(node) == "PRelu" else np.array(float(node.attrs.get("alpha", 0.01)))
    if slope is None:
        return "its slope is computed"
    return None if np.abs(slope).max(initial=0.0) <= 1 else "its slope is over 1, so it enlarges errors"


ACTIVATION = Link("activation", frozenset({"Relu", "LeakyRelu", "PRelu", "Clip"}), optional=True, check=_contracting)
CHAIN = Chain(
    (
        Link("low", frozenset({"Conv"})),
        Link("batch_norm", frozenset({"BatchNormalization"}), optional=True, check=_trained_norm),
        ACTIVATION,
        Link("pool", frozenset({"MaxPool", "AveragePool"}), repeated=True),
        Link("high", frozenset({"Conv"})),
    )
)
# What reads a low layer among others. The last one of a DenseNet is the classifier.
READER = Chain(
    (
        Link("batch_norm", frozenset({"BatchNormalization"}), check=_trained_norm),
        ACTIVATION,
        Link("pool", frozenset({"MaxPool", "AveragePool", "GlobalAveragePool"}), repeated=True),
        Link("flat", frozenset({"Flatten", "Reshape"}), repeated=True),
        Link("high", frozenset({"Conv", "Gemm", "MatMul"})),
    )
)


class PairConvolutions(Pass[NoOptions]):
    """Before: Conv -> BatchNormalization -> Relu -> Conv; or Conv -> Concat -> several BN -> Relu -> Conv (DenseNet)
    After: the same graph; the first Conv is known as low, the second as the high one that repairs it

    Why: with A = relu(BN(X)), |c A^ - A| <= |c BN(X^) - BN(X)| for c >= 0 (DF-MPC, equation 19), so a factor per
    channel between the two Convs can repair what quantizing the first one broke. So it is for LeakyRelu and PRelu of
    slopes up to 1. Clip is 1-Lipschitz, so the bound holds with c in front of it. From the last Conv of a chain
    backward every second one is low, if it can be: in a basic block the first 3x3, in a bottleneck the 3x3, in a plain
    chain every other one. Where Concats bring the output to several BatchNormalizations each of them has its own
    channels to scale for it: in a DenseNet the 3x3 is low, the 1x1 and the classifier high. Refused as low: the first
    layer, depthwise and grouped Convs, and those whose output does not reach the next Conv alone, or every
    BatchNormalization as it is. Where the BatchNormalization was folded into the Conv the pair is one all the same,
    for the recipes that measure on images.

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
        pairs, refused = _choose(graph, layers)
        ordered = [pair for layer in layers.all for pair in pairs.get(layer.name, ())]
        workspace.put(layers)
        workspace.put(Pairs(tuple(ordered), refused))
        rewrites = tuple(
            Rewrite(low, f"few bits; repaired in '{shown(first.high)}'" + (f" and {len(more)} more" if more else ""))
            for low, (first, *more) in workspace.get(Pairs).by_low().items()
        )
        reasons = {layer.name: layer.refused or refused.get(layer.name) for layer in layers.with_nested}
        refusals = tuple(Refusal.of(name, reason) for name, reason in reasons.items() if reason)
        return PassResult(self.name, rewrites, refusals)


def _choose(graph: gs.Graph, layers: Layers) -> tuple[dict[str, tuple[Pair, ...]], dict[str, Reason]]:
    """The pairs of each low layer, and for every other layer why it is not low.

    First come those that several read, since all of those that repair one must stay high: a chain in front of one
    of these must not make it low.
    """
    by_name = layers.by_name()
    nodes = [node for node in reversed(graph.nodes) if node.name in by_name]
    joined = {node.name for node in nodes if _joins(node)}
    pairs: dict[str, tuple[Pair, ...]] = {}
    refused: dict[str, Reason] = {}
    repairs: dict[str, str] = {}
    for node in sorted(nodes, key=lambda node: node.name not in joined):
        found = _pairs(graph, node, by_name[node.name], by_name, node.name in joined)
        if isinstance(found, Reason):
            refused[node.name] = found
            continue
        low = next((pair.high for pair in found if pair.high in pairs), None)
        if node.name in repairs:
            why = f"it repairs '{shown(repairs[node.name])}', which gets few bits itself"
            refused[node.name] = Reason("repairs-a-low-layer", why)
        elif low is not None:
            why = f"the next layer '{shown(low)}' gets few bits itself; this one repairs nothing"
            refused[node.name] = Reason("next-layer-is-low", why)
        else:
            pairs[node.name] = found
            repairs = {pair.high: node.name for pair in found} | repairs
    return pairs, refused


def _joins(node: gs.Node) -> bool:
    """Whether a layer's output is read among others': by a Concat, or by several BatchNormalizations."""
    readers = consumers(node.outputs[0])
    several = len(readers) > 1 and all(op_of(reader) == "BatchNormalization" for reader in readers)
    return several or any(joins_channels(reader) for reader in readers)


def find_layers(graph: gs.Graph) -> list[Layer]:
    """Every Conv, ConvTranspose, Gemm and MatMul with a weight, in graph order; positions marked."""
    found: list[Layer] = []
    for node in graph.nodes:
        if not is_weighted(node):
            continue
        tensor = node.inputs[1]
        if op_of(node) == "MatMul" and not isinstance(tensor, gs.Constant):
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
        if op_of(node) == "MatMul" and not shape:
            continue
        reason = Reason("nested-layer", f"it lies in {place}, which is not entered; left in float")
        found.append(Layer(names(path), node.op, tensor.name, shape, 0, refused=reason))
    return found


def _shape(tensor: gs.Tensor) -> tuple[int, ...]:
    """The shape of a constant, or of what a Constant node makes; empty where a weight is computed or handed in."""
    by = producer(tensor)
    value = by.attrs.get("value") if by is not None and op_of(by) == "Constant" else tensor
    return tuple(int(d) for d in value.shape) if isinstance(value, gs.Constant) else ()


def _layer(graph: gs.Graph, node: gs.Node, tensor: gs.Tensor) -> Layer:
    groups = int(node.attrs.get("group", 1))
    shape = tuple(int(d) for d in tensor.shape) if isinstance(tensor, gs.Constant) else ()
    # A depthwise ConvTranspose has weights [in, 1, ...]: its output channels are its input channels.
    depthwise_up = op_of(node) == "ConvTranspose" and groups > 1
    first = op_of(node) == "Conv" or bool(node.attrs.get("transB", 0)) or depthwise_up
    axis = 0 if first else 1
    following = only_consumer(graph, node.outputs[0])
    norm = None
    if isinstance(following, gs.Node) and op_of(following) == "BatchNormalization" and _trained_norm(following) is None:
        norm = following.name
    reason = _unquantizable(node, tensor)
    return Layer(node.name, node.op, tensor.name, shape, axis, groups, norm, refused=reason)


def _unquantizable(node: gs.Node, tensor: gs.Tensor) -> Reason | None:
    if not isinstance(tensor, gs.Constant):
        return Reason("computed-weight", origin(tensor).text)
    if isinstance(node.inputs[0], gs.Constant):
        return Reason("constant-input", "its input is a constant; nothing flows through it")
    if tensor.dtype != np.float32:
        return Reason("weight-type", f"its weight is {np.dtype(tensor.dtype).name}, not float32")
    if len(tensor.shape) < 2 or 0 in tensor.shape:
        return Reason("weight-shape", f"its weight has shape {list(tensor.shape)}")
    if op_of(node) == "ConvTranspose" and int(node.attrs.get("group", 1)) > 1 and int(tensor.shape[1]) != 1:
        why = "a grouped ConvTranspose: its output channels lie along no axis of its weight; left in float"
        return Reason("grouped-conv-transpose", why)
    if op_of(node) == "MatMul" and len(tensor.shape) != 2:
        return Reason("weight-shape", f"its weight has {len(tensor.shape)} dimensions; a matrix has 2")
    if op_of(node) == "Gemm" and node.attrs.get("transA", 0):
        return Reason("transposed-input", "its input is transposed (transA)")
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


def _pairs(
    graph: gs.Graph, node: gs.Node, layer: Layer, layers: dict[str, Layer], joined: bool
) -> tuple[Pair, ...] | Reason:
    """The pairs that a layer is the low half of, or why it cannot be."""
    if layer.refused is not None:
        return layer.refused
    if layer.op != "Conv":
        return Reason("not-a-conv", "only the error of a Conv can be repaired in the next layer")
    if layer.position == "first":
        return Reason("first-layer", "it is the first layer: nothing in front of it is normalized")
    if layer.depthwise:
        why = "a depthwise Conv: its few weights leave nothing to average over"
        return Reason("depthwise-conv", why)
    if layer.groups > 1:
        return Reason("grouped-conv", "a Conv of several groups")
    if has_input(node, 2) and constant(node.inputs[2]) is None:
        return Reason("computed-bias", "its bias is computed, so its statistics without it are not known")
    if joined:
        return _read_by_several(graph, node, layer, layers)
    found = CHAIN.match(graph, node)
    if isinstance(found, Mismatch):
        return Reason("no-chain", found.reason)
    pair = _as_pair(node.name, found, layers)
    return pair if isinstance(pair, Reason) else (pair,)


def _read_by_several(
    graph: gs.Graph, node: gs.Node, layer: Layer, layers: dict[str, Layer]
) -> tuple[Pair, ...] | Reason:
    """A pair with each BatchNormalization that reads a layer's output among that of others."""
    if all(size == 1 for size in layer.shape[2:]):
        why = "a 1x1 Conv whose output is joined to others: it repairs the wider ones in front of it"
        return Reason("joined-1x1-conv", why)
    readings = channel_readings(graph, node.outputs[0])
    if isinstance(readings, str):
        return Reason("no-chain", readings)
    found: list[Pair] = []
    for reading in readings:
        if op_of(reading.node) != "BatchNormalization":
            return Reason("no-chain", f"{describe(reading.node)} reads it, not BatchNormalization")
        match = READER.match(graph, reading.node)
        if isinstance(match, Mismatch):
            return Reason("no-chain", match.reason)
        norm = batch_norm_parameters(reading.node)
        size = channel_count(reading.node.inputs[0])
        if norm is None or len(norm.gamma) < reading.offset + layer.shape[0] or size not in (None, len(norm.gamma)):
            why = f"{describe(reading.node)} does not have as many channels as its input"
            return Reason("channels-differ", why)
        pair = _as_pair(node.name, match, layers)
        if isinstance(pair, Reason):
            return pair
        found.append(dataclasses.replace(pair, offset=reading.offset))
    return tuple(found)


def _as_pair(low: str, found: Match, layers: dict[str, Layer]) -> Pair | Reason:
    norm, activation, high = found.one("batch_norm"), found.one("activation"), found.one("high")
    assert high is not None  # not optional in the chain
    partner = layers.get(high.name)
    if partner is None:
        return Reason("next-layer-unfit", f"the weight of the next layer '{shown(high.name)}' is computed")
    if partner.refused is not None:
        why = f"the next layer '{shown(high.name)}' cannot repair it: {partner.refused}"
        return Reason("next-layer-unfit", why)
    exact = activation is None or op_of(activation) != "Clip"
    return Pair(low, norm.name if norm else None, activation.name if activation else None, high.name, exact)
