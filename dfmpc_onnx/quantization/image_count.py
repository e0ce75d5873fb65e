"""How many images statistics take: more than their size asks for where few bits are wanted of wide patches.

Second moments of patches of k entries that are estimated on n patches are wrong by about k / n of themselves. Where n
is less than k they have no full rank, and rounding finds directions in which errors seem to cost nothing. And patches
of one image are much alike: what counts is how many images there are. So where weights get few bits there are as many
as a bound on multiply-adds allows: docs/method.md, 3.

Under a limit on the time of a run they are no more than there is time for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.graph.exchange import to_model
from dfmpc_onnx.graph.output_layers import inferred_shapes, multiply_adds
from dfmpc_onnx.inputs.batches import MOST_IMAGES, PIXELS, usual_count
from dfmpc_onnx.inputs.spec import InputSpecs
from dfmpc_onnx.memory import free_memory
from dfmpc_onnx.pipeline.facts import BitPlan, Layer, Layers
from dfmpc_onnx.pipeline.settings import FLOAT, TERNARY, BitWidth
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.runtime.session import Session
from dfmpc_onnx.statistics.batch_axis import statistics_batch

FEW_BITS = 4
SHARE_OF_NARROW_LAYERS = 0.1  # of the layers: for one among many the time is not worth it
MOST_OF_FEW_BITS = 192  # images, where they are small and the network is
# What the float network may take on all of them: multiply-adds, and pixels. Usually those of ResNet-20 on 192 images of
# 32x32; where the user asks for few bits those of ResNet-56, and 64 images of 224x224.
USUAL_COST, COST_OF_FEW_BITS = (8e9, PIXELS), (25e9, 4 * PIXELS)
TENSORS_HELD = 8  # of the largest, by both networks and the layer at work
SHARE_OF_MEMORY = 0.5
RUNS_OF_A_WALK = 16  # of the float network, that a walk of both networks over as many images takes (MobileNetV2: 14)


def images_needed(workspace: Workspace) -> int:
    """How many images to make; 0 to let their size decide, as where the user gives images or no weight gets few bits.
    Widths that are left open are planned by then."""
    settings, inputs = workspace.settings, workspace.inputs
    if inputs.images is not None or not gets_few_bits(workspace):
        return 0
    shapes = {name: (1, *shape[1:]) for name, shape in inputs.shapes.items() if shape}
    usual = usual_count(inputs)
    if not usual or len(shapes) < len(inputs):
        return 0
    costs = multiply_adds(workspace.graph, shapes)
    asked_for = settings.by_hand and not settings.weights.auto
    wanted = _affordable(inputs, costs, COST_OF_FEW_BITS if asked_for else USUAL_COST)
    if asked_for and _some_patches_are_few(workspace, costs, usual):
        wanted = max(wanted, MOST_IMAGES)
    largest = max((math.prod(shape) for shape in inferred_shapes(workspace.graph, shapes).values()), default=0)
    fits = 4 * largest * wanted * TENSORS_HELD < SHARE_OF_MEMORY * free_memory()
    return wanted if wanted > usual and fits else 0


def gets_few_bits(workspace: Workspace) -> bool:
    """Whether enough layers have weights of so few bits that correlations of inputs decide what rounding costs."""
    plan, layers = workspace.get(BitPlan).layers, workspace.get(Layers).quantizable
    few = sum(_is_few(plan[layer.name].bits) for layer in layers)
    return few > 0 and few >= SHARE_OF_NARROW_LAYERS * len(layers)


def _affordable(inputs: InputSpecs, costs: Mapping[str, int], bounds: tuple[float, int]) -> int:
    """How many pictures are within bounds on multiply-adds and on pixels; 0 where it is not known what a layer costs,
    and of inputs that are no pictures."""
    if not costs or not all(costs.values()) or not all(spec.is_picture for spec in inputs):
        return 0
    adds, pixels = bounds
    area = max(math.prod(spec.shape[1:]) // spec.channels for spec in inputs)
    return min(int(adds / sum(costs.values())), pixels // area, MOST_OF_FEW_BITS)


def _some_patches_are_few(workspace: Workspace, costs: Mapping[str, int], count: int) -> bool:
    """Whether a layer of few bits reads fewer patches of so many images than a patch has entries."""
    plan = workspace.get(BitPlan).layers
    few = [layer for layer in workspace.get(Layers).quantizable if _is_few(plan[layer.name].bits)]
    return any(0 < _patches(layer, costs) * count < _entries(layer) for layer in few)


def _is_few(bits: BitWidth | str) -> bool:
    return bits != FLOAT and (bits == TERNARY or float(bits) <= FEW_BITS)


def _entries(layer: Layer) -> int:
    """Of a patch that one output channel reads."""
    return layer.size // max(layer.channels or 1, 1)


def _patches(layer: Layer, costs: Mapping[str, int]) -> int:
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
