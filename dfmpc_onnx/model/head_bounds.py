"""What a model's head clips an input to: bounds that whoever exported the model states of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from dfmpc_onnx.model.head_constants import HeadConstants
from dfmpc_onnx.model.protos import names_read, op_of

MOVED = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
FARTHEST_BOUND = 1024.0  # beyond it a Clip guards against overflow, and says nothing of what an input holds


def clipped_range(graph: onnx.GraphProto, constants: HeadConstants, name: str) -> tuple[float, float] | None:
    """The least and the largest value of an input that anything behind its Clips sees; None where not all is clipped.

    A reader is a Clip between constants, or moves values and is read by such alone. Bounds beyond 1024 are none.
    """
    if any(name == value.name for value in graph.output):
        return None
    bounds, alike = [], {name}
    for node in graph.node:
        if alike.isdisjoint(names_read(node)):
            continue
        if op_of(node) in MOVED and node.input[0] in alike:
            alike.update(node.output)
            continue
        found = _bounds(node, constants) if op_of(node) == "Clip" and node.input[0] in alike else None
        if found is None:
            return None
        bounds.append(found)
    if not bounds or any(value.name in alike for value in graph.output):
        return None
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def _bounds(node: onnx.NodeProto, constants: HeadConstants) -> tuple[float, float] | None:
    """Those of a Clip, as attributes before opset 11 and as inputs since."""
    stated: Sequence[object] = [next((a.f for a in node.attribute if a.name == key), None) for key in ("min", "max")]
    if len(node.input) == 3:
        stated = [constants.get(read) if read else None for read in node.input[1:]]
    values = [np.asarray(value, np.float64).reshape(-1) for value in stated if value is not None]
    if [len(value) for value in values] != [1, 1]:
        return None
    low, high = (float(value[0]) for value in values)
    return (low, high) if -FARTHEST_BOUND <= low < high <= FARTHEST_BOUND else None
