"""Where a network holds its scores of classes. No PyTorch here."""

from __future__ import annotations

from collections.abc import Collection

import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.operators import op_of
from dfmpc_onnx.graph.query import producer

CARRIES_SCORES = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
TURNS_INTO_PROBABILITIES = frozenset({"Softmax", "LogSoftmax"})


def scores_tensor(graph: gs.Graph, without_classes: Collection[str]) -> str | None:
    """The tensor of a network's class scores before any Softmax; None where no output may hold some.

    without_classes: outputs that hold none (`graph.class_outputs`).
    """
    output = next((t for t in graph.outputs if t.name not in without_classes), None)
    if output is None:
        return None
    tensor = output
    while (node := producer(tensor)) is not None and op_of(node) in CARRIES_SCORES:
        tensor = node.inputs[0]
    turned = node is not None and op_of(node) in TURNS_INTO_PROBABILITIES
    return str(node.inputs[0].name if node is not None and turned else output.name)
