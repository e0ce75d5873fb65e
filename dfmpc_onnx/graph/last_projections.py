"""The last linear layers of a network: compared outputs that are a linear map of a tensor of fewer entries.

A reader of text tells 6,625 characters apart at each place, from 120 numbers: what an error in these does to the
scores is known without a run, ``|e W|^2 = e (W W') e'``.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.operators import is_standard, op_of
from dfmpc_onnx.graph.query import constant, producer, reads
from dfmpc_onnx.numerics.arrays import Float


@dataclasses.dataclass(frozen=True)
class LastProjection:
    """A MatMul behind which only constants are added.

    read: the tensor ``[..., in]`` that it reads. output: the name of the compared one. weight: ``[in, out]``.
    """

    node: gs.Node
    read: gs.Tensor
    output: str
    weight: Float

    def basis(self) -> Float:
        """``[in, in]``, R with ``|e R| = |e W|`` for every e."""
        found: Float = np.asarray(np.linalg.qr(self.weight.T, mode="r")).T
        return found


def nodes_in_front(graph: gs.Graph, tensors: Iterable[gs.Tensor]) -> set[int]:
    """By `id`, the nodes that tensors are computed by, at any distance."""
    wanted, found = {tensor.name for tensor in tensors}, set[int]()
    for node in reversed(graph.nodes):
        if any(tensor.name in wanted for tensor in node.outputs):
            found.add(id(node))
            wanted.update(tensor.name for tensor in reads(node))
    return found


def last_projections(graph: gs.Graph, compared: Sequence[gs.Tensor]) -> list[LastProjection]:
    """Those of more outputs than inputs."""
    in_front = nodes_in_front(graph, compared)
    readers = collections.Counter(tensor.name for node in graph.nodes if id(node) in in_front for tensor in reads(node))
    readers.update(tensor.name for tensor in compared)
    found = []
    for tensor in compared:
        node = _projection(tensor, readers)
        weight = None if node is None else constant(node.inputs[1])
        if node is not None and weight is not None and weight.ndim == 2 and weight.shape[1] > weight.shape[0]:
            found.append(LastProjection(node, node.inputs[0], tensor.name, weight.astype(np.float64)))
    return found


def _projection(tensor: gs.Tensor, readers: Mapping[str, int]) -> gs.Node | None:
    """The MatMul that a compared tensor comes from, where nobody else reads what lies between."""
    while readers[tensor.name] == 1:
        node = producer(tensor)
        if node is None or not is_standard(node) or op_of(node) not in ("MatMul", "Add", "Identity"):
            return None
        computed = [value for value in node.inputs if not isinstance(value, gs.Constant)]
        if len(computed) != 1:
            return None
        if op_of(node) == "MatMul":
            return node if computed[0] is node.inputs[0] else None
        if any(len(value.shape) > 1 for value in node.inputs if isinstance(value, gs.Constant)):
            return None  # it may give the tensor another shape
        tensor = computed[0]
    return None
