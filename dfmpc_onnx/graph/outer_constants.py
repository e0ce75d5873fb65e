"""Initializers that bodies of control flow read from outside, stored once, outside."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from dfmpc_onnx.model.protos import bodies, every_node, put_in


def hoist(model: onnx.ModelProto) -> None:
    """Move what bodies hold as equal initializers of one name to the main graph, in place.

    graphsurgeon writes an initializer that a body reads from outside into every such body, each with a copy of the
    values. Names of a body's own are left alone where something else has that name.
    """
    graph = model.graph
    held = list(_bodies(graph))
    if not held:
        return
    outside = {tensor.name: tensor for tensor in graph.initializer}
    found: dict[str, onnx.TensorProto] = {}
    differing = {name for node in every_node(graph.node) for name in node.output}
    differing.update(value.name for part in (graph, *held) for value in part.input)
    differing.update(value.name for body in held for value in body.output)  # runtimes hand none through from outside
    for body in held:
        for tensor in body.initializer:
            known = outside.get(tensor.name) or found.setdefault(tensor.name, tensor)
            if known is not tensor and known != tensor:
                differing.add(tensor.name)
    moved = [tensor for name, tensor in found.items() if name not in differing]
    graph.initializer.extend(moved)
    gone = {tensor.name for tensor in moved} | (outside.keys() - differing)
    for body in held:
        if not gone.isdisjoint(tensor.name for tensor in body.initializer):
            put_in(body.initializer, [tensor for tensor in body.initializer if tensor.name not in gone])


def _bodies(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Every body of the control flow in a graph, at any depth."""
    for node in graph.node:
        for body in bodies(node):
            yield body
            yield from _bodies(body)
