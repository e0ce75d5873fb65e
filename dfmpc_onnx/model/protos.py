"""Walking the nodes, bodies and tensors of a ModelProto: the one traversal that every check shares."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import onnx
import onnx.external_data_helper
import onnx.shape_inference


def all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: initializers and attributes, those of subgraphs and functions, parts of sparse ones."""
    for tensor in _tensors(model):
        if isinstance(tensor, onnx.SparseTensorProto):
            yield from (tensor.values, tensor.indices)
        else:
            yield tensor


def sparse_tensors(model: onnx.ModelProto) -> Iterator[onnx.SparseTensorProto]:
    """Every sparse tensor of a model, wherever it stands."""
    return (tensor for tensor in _tensors(model) if isinstance(tensor, onnx.SparseTensorProto))


Tensors = Iterator[onnx.TensorProto | onnx.SparseTensorProto]


def _tensors(model: onnx.ModelProto) -> Tensors:
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)
    for training in model.training_info:
        yield from _of_graph(training.initialization)
        yield from _of_graph(training.algorithm)


def _of_graph(graph: onnx.GraphProto) -> Tensors:
    yield from graph.initializer
    yield from graph.sparse_initializer
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: object) -> Tensors:
    for node in nodes:  # type: ignore[attr-defined]
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("sparse_tensor"):
                yield attribute.sparse_tensor
            yield from itertools.chain(attribute.tensors, attribute.sparse_tensors)
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _of_graph(graph)


def every_node(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes, and those in their subgraphs."""
    for node in nodes:
        yield node
        for body in bodies(node):
            yield from every_node(body.node)


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a control-flow node holds."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def names_read(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, its subgraphs included."""
    yield from node.input
    for body in bodies(node):
        for inner in body.node:
            yield from names_read(inner)


STANDARD_DOMAINS = ("", "ai.onnx")

LARGE_BYTES = 4096
