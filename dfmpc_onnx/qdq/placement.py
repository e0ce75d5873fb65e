"""Where quantized activations go so that an execution provider computes in integers.

On the CPU provider a layer fuses to QLinearConv or QGemm when its input comes from a DequantizeLinear, its weight from
another, and its output (through a Relu, or a Clip from 0 that covers the range) goes to a QuantizeLinear. The operators
between layers have integer kernels of their own; a tensor that they pass along keeps its scale.

A target that wants all quantized has every operator between tensors of known range read and give codes, outputs
included, whatever the CPU provider has kernels for.

TensorRT wants QuantizeLinear in front of the layers alone, and moves it backward through what stands between by itself.
It adds the other branch of a sum within the Conv that ends one branch, if that other branch is quantized, and the
Conv's own output is not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import shown
from dfmpc_onnx.graph.operators import averages, is_weighted, keeps_scale, meaning_of, op_of
from dfmpc_onnx.graph.query import (
    captured_tensors,
    constant,
    consumers,
    is_output,
    nodes_by_name,
    only_consumer,
    producer,
)
from dfmpc_onnx.pipeline.facts import Codes, FloatActivations, FloatLayers, Layer, Layers, Ranges
from dfmpc_onnx.pipeline.refusals import Reason
from dfmpc_onnx.pipeline.target_rules import Target
from dfmpc_onnx.pipeline.targets import CPU_TARGET
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.qdq.added_numbers import codes_fit, effective_output

IN_FLOAT = "integer weights, float arithmetic"


@dataclasses.dataclass(frozen=True)
class Sites:
    """Where to quantize.

    layers: names of the layers that compute in integers. tensors: the activations to quantize, in graph order, each
    with the tensor whose scale it takes (itself, mostly). refused: the layers that cannot, with the reason. pools: the
    names of the MaxPools that read floats, whatever becomes of what they read.
    """

    layers: frozenset[str]
    tensors: Mapping[str, str]
    refused: Mapping[str, Reason]
    pools: frozenset[str] = frozenset()


def _has_scale(node: gs.Node) -> bool:
    return meaning_of(node).own_scale


def _has_constant_weight(node: gs.Node) -> bool:
    """Whether a node is a layer, which is integer or not as a layer."""
    return is_weighted(node) and len(node.inputs) > 1 and constant(node.inputs[1]) is not None


def _moved_inside(graph: gs.Graph) -> dict[str, str]:
    """Tensors that are moved, and the result read inside a control-flow node, each with why it stays in float.

    onnxruntime takes a DequantizeLinear past what only moves values, asks for the readers' inputs by number, finds none
    of that number where the reader is a subgraph, and ends the process.
    """
    inside: dict[str, str] = {}
    for node in graph.nodes:
        bodies = [value for value in node.attrs.values() if isinstance(value, gs.Graph)]
        inside.update((tensor.name, node.name) for body in bodies for tensor in captured_tensors(body))
    found: dict[str, str] = {}
    for node in reversed(graph.nodes) if inside else ():
        if not keeps_scale(node):
            continue
        for tensor in node.outputs:
            if tensor.name in inside or tensor.name in found:
                why = f"'{shown(tensor.name)}', which holds values of it, is read inside"
                found[node.inputs[0].name] = found.get(tensor.name) or f"{why} '{shown(inside.get(tensor.name, ''))}'"
    return found


def _pools_of_floats(graph: gs.Graph, integer: set[str]) -> frozenset[str]:
    """The MaxPools of what was computed in float: onnxruntime's kernel for codes is fast only behind an integer one.

    Between integer kernels the channels come last. With channels first the kernel for codes takes ten times as long as
    that for floats, more than the layers around it save (1.32); behind the pool there are fewer values to quantize, and
    the codes are the same, since rounding keeps the order.
    """
    made: set[str] = set()
    found: set[str] = set()
    for node in graph.nodes:
        given = [tensor.name in made for tensor in node.inputs if isinstance(tensor, gs.Variable)]
        passes = keeps_scale(node) or _has_scale(node) or op_of(node) in ("Relu", "Clip")
        if node.name in integer or (passes and given and all(given)):
            made.update(tensor.name for tensor in node.outputs)
        elif op_of(node) == "MaxPool":
            found.add(node.name)
    return frozenset(found)


def _leading_to_layers(graph: gs.Graph, integer: set[str]) -> frozenset[str]:
    """The tensors behind which a layer that computes in integers lies, with only such operators between."""
    found: set[str] = set()
    for node in reversed(graph.nodes):
        passes = keeps_scale(node) or _has_scale(node) or op_of(node) in ("Relu", "Clip")
        if node.name in integer or (passes and any(tensor.name in found for tensor in node.outputs)):
            found.update(tensor.name for tensor in node.inputs if not tensor.is_empty())
    return frozenset(found)


class Placer:
    """Decides which layers and tensors are quantized."""

    def __init__(
        self,
        graph: gs.Graph,
        layers: Mapping[str, Layer],
        ranges: Mapping[str, tuple[float, float]],
        target: Target = CPU_TARGET,
        exempt: Mapping[str, str] | None = None,
    ) -> None:
        """exempt: tensors that are not to be quantized, each with the reason."""
        self._graph = graph
        self._layers = layers
        self._exempt = {**_moved_inside(graph), **(exempt or {})}
        self._ranges = {name: range_ for name, range_ in ranges.items() if name not in self._exempt}
        self._target = target
        self._nodes = nodes_by_name(graph)
        self._chosen: set[str] = set()
        self._refused: dict[str, Reason] = {}
        self._float_pools: frozenset[str] = frozenset()
        self._leading: frozenset[str] = frozenset()

    def place(self) -> Sites:
        integer = {name for name, layer in self._layers.items() if self._fits(layer)}
        fast_pools = self._target.between and not self._target.all_quantized
        self._float_pools = _pools_of_floats(self._graph, integer) if fast_pools else frozenset()
        self._leading = _leading_to_layers(self._graph, integer)
        self._in_front_of(integer)
        if self._target.between:
            self._behind(integer)
            # What an operator needs may be quantized for the sake of one that stands behind it, so again, and back.
            before = -1
            while len(self._chosen) != before:
                before = len(self._chosen)
                for node in (*self._graph.nodes, *reversed(self._graph.nodes)):
                    self._between(node, integer)
        if self._target.fused_sums:
            self._sums(integer)
        return Sites(frozenset(integer), self._sources_of_scales(), self._refused, self._float_pools)

    def _fits(self, layer: Layer) -> bool:
        node = self._nodes[layer.name]
        read, made = node.inputs[0].name, effective_output(self._graph, node).name
        exempt = self._exempt.get(read) or (self._exempt.get(made) if self._target.between else None)
        reason: Reason | None = None
        if layer.op in self._target.float_operators:
            reason = Reason("no-integer-kernel", f"{layer.op} has no integer kernel in onnxruntime")
        elif exempt is not None:
            reason = Reason("float-activation", exempt)
        elif read not in self._ranges:
            reason = Reason("range-unknown", "the range of its input is not known")
        elif self._target.between and made not in self._ranges:
            reason = Reason("range-unknown", "the range of its output is not known")
        elif layer.op == "Conv" and len(layer.shape) - 2 not in self._target.spatial_dimensions:
            why = f"a Conv of {len(layer.shape) - 2} spatial dimensions has no fast integer kernel"
            reason = Reason("no-integer-kernel", why)
        elif float(node.attrs.get("alpha", 1.0)) != 1.0 or float(node.attrs.get("beta", 1.0)) != 1.0:
            reason = Reason("scaled-product", "its alpha or beta is not 1")
        elif isinstance(node.inputs[0], gs.Constant):
            reason = Reason("constant-input", "its input is a constant")
        if reason is not None:
            self._refused[layer.name] = Reason(reason.code, f"{reason}; {IN_FLOAT}")
        return reason is None

    @classmethod
    def of(cls, workspace: Workspace) -> Placer:
        """For the layers that have codes and are not spared, with the ranges and exempt tensors known so far.

        Where widths are mixed nothing is spared or exempt: it has 16 bits.
        """
        settings = workspace.settings
        return cls._of(workspace, settings.target, spare=not settings.mixes_widths)

    @classmethod
    def by_float_rules(cls, workspace: Workspace) -> Placer:
        """By the rules that say what stays in float, which where widths are mixed are another target's."""
        return cls._of(workspace, workspace.settings.float_rules, spare=True)

    @classmethod
    def _of(cls, workspace: Workspace, target: Target, *, spare: bool) -> Placer:
        spared = workspace.find(FloatLayers) if spare else None
        exempt = workspace.find(FloatActivations) if spare else None
        left = spared.layers.keys() if spared is not None else frozenset[str]()
        coded = workspace.get(Codes).weights.keys() - left
        return cls(
            workspace.graph,
            {layer.name: layer for layer in workspace.get(Layers).all if layer.name in coded},
            workspace.get(Ranges).tensors,
            target,
            exempt.tensors if exempt is not None else {},
        )

    def _in_front_of(self, integer: set[str]) -> None:
        """What the layers read."""
        self._chosen.update(self._nodes[name].inputs[0].name for name in integer)

    def _behind(self, integer: set[str]) -> None:
        """What the layers give: a Conv always, since it has no integer kernel without; others where it is read.

        A Gemm gives floats where no integer layer follows: scores need no range.
        """
        for name in integer:
            output = effective_output(self._graph, self._nodes[name])
            kind = op_of(self._nodes[name])
            read = any(
                n.name in integer or keeps_scale(n) or _has_scale(n) or op_of(n) in ("Relu", "Clip")
                for n in consumers(output)
            )
            if (
                kind == "Conv"
                or self._target.all_quantized
                or (read and (kind != "Gemm" or output.name in self._leading))
            ):
                self._chosen.add(output.name)

    def _sources_of_scales(self) -> dict[str, str]:
        """The quantized tensors, each with the one whose range it takes: itself, or what was moved to make it."""
        sources = {tensor.name: tensor.name for tensor in self._graph.inputs}
        for node in self._graph.nodes:
            moves = keeps_scale(node) and node.name not in self._float_pools
            moved = node.inputs[0].name if moves and node.inputs[0].name in self._chosen else None
            sources.update((t.name, t.name if moved is None else sources.get(moved, moved)) for t in node.outputs)
        return {name: source for name, source in sources.items() if name in self._chosen}

    def _between(self, node: gs.Node, integer: set[str]) -> None:
        """An operator between layers: quantized where its inputs are, or can be, and somebody reads the result."""
        moves, every = keeps_scale(node), self._target.every_operator
        if not (moves or _has_scale(node) or every) or node.name in self._float_pools:
            return
        if every and (_has_constant_weight(node) or self._is_fused(node)):
            return
        slots = node.inputs[:1] if moves else node.inputs
        variables = [t for t in slots if isinstance(t, gs.Variable) and not t.is_empty()]
        if not variables or any(t.name not in self._ranges for t in variables):
            return
        if not every and any(isinstance(t, gs.Constant) for t in slots) and not codes_fit(node):
            return
        outputs = node.outputs if op_of(node) == "Split" else node.outputs[:1] if len(node.outputs) == 1 else []
        outputs = [effective_output(self._graph, node)] if len(outputs) == 1 else outputs
        # Also for the sake of what stands behind: one QuantizeLinear either way, and the operator is integer.
        if (
            (moves or averages(node))
            and any(t.name in self._chosen for t in outputs)
            and self._read_in_integers(variables[0], integer)
        ):
            self._chosen.add(variables[0].name)
        if not every and not any(t.name in self._chosen for t in variables):
            return
        if not outputs:
            return
        if not every and any(is_output(self._graph, t) or t.name not in self._leading for t in outputs):
            return
        if any(t.name in self._exempt for t in outputs):
            return
        if moves:
            self._chosen.update(t.name for t in (*variables[: int(every)], *outputs))
        elif outputs[0].name in self._ranges:
            self._chosen.update(t.name for t in (*variables, *outputs))

    def _is_fused(self, node: gs.Node) -> bool:
        """Whether a Relu or Clip is one operator with what it reads."""
        source = producer(node.inputs[0]) if op_of(node) in ("Relu", "Clip") else None
        return source is not None and effective_output(self._graph, source) is node.outputs[0]

    def _read_in_integers(self, tensor: gs.Tensor, integer: set[str]) -> bool:
        """Whether nobody reads a tensor who would rather have it in float."""
        readers = consumers(tensor)
        return not is_output(self._graph, tensor) and all(
            n.name in integer or keeps_scale(n) or _has_scale(n) for n in readers
        )

    def _sums(self, integer: set[str]) -> None:
        """Of each sum all branches but the one that ends in a Conv and holds the most layers."""
        depth: dict[str, int] = {}
        for node in self._graph.nodes:
            here = max((depth.get(t.name, 0) for t in node.inputs), default=0) + (node.name in integer)
            depth.update((t.name, here) for t in node.outputs)
        for node in self._graph.nodes:
            branches = node.inputs if op_of(node) == "Add" else []
            if len(branches) != 2 or any(constant(t) is not None or t.name not in self._ranges for t in branches):
                continue
            by_conv = [t for t in branches if self._ends_in_conv(t, integer)]
            if not by_conv:
                continue
            fused = max(by_conv, key=lambda t: depth[t.name])
            self._chosen.update(t.name for t in branches if t is not fused)

    def _ends_in_conv(self, tensor: gs.Tensor, integer: set[str]) -> bool:
        by = producer(tensor)
        alone = isinstance(only_consumer(self._graph, tensor), gs.Node)
        return by is not None and op_of(by) == "Conv" and by.name in integer and alone
