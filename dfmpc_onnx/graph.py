"""Reading and editing a graph: constants, consumers, insertion; over onnx-graphsurgeon.

The node list of a graph stays in topological order throughout: nodes are inserted beside the node that needs
them and never sorted again, so the order of the source file survives into the result.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import printable

DETACH_BYTES = 4096


def shown(name: str | bytes) -> str:
    """A name from a model, safe to show: control characters replaced, at most 120 characters."""
    clean = printable(name)
    return clean if len(clean) <= 120 else f"{clean[:80]}...{clean[-37:]}"


def describe(node: gs.Node) -> str:
    """``Conv 'layer1/conv'``: how a message names a node."""
    return f"{shown(node.op)} '{shown(node.name)}'"


def constant(tensor: gs.Tensor) -> npt.NDArray[np.generic] | None:
    """The values of an initializer, loaded, or None where the tensor is computed."""
    if isinstance(tensor, gs.Constant):
        values: npt.NDArray[np.generic] = tensor.values
        return values
    return None


def element_type(tensor: gs.Tensor) -> np.dtype[np.generic] | None:
    """The type of a tensor's elements; None where it is not known. graphsurgeon gives a number where numpy has none."""
    if isinstance(tensor.dtype, int):
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.dtype)) if tensor.dtype else None
    return None if tensor.dtype is None else np.dtype(tensor.dtype)


def is_standard(node: gs.Node) -> bool:
    """Whether a node's operator is of the standard domain: one of the same name elsewhere may do anything."""
    return node.domain in (None, "", "ai.onnx")


def is_weighted(node: gs.Node) -> bool:
    """Whether a node is of an operator whose second operand is a weight."""
    return node.op in ("Conv", "ConvTranspose", "Gemm", "MatMul") and is_standard(node)


def input_constant(node: gs.Node, index: int) -> npt.NDArray[np.generic] | None:
    """The values of a node's input, or None where it is absent or computed."""
    return constant(node.inputs[index]) if index < len(node.inputs) else None


def has_input(node: gs.Node, index: int) -> bool:
    """Whether an optional input is given."""
    return index < len(node.inputs) and not node.inputs[index].is_empty()


def producer(tensor: gs.Tensor) -> gs.Node | None:
    """The node that computes a tensor; None for graph inputs and initializers."""
    return tensor.inputs[0] if tensor.inputs else None


def consumers(tensor: gs.Tensor) -> list[gs.Node]:
    """The nodes that read a tensor, each once, in graph order."""
    seen: set[int] = set()
    return [n for n in tensor.outputs if not (id(n) in seen or seen.add(id(n)))]  # type: ignore[func-returns-value]


def is_output(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    return any(out is tensor for out in graph.outputs)


def only_consumer(graph: gs.Graph, tensor: gs.Tensor) -> gs.Node | str:
    """The one node that reads a tensor, or the reason why there is not exactly one."""
    readers = consumers(tensor)
    if is_output(graph, tensor):
        return f"'{shown(tensor.name)}' is an output of the model"
    if len(readers) == 1:
        return readers[0]
    if not readers:
        return f"nothing reads '{shown(tensor.name)}'"
    names = ", ".join(describe(n) for n in readers[:3])
    return f"'{shown(tensor.name)}' has {len(readers)} consumers ({names}{', ...' if len(readers) > 3 else ''})"


def nodes_by_name(graph: gs.Graph) -> dict[str, gs.Node]:
    return {node.name: node for node in graph.nodes}


def nested_nodes(graph: gs.Graph) -> Iterator[tuple[str, str, gs.Node]]:
    """Every node in the body of a control-flow node, at any depth, or of a function of the model's own.

    Yields a name for it (its path), the place in words, and the node.
    """
    yield from _inside("", graph.nodes)
    for function in graph.functions:
        place = f"the model's own function '{shown(function.name)}'"
        for index, node in enumerate(function.nodes):
            yield f"{function.name}/{node.name or f'{node.op}_{index}'}", place, node
        yield from _inside(f"{function.name}/", function.nodes)


def _inside(path: str, nodes: Iterable[gs.Node]) -> Iterator[tuple[str, str, gs.Node]]:
    for number, outer in enumerate(nodes):
        for key, body in outer.attrs.items():
            if isinstance(body, gs.Graph):
                inner = f"{path}{outer.name or f'{outer.op}_{number}'}/{key}/"
                for index, node in enumerate(body.nodes):
                    yield f"{inner}{node.name or f'{node.op}_{index}'}", f"the {key} of {describe(outer)}", node
                yield from _inside(inner, body.nodes)


def tensor_names(graph: gs.Graph) -> set[str]:
    nodes = [*graph.nodes, *(node for _, _, node in nested_nodes(graph))]  # inner names may not repeat outer ones
    names = {t.name for node in nodes for t in (*node.inputs, *node.outputs)}
    return names | {t.name for t in (*graph.inputs, *graph.outputs)}


class Namer:
    """Fresh tensor and node names that no tensor or node of the graph has yet."""

    def __init__(self, graph: gs.Graph) -> None:
        self._taken = tensor_names(graph) | {node.name for node in graph.nodes}

    def __call__(self, wanted: str) -> str:
        name, n = wanted, 1
        while name in self._taken:
            name, n = f"{wanted}_{n}", n + 1
        self._taken.add(name)
        return name


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
        if isinstance(t, gs.Constant) and t._values.nbytes >= DETACH_BYTES and isinstance(t.dtype, np.dtype)
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


def ir_version_for(opset: int) -> int:
    """The lowest IR version that the specification pairs with an opset of the standard domain."""
    version: int = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)], True)
    return version


def reads(node: gs.Node) -> Iterator[gs.Tensor]:
    """The computed tensors that a node reads, those of its subgraphs from outside included, each once."""
    seen: set[str] = set()
    inside = [t for value in node.attrs.values() if isinstance(value, gs.Graph) for t in captured(value)]
    for tensor in (*node.inputs, *inside):
        if isinstance(tensor, gs.Variable) and not tensor.is_empty() and tensor.name not in seen:
            seen.add(tensor.name)
            yield tensor


def captured(graph: gs.Graph) -> Iterator[gs.Tensor]:
    """What the nodes of a subgraph read from outside."""
    own = {t.name for t in graph.inputs} | {t.name for node in graph.nodes for t in node.outputs}
    for node in graph.nodes:
        for tensor in reads(node):
            if tensor.name not in own:
                yield tensor
