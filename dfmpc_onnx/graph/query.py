"""Reading a graph: constants, producers, consumers, nested nodes; over onnx-graphsurgeon."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import shown
from dfmpc_onnx.model.protos import op_name


def describe(node: gs.Node) -> str:
    """``Conv 'layer1/conv'``, ``my.ops::Relu 'act'``: how a message names a node."""
    return f"{shown(op_name(node.domain, node.op))} '{shown(node.name)}'"


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
    """Whether a tensor is an output of the model. Of thousands of outputs each is found where it was before."""
    outputs = graph.outputs
    places: dict[int, int] = graph.__dict__.setdefault("_places_of_outputs", {})
    place = places.get(id(tensor), len(outputs))
    if place < len(outputs) and outputs[place] is tensor:
        return True
    if id(tensor) not in map(id, outputs):
        return False
    places.update((id(out), index) for index, out in enumerate(outputs))
    return True


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


def reads(node: gs.Node) -> Iterator[gs.Tensor]:
    """The computed tensors that a node reads, those of its subgraphs from outside included, each once."""
    seen: set[str] = set()
    inside = [t for value in node.attrs.values() if isinstance(value, gs.Graph) for t in captured_tensors(value)]
    for tensor in (*node.inputs, *inside):
        if isinstance(tensor, gs.Variable) and not tensor.is_empty() and tensor.name not in seen:
            seen.add(tensor.name)
            yield tensor


def captured_tensors(graph: gs.Graph) -> Iterator[gs.Tensor]:
    """What the nodes of a subgraph read from outside."""
    own = {t.name for t in graph.inputs} | {t.name for node in graph.nodes for t in node.outputs}
    for node in graph.nodes:
        for tensor in reads(node):
            if tensor.name not in own:
                yield tensor
