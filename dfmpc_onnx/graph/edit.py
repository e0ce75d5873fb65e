"""Editing a graph: fresh names, insertion, removal; over onnx-graphsurgeon.

The node list of a graph stays in topological order throughout: nodes are inserted beside the node that needs
them and never sorted again, so the order of the source file survives into the result.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.query import consumers, tensor_names
from dfmpc_onnx.model.protos import LARGE_BYTES


class Namer:
    """Fresh tensor and node names that no tensor or node of the graph has yet."""

    def __init__(self, graph: gs.Graph) -> None:
        self._taken = tensor_names(graph) | {node.name for node in graph.nodes}
        self._next: dict[str, int] = {}  # numbers below are taken: counting from 1 each time would be quadratic

    def __call__(self, wanted: str) -> str:
        name, n = wanted, self._next.get(wanted, 1)
        while name in self._taken:
            name, n = f"{wanted}_{n}", n + 1
        self._taken.add(name)
        self._next[wanted] = n
        return name


def copy_graph(graph: gs.Graph) -> gs.Graph:
    """A copy whose sequences are sequences: graphsurgeon makes a tensor of each that it copies."""
    copied: gs.Graph = graph.copy()
    _copy_kinds(graph, copied)
    return copied


def _copy_kinds(graph: gs.Graph, copied: gs.Graph) -> None:
    pairs = [*zip(graph.inputs, copied.inputs, strict=True), *zip(graph.outputs, copied.outputs, strict=True)]
    for node, twin in zip(graph.nodes, copied.nodes, strict=True):
        pairs += [*zip(node.inputs, twin.inputs, strict=True), *zip(node.outputs, twin.outputs, strict=True)]
        for key, body in node.attrs.items():
            if isinstance(body, gs.Graph):
                _copy_kinds(body, twin.attrs[key])
    for tensor, other in pairs:
        if isinstance(tensor, gs.Variable) and tensor.type not in (None, "tensor_type"):
            other.type = tensor.type


def insert(
    graph: gs.Graph,
    before: Mapping[int, Iterable[gs.Node]] | None = None,
    after: Mapping[int, Iterable[gs.Node]] | None = None,
    first: Iterable[gs.Node] = (),
) -> None:
    """Put nodes into the node list: before and after the node whose ``id`` is the key, and in front of all."""
    nodes = list(first)
    for node in graph.nodes:
        nodes.extend((before or {}).get(id(node), ()))
        nodes.append(node)
        nodes.extend((after or {}).get(id(node), ()))
    graph.nodes[:] = nodes


def remove(graph: gs.Graph, dead: Iterable[gs.Node]) -> None:
    """Disconnect nodes and take them off the list."""
    gone = set()
    for node in dead:
        node.inputs.clear()
        node.outputs.clear()
        gone.add(id(node))
    graph.nodes[:] = [node for node in graph.nodes if id(node) not in gone]


def remove_unused(graph: gs.Graph) -> int:
    """Take off every node none of whose outputs is read; returns how many."""
    kept_outputs = {id(t) for t in graph.outputs}
    dead = []
    for node in reversed(graph.nodes):
        if node.outputs and not any(t.outputs or id(t) in kept_outputs for t in node.outputs):
            node.inputs.clear()
            node.outputs.clear()
            dead.append(node)
    remove(graph, dead)
    return len(dead)


def replace_reads(old: gs.Tensor, new: gs.Tensor, keep: Iterable[gs.Node] = ()) -> None:
    """Make every consumer of `old` read `new`, except the nodes in `keep`."""
    spared = {id(node) for node in keep}
    for node in consumers(old):
        if id(node) not in spared:
            for i, tensor in enumerate(node.inputs):
                if tensor is old:
                    node.inputs[i] = new


@contextlib.contextmanager
def detached_weights(graph: gs.Graph) -> Iterator[list[str]]:
    """Within the block large float initializers are graph inputs, so that exporting the graph copies no weights.

    Yields the names. The checker, shape inference and the version converter need types and shapes only.
    """
    large = [
        t
        for t in graph.tensors().values()
        if isinstance(t, gs.Constant) and t._values.nbytes >= LARGE_BYTES and isinstance(t.dtype, np.dtype)
    ]
    kept = [(t, t._values) for t in large if t.dtype in (np.float32, np.float64, np.float16)]
    inputs = list(graph.inputs)
    try:
        for tensor, values in kept:
            tensor.to_variable(values.dtype, list(values.shape)).type = "tensor_type"
        graph.inputs = inputs + [t for t, _ in kept]
        yield [t.name for t, _ in kept]
    finally:
        for tensor, values in kept:
            tensor.to_constant(values)
        graph.inputs = inputs
