"""Which channels of an output are scores, by the graph: branches of a Concat with a Sigmoid or Softmax at their end.

Boxes from 0 to 1 beside scores from 0 to 1 are of like scale and not of one kind; what stands in front of them tells.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import onnx
import onnx.shape_inference
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.operators import op_of as node_op
from dfmpc_onnx.graph.query import producer
from dfmpc_onnx.model.protos import makers, op_of

GIVES_SCORES = frozenset({"Sigmoid", "HardSigmoid", "Softmax"})
ONLY_MOVES = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})

TURNS = frozenset({"Cast", "Identity", "Transpose"})  # what may stand between the Concat and the output


@dataclasses.dataclass(frozen=True)
class ScoreChannels:
    """axis: of the output, from 0. scores: ``[channels]``, whether a channel is a score."""

    axis: int
    scores: npt.NDArray[np.bool_]


def score_channels(model: onnx.ModelProto) -> dict[str, ScoreChannels]:
    """Of each output, by name, that holds scores beside other channels; sizes must be known without a run."""
    made = makers(model.graph.node)
    found: dict[str, tuple[int, onnx.NodeProto]] = {}
    for value in model.graph.output:
        joined = _joined(value, made)
        if joined is not None and len({_is_score(name, made) for name in joined[1].input}) == 2:
            found[value.name] = joined
    if not found:
        return {}
    try:
        inferred = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # of several kinds, of C++ origin
        return {}
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*inferred.value_info, *inferred.input)
    }
    result = {}
    for name, (axis, node) in found.items():
        along = next(a.i for a in node.attribute if a.name == "axis")
        sizes = [shape[along] if (shape := shapes.get(read)) else 0 for read in node.input]
        if all(sizes):
            kinds = [_is_score(read, made) for read in node.input]
            result[name] = ScoreChannels(axis, np.repeat(kinds, sizes))
    return result


def _joined(value: onnx.ValueInfoProto, made: Mapping[str, onnx.NodeProto]) -> tuple[int, onnx.NodeProto] | None:
    """The Concat that makes an output, and its axis there, behind what at most turns dimensions round."""
    node, orders = made.get(value.name), list[list[int]]()
    while node is not None and op_of(node) in TURNS:
        if op_of(node) == "Transpose":
            orders.append([int(i) for a in node.attribute if a.name == "perm" for i in a.ints])
        node = made.get(node.input[0])
    rank = len(value.type.tensor_type.shape.dim)
    if node is None or op_of(node) != "Concat" or not rank or any(len(order) != rank for order in orders):
        return None
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0) % rank
    for order in reversed(orders):
        axis = order.index(axis)
    return axis, node


def _is_score(name: str, made: Mapping[str, onnx.NodeProto]) -> bool:
    node = made.get(name)
    while node is not None and op_of(node) in ONLY_MOVES:
        node = made.get(node.input[0])
    return node is not None and op_of(node) in GIVES_SCORES


def joined_branches(tensor: gs.Tensor) -> tuple[gs.Tensor, ...]:
    """What a Concat joins where some of it is scores and some is not; else the tensor alone.

    The same rule as of `score_channels`, on the graph that passes change, where no size need be known.
    """
    node = _behind(producer(tensor), TURNS)
    if node is None or node_op(node) != "Concat":
        return (tensor,)
    branches = tuple(branch for branch in node.inputs if isinstance(branch, gs.Variable))
    kinds = {_ends_in_scores(branch) for branch in branches}
    return tuple({branch.name: branch for branch in branches}.values()) if len(kinds) == 2 else (tensor,)


def _ends_in_scores(tensor: gs.Tensor) -> bool:
    node = _behind(producer(tensor), ONLY_MOVES)
    return node is not None and node_op(node) in GIVES_SCORES


def _behind(node: gs.Node | None, moves: Collection[str]) -> gs.Node | None:
    """The node in front of those that only move values."""
    while node is not None and node_op(node) in moves:
        node = producer(node.inputs[0])
    return node
