"""Which tensors have a scale that is known, whatever the scale of inputs that nobody knows is."""

from __future__ import annotations

from collections.abc import Collection

import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.operators import op_of, squashes
from dfmpc_onnx.graph.query import reads

NORMALIZES = frozenset(
    {
        "BatchNormalization",
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "LpNormalization",
        "MeanVarianceNormalization",
        "RMSNormalization",
    }
)


def tensors_of_known_scale(graph: gs.Graph, inputs: Collection[str]) -> set[str]:
    """Those that follow from inputs of known scale alone, or from a normalization or a squashing function.

    inputs: names of those whose scale is known. What was measured of other tensors grows and shrinks with the input.
    """
    known = set(inputs)
    for node in graph.nodes:
        if op_of(node) in NORMALIZES or squashes(node) or all(t.name in known for t in reads(node)):
            known.update(t.name for t in node.outputs)
    return known
