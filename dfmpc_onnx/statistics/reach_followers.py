"""How far tensors reach that follow from the outputs of layers: through activations, moves, gates and sums."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.operators import keeps_scale, op_of
from dfmpc_onnx.numerics.moments import ChannelMoments
from dfmpc_onnx.numerics.ranges import Range
from dfmpc_onnx.statistics.composed_functions import Composed, compose

SHUT = 0.25  # of what its factors' ranges allow: a gated tensor that reaches less was never let through
FASTER = 3.0  # times as large is what grows faster than linearly, where its argument is twice as large
NOTHING_BEYOND = frozenset({"MaxPool", "Flatten", "Pad", "Slice"})  # nothing beyond what they read, and zeros


def widened(
    graph: gs.Graph,
    ranges: Mapping[str, Range],
    reach: Mapping[str, Range],
    known: Mapping[str, ChannelMoments],
    fixed: Collection[str],
) -> dict[str, Range]:
    """The ranges that are wider than before: of layers' outputs, and of what follows from them.

    ranges: so far. reach: of layers' outputs. known: whose bounds hold. fixed: tensors that stay as they are.
    """
    wide: dict[str, Range] = {}
    functions: dict[str, Composed] = {}
    so_far = dict(ranges)
    for node in graph.nodes:
        function = compose(node, functions)
        if function is not None:
            functions[node.outputs[0].name] = function
        for name in (tensor.name for tensor in node.outputs):
            bounds = reach.get(name) or _carried(node, wide, function) or _let_through(node, so_far, known)
            if bounds is None or name in fixed or name not in ranges:
                continue
            low, high = min(bounds[0], ranges[name][0]), max(bounds[1], ranges[name][1])
            if name in known and known[name].mean.size:
                low, high = max(low, float(known[name].low.min())), min(high, float(known[name].high.max()))
            wide[name] = so_far[name] = low, high
    return wide


def _carried(node: gs.Node, wide: Mapping[str, Range], function: Composed | None) -> Range | None:
    """How far a node's output reaches where it is a function, a move or a sum of what reaches far; else None."""
    if function is not None and function.source in wide:
        ends, twice = (function.function(factor * np.array([wide[function.source]])) for factor in (1.0, 2.0))
        faster = (ends != 0) & (np.abs(twice) > FASTER * np.abs(ends))
        if np.any(faster):  # eight deviations of a cube are nothing like their cube
            return None
        return (float(ends.min()), float(ends.max())) if np.isfinite(ends).all() else None
    moves = keeps_scale(node) or op_of(node) in NOTHING_BEYOND
    found = [wide[t.name] for t in node.inputs[: 1 if moves else None] if t.name in wide]
    if not found or not (moves or op_of(node) in ("Add", "Concat")):
        return None
    lows, highs = np.array(found).T
    if op_of(node) == "Add":  # of independent parts
        return -float(np.hypot.reduce(np.minimum(lows, 0.0))), float(np.hypot.reduce(np.maximum(highs, 0.0)))
    return float(lows.min()), float(highs.max())


def _let_through(node: gs.Node, ranges: Mapping[str, Range], known: Mapping[str, ChannelMoments]) -> Range | None:
    """What a product may become whose gate stood shut: where it reached less than a quarter of its factors' product.

    A gate is a factor with bounds of its own, as a Sigmoid has.
    """
    names = [tensor.name for tensor in (*node.inputs, *node.outputs)]
    if op_of(node) != "Mul" or len(names) != 3 or not all(name in ranges for name in names):
        return None
    if not any(_bounded(known.get(name)) for name in names[:2]):
        return None
    corners = np.multiply.outer(ranges[names[0]], ranges[names[1]])
    low, high = float(corners.min()), float(corners.max())
    seen = ranges[names[2]]
    return (low, high) if seen[1] - seen[0] < SHUT * (high - low) else None


def _bounded(moments: ChannelMoments | None) -> bool:
    """Whether every channel has bounds, whatever the network is fed."""
    return moments is not None and bool(np.isfinite(moments.low).all() and np.isfinite(moments.high).all())
