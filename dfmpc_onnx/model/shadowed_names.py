"""Tensors of a body that are named as one outside is.

The specification forbids it, but onnxruntime and onnx's checker take it: inside, the inner one counts. Exporters write
it where bodies number their tensors anew. graphsurgeon takes the outer one, which is another weight.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import onnx

from dfmpc_onnx.model.protos import all_nodes, bodies

Names = Mapping[str, str]


def shadows(model: onnx.ModelProto) -> bool:
    """Whether a body defines a name that is defined around it, too."""
    scopes = ((model.graph.node, _own(model.graph)), *((f.node, _of_function(f)) for f in model.functions))
    return any(_shadow(nodes, own) for nodes, own in scopes if any(True for node in nodes for _ in bodies(node)))


def unshadowed(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which each such tensor has a name of its own. Weights are copied with it."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    taken = _own(result.graph).union(*map(_of_function, result.functions))
    for node in all_nodes(result):
        taken.update(*map(_own, bodies(node)))
    fresh = (name for number in itertools.count() if (name := f"inner_{number}") not in taken)
    _rename(result.graph.node, _own(result.graph), {}, fresh)
    for function in result.functions:
        _rename(function.node, _of_function(function), {}, fresh)
    return result


def _own(graph: onnx.GraphProto) -> set[str]:
    """The names that a graph defines."""
    names = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    names.update(tensor.values.name for tensor in graph.sparse_initializer)
    names.update(name for node in graph.node for name in node.output)
    return names - {""}


def _of_function(function: onnx.FunctionProto) -> set[str]:
    return {*function.input, *(name for node in function.node for name in node.output)} - {""}


def _shadow(nodes: Iterable[onnx.NodeProto], outer: set[str]) -> bool:
    for node in nodes:
        for body in bodies(node):
            own = _own(body)
            if not own.isdisjoint(outer) or _shadow(body.node, own | outer):
                return True
    return False


def _rename(nodes: Sequence[onnx.NodeProto], outer: set[str], names: Names, fresh: Iterator[str]) -> None:
    """Read tensors by their new names, and give the bodies' own such names. names: new by old, as seen from here."""
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for body in bodies(node):
            own = _own(body)
            inner = {old: new for old, new in names.items() if old not in own}
            inner |= {name: next(fresh) for name in sorted(own & outer)}
            values = (*body.input, *body.output, *body.value_info, *body.initializer)
            for held in (*values, *(sparse.values for sparse in body.sparse_initializer)):
                held.name = inner.get(held.name, held.name)
            _rename(body.node, own | outer, inner, fresh)
