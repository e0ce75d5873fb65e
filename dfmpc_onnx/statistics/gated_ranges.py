"""Ranges of what gates make of their own argument: no more than the image of the argument's range.

``u sigmoid(u)`` is never below -0.278: a multiple of what was measured of it would spend codes on what cannot occur.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.graph.operators import clip_bounds, is_clip, meaning_of, op_of
from dfmpc_onnx.graph.query import constant, producer
from dfmpc_onnx.numerics.ranges import Range
from dfmpc_onnx.statistics.composed_functions import Composed, compose

POINTS = 4097  # of a range, among which the bounds of a function are looked for


def cap_gated(graph: gs.Graph, ranges: dict[str, Range], pinned: Collection[str], reach: float) -> None:
    """Limit, in place, the range of what gates make to what their argument's range allows.

    pinned: the tensors whose range a BatchNormalization fixes; of others `reach` times what they allow is left.
    """
    functions: dict[str, Composed] = {}
    for node in graph.nodes:
        found = compose(node, functions)
        if found is None:
            continue
        made = node.outputs[0].name
        functions[made] = found
        if made in ranges and found.source in ranges and _is_gated(node):
            slack = 1.0 if found.source in pinned else reach
            low, high = (slack * end for end in image(found, ranges[found.source]))
            ranges[made] = max(ranges[made][0], low), min(ranges[made][1], high)


def own_gates(graph: gs.Graph) -> list[tuple[gs.Tensor, gs.Node]]:
    """The tensors that are multiplied by a function of themselves, each with the product, in graph order."""
    functions: dict[str, Composed] = {}
    found = []
    for node in graph.nodes:
        function = compose(node, functions)
        if op_of(node) == "Mul" and len(node.inputs) == 2:
            for u, gate in (node.inputs, node.inputs[::-1]):
                if gate.name in functions and functions[gate.name].source == u.name:
                    found.append((u, node))
        if function is not None:
            functions[node.outputs[0].name] = function
    return found


def image(function: Composed, range_: Range) -> Range:
    """The least and the greatest value of a function on a range."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = function.function(np.linspace(*range_, POINTS)[None])
    return float(values.min()), float(values.max())


def _is_gated(node: gs.Node) -> bool:
    """Whether a node multiplies a tensor by a gate, or is known to do so."""
    if op_of(node) != "Mul" or len(node.inputs) != 2 or any(constant(t) is not None for t in node.inputs):
        return op_of(node) == "HardSwish"
    return [_is_bounded(producer(tensor)) for tensor in node.inputs].count(True) == 1


def _is_bounded(node: gs.Node | None) -> bool:
    if node is None:
        return False
    try:
        low, high = clip_bounds(node) if is_clip(node) else meaning_of(node).bounds
    except Unknown:
        return False
    return low == 0.0 and np.isfinite(high).item()
