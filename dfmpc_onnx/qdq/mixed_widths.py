"""Activations of 8 and of 16 bits in one file: which tensors and nodes have which, and the codes between them.

All that a node reads and gives has one width, as integer kernels want it. Where a node reads what one of another width
gave, a QuantizeLinear of its own width stands behind the DequantizeLinear of the other; an NPU has one operator for
the two. From 8 to 16 bits that changes no value: 65535 is 257 times 255.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.edit import Namer, insert
from dfmpc_onnx.graph.query import consumers, producer
from dfmpc_onnx.numerics.ranges import QParams
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.qdq.activation_grids import constant_of
from dfmpc_onnx.qdq.added_numbers import effective_output
from dfmpc_onnx.qdq.placement import Placer, Sites


@dataclasses.dataclass(frozen=True)
class ActivationForms:
    """Scale and zero point of each quantized tensor, by name: as it is made, and as nodes of the other width read it.

    converted: of the tensors that have such readers alone. wide: the ``id`` of the nodes that have 16 bits.
    """

    made: Mapping[str, QParams]
    converted: Mapping[str, QParams] = dataclasses.field(default_factory=dict)
    wide: frozenset[int] = frozenset()

    def read(self, node: gs.Node, tensor: str) -> QParams:
        """A tensor's, as a node reads it."""
        return self.converted[tensor] if self.converts(node, tensor) else self.made[tensor]

    def converts(self, node: gs.Node, tensor: str) -> bool:
        """Whether a node reads a tensor in another width than it is made in."""
        return tensor in self.converted and (id(node) in self.wide) != (is_wide(self.made[tensor]))


def is_wide(parameters: QParams) -> bool:
    """Whether codes have 16 bits."""
    return parameters[1].dtype.itemsize == 2


def wide_tensors(workspace: Workspace, sites: Sites) -> frozenset[str]:
    """The tensors that have 16 bits where widths are mixed: those to be quantized that `cpu` would leave in float.

    What is only moved has the width of what it is moved from.
    """
    floats = Placer.by_float_rules(workspace).place().tensors
    return frozenset(name for name, like in sites.tensors.items() if like not in floats)


def mixed_forms(
    graph: gs.Graph,
    narrow: Mapping[str, QParams],
    wide: Mapping[str, QParams],
    chosen: frozenset[str],
    given: Mapping[str, QParams],
) -> ActivationForms:
    """The forms of tensors of which the chosen have 16 bits, and with them all that the nodes around them touch.

    narrow, wide: every quantized tensor's scale and zero point of either width. given: of those that the model had.
    """
    nodes = _wide_nodes(graph, chosen)
    tensors = graph.tensors()
    made, converted = {}, {}
    for name in narrow:
        by = producer(tensors[name])
        is_made_wide = name not in given and (name in chosen or (by is not None and id(by) in nodes))
        made[name], other = (wide[name], narrow[name]) if is_made_wide else (narrow[name], wide[name])
        if any((id(reader) in nodes) != is_made_wide for reader in consumers(tensors[name])):
            converted[name] = other
    return ActivationForms(made, converted, nodes)


def _wide_nodes(graph: gs.Graph, chosen: frozenset[str]) -> frozenset[int]:
    """The nodes that read or give one of these tensors, each with the Relu or Clip that fuses with it."""
    found: set[int] = set()
    for node in graph.nodes:
        made = effective_output(graph, node) if len(node.outputs) == 1 else None
        around = {t.name for t in (*node.inputs, *node.outputs, *([made] if made is not None else []))}
        if id(node) not in found and chosen.isdisjoint(around):
            continue
        found.add(id(node))
        if made is not None and made is not node.outputs[0]:
            found.add(id(producer(made)))
    return frozenset(found)


def convert_between_widths(
    graph: gs.Graph, forms: ActivationForms, decoded: Mapping[str, gs.Tensor], names: Namer
) -> None:
    """Let each node read its own width. decoded: by a tensor's name, what its DequantizeLinear gives."""
    after: dict[int, list[gs.Node]] = {}
    for name, (scale, zero) in forms.converted.items():
        tensor = decoded.get(name)
        source = producer(tensor) if tensor is not None else None
        if tensor is None or source is None:
            continue
        wants_wide = not is_wide(forms.made[name])
        stem = names(f"{source.name}.{16 if wants_wide else 8}")
        constants = [constant_of(names(f"{stem}.{part}"), np.array(x)) for part, x in (("scale", scale), ("zp", zero))]
        codes, other = gs.Variable(names(f"{stem}.q")), gs.Variable(stem)
        for node in consumers(tensor):
            if (id(node) in forms.wide) == wants_wide:
                node.inputs = [other if t is tensor else t for t in node.inputs]
        after[id(source)] = [
            gs.Node("QuantizeLinear", codes.name, {}, [tensor, *constants], [codes]),
            gs.Node("DequantizeLinear", stem, {}, [codes, *constants], [other]),
        ]
    insert(graph, after=after)
