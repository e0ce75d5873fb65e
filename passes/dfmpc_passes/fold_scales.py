"""Take constants that are multiplied or added beside a Conv into it."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.affine import (
    apply_behind,
    apply_in_front,
    channel_values,
    is_moderate,
    output_channels,
    takes_affine,
    takes_input_factor,
    takes_input_shift,
)
from dfmpc_onnx.graph.edit import Namer, remove, replace_reads
from dfmpc_onnx.graph.operators import op_of
from dfmpc_onnx.graph.query import constant, is_output, only_consumer, producer
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.pipeline.facts import Normalized
from dfmpc_onnx.pipeline.manager import NoOptions, Pass, PassResult, Rewrite
from dfmpc_onnx.pipeline.workspace import Workspace

ZERO, ONE = np.zeros(1), np.ones(1)


class FoldScales(Pass[NoOptions]):
    """Before: Conv(x, W, b) -> Mul(k) -> Add(t) -> y; z -> Mul(k) -> Add(t) -> Conv(W, b)
    After: Conv(x, k W, k b + t) -> y; z -> Conv(k W, b + W t)

    Why: k (W x + b) + t = (k W) x + (k b + t), and W (k z + t) + b = (k W) z + (b + W t). Learned scales and biases
    that an exporter leaves as nodes have no integer kernel: the layers on both sides would leave integers for them.
    Where zeros are padded in front of the Conv behind, k alone moves, since k z + t = k (z + t / k).

    Requires: a normalized graph.

    Refuses when: nothing is refused. Left as it is: a constant that is neither one number nor one a channel, a factor
    of 0, a result that others read too, and layers that share their weight, which would be stored once for each.

    Reference: Jacob et al. 2018, section 3.2 (folding).
    """

    name = "fold_scales"
    requires: ClassVar = (Normalized,)

    def run(self, workspace: Workspace) -> PassResult:
        graph, names = workspace.graph, Namer(workspace.graph)
        shared = workspace.get(Normalized).shared.keys()
        rewrites = []
        for fold in (_fold_behind, _fold_in_front):
            nodes = list(graph.nodes) if fold is _fold_behind else list(reversed(graph.nodes))
            for node in nodes:
                if (into := fold(graph, node, names, shared)) is not None:
                    rewrites.append(Rewrite(node.name, f"folded into {into}"))
        return PassResult(self.name, tuple(rewrites))


def constant_step(node: gs.Node, channels: int | None) -> tuple[gs.Tensor, Float, Float] | None:
    """What Add, Sub, Mul or Div with a constant computes: its variable x, and factor and shift of ``factor x + shift``.

    None for other nodes, and for constants that are neither one number nor one a channel. channels: of x, where known.
    """
    if op_of(node) not in ("Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
        return None
    fixed = [constant(tensor) is not None for tensor in node.inputs]
    if fixed.count(True) != 1 or (fixed[0] and op_of(node) in ("Sub", "Div")):
        return None
    x, number = node.inputs[fixed.index(False)], node.inputs[fixed.index(True)]
    shape = x.shape if x.shape is not None else node.outputs[0].shape
    if channels is None and shape is not None and len(shape) > 1 and isinstance(shape[1], int):
        channels = shape[1]
    values = channel_values(number, channels, None if shape is None else len(shape))
    if values is None:
        return None
    if op_of(node) in ("Add", "Sub"):
        return x, ONE, values if op_of(node) == "Add" else -values
    if not is_moderate(values):
        return None
    return x, values if op_of(node) == "Mul" else 1 / values, ZERO


def _fold_behind(graph: gs.Graph, node: gs.Node, names: Namer, shared: Collection[str]) -> str | None:
    """Fold a step with a constant into the layer that it reads; returns which, None where it stays."""
    before = next((source for t in node.inputs if (source := producer(t)) is not None), None)
    if before is None or before.name in shared or not takes_affine(before):
        return None
    step = constant_step(node, output_channels(before))
    if step is None or step[0] is not before.outputs[0] or isinstance(only_consumer(graph, step[0]), str):
        return None
    apply_behind(before, step[1], step[2], names)
    made = node.outputs[0]
    remove(graph, [node])
    before.outputs = [made]
    return str(before.name)


def _fold_in_front(graph: gs.Graph, node: gs.Node, names: Namer, shared: Collection[str]) -> str | None:
    """Fold a step with a constant into the Conv behind it; returns which, None where it stays."""
    step = constant_step(node, None)
    if step is None or is_output(graph, node.outputs[0]):
        return None
    x, factor, shift = step
    reader = only_consumer(graph, node.outputs[0])
    if isinstance(reader, str) or reader.name in shared:
        return None
    if op_of(node) in ("Mul", "Div") and op_of(reader) == "Add":
        return _fold_past_sum(graph, node, x, factor, reader, names, shared)
    if not takes_input_factor(reader) or reader.inputs[0] is not node.outputs[0]:
        return None
    if shift.any() and not takes_input_shift(reader):
        return None
    apply_in_front(reader, factor, shift, names)
    replace_reads(node.outputs[0], x)
    remove(graph, [node])
    return str(reader.name)


def _fold_past_sum(
    graph: gs.Graph, node: gs.Node, x: gs.Tensor, factor: Float, sum_: gs.Node, names: Namer, shared: Collection[str]
) -> str | None:
    """``k x + t = k (x + t / k)``: fold k into the padded Conv behind a sum with a constant."""
    step = constant_step(sum_, None)
    reader = only_consumer(graph, sum_.outputs[0])
    if step is None or isinstance(reader, str) or reader.name in shared or not takes_input_factor(reader):
        return None
    if reader.inputs[0] is not sum_.outputs[0] or step[0] is not node.outputs[0]:
        return None
    index = 1 if sum_.inputs[0] is node.outputs[0] else 0
    number = sum_.inputs[index]
    if factor.size > 1 and step[2].size > 1:
        factor_shaped = factor.reshape(np.asarray(number.values).shape)
    elif factor.size == 1:
        factor_shaped = factor.reshape(())
    else:
        return None
    moved = np.asarray(np.asarray(number.values, np.float64) / factor_shaped, np.float32)
    if not np.isfinite(moved).all():
        return None
    apply_in_front(reader, factor, ZERO, names)
    sum_.inputs = [x if i != index else gs.Constant(names(number.name), moved) for i in (0, 1)]
    remove(graph, [node])
    return str(reader.name)
