"""Where quantized activations go so that an execution provider computes in integers: rules of the CPU provider.

A layer fuses to QLinearConv or QGemm when its input comes from a DequantizeLinear, its weight from another, and its
output (through a Relu, or a Clip from 0 that covers the range) goes to a QuantizeLinear. The operators between
layers have integer kernels of their own; a tensor that they pass along keeps its scale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import onnx_graphsurgeon as gs

from dfmpc_onnx.facts import Layer
from dfmpc_onnx.graph import consumers, is_output, nodes_by_name, only_consumer
from dfmpc_onnx.propagation import Unknown, clip_bounds

# Operators whose output takes the scale of their input: they only move, choose or average values.
KEEPS_SCALE = frozenset({"MaxPool", "Flatten", "Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Resize"})
OWN_SCALE = frozenset({"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu", "Pad"})
FUSES_ACTIVATION = frozenset({"Conv", "Add"})


@dataclasses.dataclass(frozen=True)
class Sites:
    """Where to quantize.

    layers: names of the layers that compute in integers. tensors: the activations to quantize, in graph order, each
    with the tensor whose scale it takes (itself, mostly). refused: the layers that cannot, with the reason.
    """

    layers: frozenset[str]
    tensors: Mapping[str, str]
    refused: Mapping[str, str]


def effective_output(graph: gs.Graph, node: gs.Node) -> gs.Tensor:
    """The output of a node, or of the Relu or Clip from 0 that stands alone behind it and fuses with it."""
    following = only_consumer(graph, node.outputs[0])
    if isinstance(following, gs.Node) and following.op in ("Relu", "Clip") and node.op in FUSES_ACTIVATION:
        try:
            low, _ = clip_bounds(following)
        except Unknown:
            return node.outputs[0]
        if low == 0.0:
            return following.outputs[0]
    return node.outputs[0]


class Placer:
    """Decides, in graph order, which layers and tensors are quantized."""

    def __init__(self, graph: gs.Graph, layers: Mapping[str, Layer], ranges: Mapping[str, tuple[float, float]]) -> None:
        self._graph = graph
        self._layers = layers
        self._ranges = ranges
        self._tensors: dict[str, str] = {}
        self._refused: dict[str, str] = {}

    def place(self) -> Sites:
        nodes = nodes_by_name(self._graph)
        integer = {name for name, layer in self._layers.items() if self._fits(layer, nodes)}
        for node in self._graph.nodes:
            if node.name in integer:
                self._add(node.inputs[0])
                output = effective_output(self._graph, node)
                if node.op == "Conv" or self._wanted(output, integer):
                    self._add(output)
            elif node.op in KEEPS_SCALE | OWN_SCALE and node.domain in (None, "", "ai.onnx"):
                self._between(node, integer)
        order = {t.name: None for t in self._graph.inputs}
        order.update({t.name: None for node in self._graph.nodes for t in node.outputs})
        tensors = {name: self._tensors[name] for name in order if name in self._tensors}
        return Sites(frozenset(integer), tensors, self._refused)

    def _fits(self, layer: Layer, nodes: Mapping[str, gs.Node]) -> bool:
        node = nodes[layer.name]
        reason = None
        if node.inputs[0].name not in self._ranges:
            reason = "the range of its input is not known"
        elif effective_output(self._graph, node).name not in self._ranges:
            reason = "the range of its output is not known"
        elif layer.op == "Conv" and len(layer.shape) != 4:
            reason = f"a Conv of {len(layer.shape) - 2} spatial dimensions has no fast integer kernel"
        elif float(node.attrs.get("alpha", 1.0)) != 1.0 or float(node.attrs.get("beta", 1.0)) != 1.0:
            reason = "its alpha or beta is not 1"
        elif isinstance(node.inputs[0], gs.Constant):
            reason = "its input is a constant"
        if reason:
            self._refused[layer.name] = f"{reason}; integer weights, float arithmetic"
        return reason is None

    def _add(self, tensor: gs.Tensor, like: str | None = None) -> None:
        self._tensors.setdefault(tensor.name, self._tensors.get(like or "", like or tensor.name))

    def _wanted(self, tensor: gs.Tensor, integer: set[str]) -> bool:
        """Whether any reader of a tensor computes in integers."""
        return any(
            n.name in integer or n.op in KEEPS_SCALE | OWN_SCALE or n.op in ("Relu", "Clip") for n in consumers(tensor)
        )

    def _between(self, node: gs.Node, integer: set[str]) -> None:
        """An operator between layers: quantized where its inputs are, or can be, and somebody reads the result."""
        slots = node.inputs[:1] if node.op in KEEPS_SCALE or node.op == "Pad" else node.inputs
        variables = [t for t in slots if isinstance(t, gs.Variable) and not t.is_empty()]
        if not any(t.name in self._tensors for t in variables) or any(t.name not in self._ranges for t in variables):
            return
        if any(isinstance(t, gs.Constant) for t in slots) or len(node.outputs) > 1:
            return
        output = effective_output(self._graph, node)
        if is_output(self._graph, output) or not self._leads_to_layer(output, integer):
            return
        if node.op in KEEPS_SCALE:
            self._add(output, variables[0].name)
        elif output.name in self._ranges:
            for tensor in variables:
                self._add(tensor)
            self._add(output)

    def _leads_to_layer(self, tensor: gs.Tensor, integer: set[str]) -> bool:
        """Whether a layer that computes in integers lies behind a tensor, with only such operators between."""
        stack, seen = [tensor], set()
        while stack:
            for node in consumers(stack.pop()):
                if node.name in integer:
                    return True
                if id(node) not in seen and node.op in KEEPS_SCALE | OWN_SCALE | {"Relu", "Clip"}:
                    seen.add(id(node))
                    stack.extend(node.outputs)
        return False
