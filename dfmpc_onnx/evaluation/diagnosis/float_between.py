"""Layers that compute in float although integers surround them, which costs time."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from dfmpc_onnx.evaluation.diagnosis.schema import FloatBetween
from dfmpc_onnx.evaluation.kernel_census import Census
from dfmpc_onnx.model.protos import names_read


def float_between(model: onnx.ModelProto, census: Census) -> tuple[FloatBetween, ...]:
    """Those that have integer layers both in front and behind, in the order of the model."""
    integer = set(census.integer_layers)
    why = {name: reason for reason, names in census.float_layers.items() for name in names}
    nodes = list(model.graph.node)
    in_front = _reached(nodes, integer)
    behind = _reached([_turned(node) for node in reversed(nodes)], integer)
    return tuple(
        FloatBetween(node.name, why[node.name])
        for node in nodes
        if node.name in why and node.name in in_front and node.name in behind
    )


def _turned(node: onnx.NodeProto) -> onnx.NodeProto:
    """A node that reads its outputs and computes its inputs."""
    return onnx.helper.make_node(node.op_type, list(node.output), list(names_read(node)), name=node.name)


def _reached(nodes: Iterable[onnx.NodeProto], sources: set[str]) -> set[str]:
    """The nodes that depend on some of these, which are not counted for themselves; nodes in topological order."""
    known, found = set[str](), set[str]()
    for node in nodes:
        if any(name in known for name in names_read(node)):
            found.add(node.name)
            known.update(node.output)
        elif node.name in sources:
            known.update(node.output)
    return found
