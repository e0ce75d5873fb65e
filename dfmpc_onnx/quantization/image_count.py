"""How many images statistics take: more than their size asks for where few bits are wanted of wide patches.

Second moments of patches of k entries that are estimated on n patches are wrong by about k / n of themselves. Where n
is less than k they have no full rank, and rounding finds directions in which errors seem to cost nothing. At 4 bits and
more errors are too small for that to show; at 3 and below it is a large part of what is lost: docs/method.md, 3.

Under a limit on the time of a run they are no more than there is time for.
"""

from __future__ import annotations

import math

from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.graph.exchange import to_model
from dfmpc_onnx.graph.output_layers import inferred_shapes, multiply_adds
from dfmpc_onnx.inputs.batches import MOST_IMAGES, usual_count
from dfmpc_onnx.memory import free_memory
from dfmpc_onnx.pipeline.facts import BitPlan, Layer, Layers
from dfmpc_onnx.pipeline.settings import FLOAT, TERNARY, BitWidth
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.runtime.session import Session
from dfmpc_onnx.statistics.batch_axis import statistics_batch

FEW_BITS = 3
RECOLOURED_BITS = 4
RECOLOURED_SHARE = 0.1  # of the layers: for one among many the time is not worth it
TENSORS_HELD = 8  # of the largest, by both networks and the layer at work
SHARE_OF_MEMORY = 0.5
RUNS_OF_A_WALK = 16  # of the float network, that a walk of both networks over as many images takes (MobileNetV2: 14)


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


def few_enough_to_recolour(workspace: Workspace) -> bool:
    """Whether enough layers have so few bits that correlations of their inputs decide what rounding costs."""
    plan, layers = workspace.get(BitPlan).layers, workspace.get(Layers).quantizable
    widths = [plan[layer.name].bits for layer in layers]
    few = sum(bits == TERNARY or (bits != FLOAT and float(bits) <= RECOLOURED_BITS) for bits in widths)
    return few > 0 and few >= RECOLOURED_SHARE * len(widths)


def _is_few(bits: BitWidth | str) -> bool:
    return bits != FLOAT and (bits == TERNARY or float(bits) <= FEW_BITS)


def _entries(layer: Layer) -> int:
    """Of a patch that one output channel reads."""
    return layer.size // max(layer.channels or 1, 1)


def _patches(layer: Layer, costs: dict[str, int]) -> int:
    """That a layer reads of one image; 0 where that is not known."""
    return costs.get(layer.name, 0) // max(layer.size, 1)


def images_in_time(workspace: Workspace, wanted: int, share: float, runs: float = RUNS_OF_A_WALK) -> int:
    """Of the images wanted, those that there is time for until a share of the limit is gone; at least 1, and all where
    the network takes no other number.

    runs: of the float network on each of them, that what they are wanted for takes.
    """
    if not workspace.deadline.limited:
        return wanted
    each = runs * seconds_of_run(workspace)
    left = workspace.deadline.until(share)
    number = wanted if each * wanted <= left else max(int(left / each), 1) if each > 0 else 1
    if number < wanted:
        if not statistics_batch(workspace.graph, workspace.inputs, workspace.settings.seed, 1).any_number:
            return wanted
        workspace.deadline.cut(f"statistics from {number} of {wanted} images")
    return number


def seconds_of_run(workspace: Workspace) -> float:
    """That the float network takes for one input, measured once; 0 where it cannot be run, as what follows says."""
    deadline = workspace.deadline
    if deadline.seconds_of_run is None:
        deadline.seconds_of_run = 0.0
        try:
            batch = statistics_batch(workspace.graph, workspace.inputs, workspace.settings.seed, 1).first(1)
            session = Session(to_model(workspace.graph))
            began = deadline.now()
            session.run(batch.feeds)
            deadline.seconds_of_run = (deadline.now() - began) / max(batch.count, 1)
        except ModelError:
            pass
    return deadline.seconds_of_run
