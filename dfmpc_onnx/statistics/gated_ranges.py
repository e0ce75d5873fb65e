"""Ranges of what gates give: of a function of one tensor the image of its range, of a product the reach of its map.

A gate's output has a long tail: ``u sigmoid(u)`` is nearly 0 for most u, and u itself for the few that matter. What was
measured of it on a few images says little of that tail, while the range of u is known better, from BatchNormalization
or from a distribution of two sides.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.graph.operators import clip_bounds, is_clip, meaning_of, op_of
from dfmpc_onnx.graph.query import constant, producer
from dfmpc_onnx.statistics.composed_functions import Composed, compose

Range = tuple[float, float]
POINTS = 4097  # of a range, among which the bounds of a function are looked for


def widen_gated(graph: gs.Graph, ranges: dict[str, Range], measured: Mapping[str, Range]) -> None:
    """Give what gates make the range that follows from their argument's, in place.

    ranges: of the tensors, by name, as far as they are known; measured: what was seen of them on images.
    """
    functions: dict[str, Composed] = {}
    for node in graph.nodes:
        found = compose(node, functions)
        made = node.outputs[0].name if node.outputs else ""
        if found is not None:
            functions[made] = found
        if made not in ranges:
            continue
        if found is not None and found.source in ranges and _is_gated(node):
            ranges[made] = image(found, ranges[found.source])
        elif found is None and (gated := _gated_map(node)) is not None:
            ranges[made] = _as_far(gated.name, made, ranges, measured)


def image(function: Composed, range_: Range) -> Range:
    """The least and the greatest value of a function on a range."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = function.function(np.linspace(*range_, POINTS)[None])
    return float(values.min()), float(values.max())


def _as_far(read: str, made: str, ranges: Mapping[str, Range], measured: Mapping[str, Range]) -> Range:
    """The range of a product with a gate: as many times what was measured as that of its map is, or what it has."""
    low, high = ranges[made]
    if read not in ranges or read not in measured or made not in measured:
        return low, high
    ends = []
    for index, own in enumerate((low, high)):
        seen, reached = measured[read][index], ranges[read][index]
        reach = reached / seen if seen * reached > 0 else 1.0
        far = reach * measured[made][index]
        ends.append(min(own, far) if index == 0 else max(own, far))
    return ends[0], ends[1]


def _is_gated(node: gs.Node) -> bool:
    """Whether a node multiplies a tensor by a gate, or is known to do so."""
    return op_of(node) == "HardSwish" or _gated_map(node) is not None


def _gated_map(node: gs.Node) -> gs.Tensor | None:
    """What a node multiplies by a gate, a tensor between 0 and a bound; None where it does no such thing."""
    if op_of(node) != "Mul" or len(node.inputs) != 2 or any(constant(t) is not None for t in node.inputs):
        return None
    gates = [_is_bounded(producer(tensor)) for tensor in node.inputs]
    return node.inputs[gates.index(False)] if gates.count(True) == 1 else None


def _is_bounded(node: gs.Node | None) -> bool:
    if node is None:
        return False
    try:
        low, high = clip_bounds(node) if is_clip(node) else meaning_of(node).bounds
    except Unknown:
        return False
    return low == 0.0 and np.isfinite(high).item()
