"""Initializers that several nodes read: given to each of them, and stored once again at the end."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.edit import Namer
from dfmpc_onnx.graph.operators import is_weighted
from dfmpc_onnx.graph.query import constant, consumers, is_output, nested_nodes
from dfmpc_onnx.graph.weight_checks import is_norm


def unshare(graph: gs.Graph) -> tuple[list[str], dict[str, str]]:
    """Give every reader of a weight but one a constant of its own over the same values, which are not copied.

    Returns the layers whose weight was given so, and by layer the name of the weight that it shares with other nodes.
    """
    sites: list[str] = []
    shared: dict[str, str] = {}
    names = Namer(graph)
    readers: dict[str, int] = {}  # nodes that have yet to be given a constant of their own
    taken: set[str] = set()
    layers: dict[str, list[str]] = {}
    for node in graph.nodes:
        slots = (1, 2) if is_weighted(node) else (1, 2, 3, 4) if is_norm(node) else ()
        for slot in slots:
            if slot >= len(node.inputs) or not isinstance(node.inputs[slot], gs.Constant):
                continue
            tensor = node.inputs[slot]
            if slot == 1 and is_weighted(node):
                layers.setdefault(tensor.name, []).append(node.name)
            left = readers.get(tensor.name)
            left = len(consumers(tensor)) if left is None else left
            if left > 1 or tensor.name in taken or is_output(graph, tensor):
                values = constant(tensor)
                assert values is not None  # it is a Constant
                node.inputs[slot] = gs.Constant(names(f"{tensor.name}_copy"), values)
                readers[tensor.name] = left - (tensor not in node.inputs)
                if slot == 1 and is_weighted(node):
                    sites.append(node.name)
            else:
                taken.add(tensor.name)
    for weight, users in layers.items():
        if len(users) > 1 or users[0] in sites:
            shared.update(dict.fromkeys(users, weight))
    return sites, shared


def merge(graph: gs.Graph) -> int:
    """Let all readers of constants over the same array read one of them; returns how many constants that saves."""
    kept: dict[int, gs.Constant] = {}
    saved: set[int] = set()
    for _, _, node in nested_nodes(graph):  # of these the names stay
        kept.update((id(tensor._values), tensor) for tensor in node.inputs if isinstance(tensor, gs.Constant))
    outputs = {id(tensor) for tensor in graph.outputs}
    kept.update((id(tensor._values), tensor) for tensor in graph.outputs if isinstance(tensor, gs.Constant))
    for node in graph.nodes:
        for index, tensor in enumerate(node.inputs):
            if not isinstance(tensor, gs.Constant) or id(tensor) in outputs:
                continue
            first = kept.setdefault(id(tensor._values), tensor)
            if first is not tensor:
                saved.add(id(tensor))
                node.inputs[index] = first
    return len(saved)
