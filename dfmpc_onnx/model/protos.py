"""The one traversal of ModelProtos: nodes with their bodies and functions, names that are read, tensors, makers.

A *body* is a graph that a control-flow node holds in an attribute. Functions here recurse into bodies, which stand a
few levels deep, and never along a chain of nodes, which may be as long as a file. `graph.query` has the same
questions for the editable graph.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from typing import Protocol, TypeVar

import numpy as np
import onnx
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from onnx import numpy_helper

STANDARD_DOMAINS = ("", "ai.onnx")
WEIGHTED_OPERATORS = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul"}
)  # of the standard domain; their weight is input 1
# Whose operators onnxruntime brings along. The last is that of layers that it moves to another memory layout.
RUNTIME_DOMAINS = (*STANDARD_DOMAINS, "com.microsoft", "com.ms.internal.nhwc")

LARGE_BYTES = 4096

Tensors = Iterator[onnx.TensorProto | onnx.SparseTensorProto]


class ImportsOpsets(Protocol):
    """A model or a function of one: it says which version of each domain its operators are of."""

    @property
    def opset_import(self) -> Iterable[onnx.OperatorSetIdProto]: ...


# -- operators


def op_name(domain: str | None, name: str, domains: Collection[str] = STANDARD_DOMAINS) -> str:
    """``Relu`` for an operator of one of the domains, ``my.ops::Relu`` for one of another.

    So a comparison with ``"Relu"`` is false for what is merely called like that.
    """
    return name if (domain or "") in domains else f"{domain}::{name}"


def op_of(node: onnx.NodeProto, domains: Collection[str] = STANDARD_DOMAINS) -> str:
    """A node's operator by `op_name`: its bare name only where it is of one of the domains."""
    return op_name(node.domain, node.op_type, domains)


def standard_opset(part: ImportsOpsets, default: int = 1) -> int:
    """The version of the standard domain that a model or function imports; `default` where it imports none."""
    return next((item.version for item in part.opset_import if item.domain in STANDARD_DOMAINS), default)


# -- nodes


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a control-flow node holds."""
    for attribute in node.attribute:
        yield from _graphs_of(attribute)


def _graphs_of(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def every_node(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes, and those in their bodies."""
    for node in nodes:
        yield node
        for body in bodies(node):
            yield from every_node(body.node)


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of a model: of its graph, of its functions, and those in their bodies."""
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        yield from every_node(nodes)


def names_read(node: onnx.NodeProto) -> Iterator[str]:
    """The tensors that a node reads from around it, those that its bodies capture included; some more than once."""
    for name in node.input:
        if name:
            yield name
    for body in bodies(node):
        yield from captured_names(body)


def captured_names(body: onnx.GraphProto) -> Iterator[str]:
    """The tensors that a body reads from outside, its own outputs among them where it hands one through."""
    own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
    own.update(tensor.values.name for tensor in body.sparse_initializer)
    own.update(name for node in body.node for name in node.output)
    for node in body.node:
        yield from (name for name in names_read(node) if name not in own)
    yield from (value.name for value in body.output if value.name not in own)


def makers(nodes: Iterable[onnx.NodeProto]) -> dict[str, onnx.NodeProto]:
    """The node that computes each tensor; initializers and inputs have none."""
    return {name: node for node in nodes for name in node.output}


def readers(nodes: Iterable[onnx.NodeProto]) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor as an input of their own, once for each such input."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def nodes_behind(nodes: Iterable[onnx.NodeProto], names: Iterable[str]) -> tuple[list[onnx.NodeProto], set[str]]:
    """Of nodes in topological order those that tensors depend on, in that order; and all names these read."""
    wanted = set(names)
    kept = []
    for node in reversed(list(nodes)):
        if not wanted.isdisjoint(node.output):
            kept.append(node)
            wanted.update(names_read(node))
    return kept[::-1], wanted


# -- tensors


def all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: initializers and attributes, those of bodies and functions, parts of sparse ones."""
    for tensor in _tensors(model):
        if isinstance(tensor, onnx.SparseTensorProto):
            yield from (tensor.values, tensor.indices)
        else:
            yield tensor


def sparse_tensors(model: onnx.ModelProto) -> Iterator[onnx.SparseTensorProto]:
    """Every sparse tensor of a model, wherever it stands."""
    return (tensor for tensor in _tensors(model) if isinstance(tensor, onnx.SparseTensorProto))


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


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Tensors:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("sparse_tensor"):
                yield attribute.sparse_tensor
            yield from itertools.chain(attribute.tensors, attribute.sparse_tensors)
            for body in _graphs_of(attribute):
                yield from _of_graph(body)


def initializers(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The dense initializers of a graph by name; not those of its bodies."""
    return {tensor.name: tensor for tensor in graph.initializer}


def initializer_names(graph: onnx.GraphProto) -> set[str]:
    """The names of a graph's initializers, sparse ones among them."""
    return {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}


def fed_names(graph: onnx.GraphProto) -> list[str]:
    """The inputs that a graph is fed: old files list initializers among them."""
    given = initializer_names(graph)
    return [value.name for value in graph.input if value.name not in given]


def stored_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The value of a Constant node, where it is a tensor or one integer; None for other nodes and values."""
    if op_of(node) != "Constant":
        return None
    for attribute in node.attribute:
        if attribute.name == "value":
            tensor: onnx.TensorProto = attribute.t
            return tensor
        if attribute.name == "value_int":
            return numpy_helper.from_array(np.array(attribute.i, np.int64))
    return None


# -- editing

Item = TypeVar("Item", onnx.NodeProto, onnx.TensorProto, onnx.ValueInfoProto)


def put_in(field: RepeatedCompositeFieldContainer[Item], items: Iterable[Item]) -> None:
    """Make these the contents of a repeated field. They may stand in it now: they are copied before it is emptied."""
    copies = []
    for item in items:
        copy = type(item)()
        copy.CopyFrom(item)
        copies.append(copy)
    del field[:]
    field.extend(copies)
