"""How many images statistics take: more than their size asks for where few bits are wanted of wide patches.

Second moments of patches of k entries that are estimated on n patches are wrong by about k / n of themselves. Where n
is less than k they have no full rank, and rounding finds directions in which errors seem to cost nothing. At 4 bits and
more errors are too small for that to show; at 3 and below it is a large part of what is lost: docs/method.md, 3.
"""

from __future__ import annotations

import math

from dfmpc_onnx.graph.output_layers import inferred_shapes, multiply_adds
from dfmpc_onnx.inputs.batches import MOST_IMAGES, usual_count
from dfmpc_onnx.memory import free_memory
from dfmpc_onnx.pipeline.facts import BitPlan, Layer, Layers
from dfmpc_onnx.pipeline.settings import FLOAT, TERNARY, BitWidth
from dfmpc_onnx.pipeline.workspace import Workspace

FEW_BITS = 3
TENSORS_HELD = 8  # of the largest, by both networks and the layer at work
SHARE_OF_MEMORY = 0.5


def images_needed(workspace: Workspace) -> int:
    """How many images to make; 0 to let their size decide, as where the user gives images or leaves widths open."""
    settings, inputs = workspace.settings, workspace.inputs
    if settings.weights.auto or not settings.by_hand or inputs.images is not None:
        return 0
    shapes = {name: (1, *shape[1:]) for name, shape in inputs.shapes.items() if shape}
    count = usual_count(inputs)
    if not 0 < count < MOST_IMAGES or len(shapes) < len(inputs):
        return 0
    plan, costs = workspace.get(BitPlan).layers, multiply_adds(workspace.graph, shapes)
    few = [layer for layer in workspace.get(Layers).quantizable if _is_few(plan[layer.name].bits)]
    if not any(0 < _patches(layer, costs) * count < _entries(layer) for layer in few):
        return 0
    largest = max((math.prod(shape) for shape in inferred_shapes(workspace.graph, shapes).values()), default=0)
    fits = 4 * largest * MOST_IMAGES * TENSORS_HELD < SHARE_OF_MEMORY * free_memory()
    return MOST_IMAGES if fits else 0


def _is_few(bits: BitWidth | str) -> bool:
    return bits != FLOAT and (bits == TERNARY or float(bits) <= FEW_BITS)


def _entries(layer: Layer) -> int:
    """Of a patch that one output channel reads."""
    return layer.size // max(layer.channels or 1, 1)


def _patches(layer: Layer, costs: dict[str, int]) -> int:
    """That a layer reads of one image; 0 where that is not known."""
    return costs.get(layer.name, 0) // max(layer.size, 1)
