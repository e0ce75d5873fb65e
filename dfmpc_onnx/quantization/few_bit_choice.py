"""Which tensors have few bits where the user leaves it open: those that together cost the outputs little."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.evaluation.rounding_switches import ToggledRounding
from dfmpc_onnx.numerics.few_levels import FewLevels
from dfmpc_onnx.numerics.output_loss import damage
from dfmpc_onnx.pipeline.deadline import CHOSEN
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.image_count import images_in_time
from dfmpc_onnx.statistics.batch_axis import statistics_batch

AFFORDED = 0.03  # of the output that suffers most: 15 dB, at which classifiers lose about a point
IMAGES_OF_CHOICE = 4


@dataclasses.dataclass(frozen=True)
class FewBitChoice:
    """The tensors that have few bits, and in words how they were chosen."""

    tensors: frozenset[str]
    note: str


def choose_few_bits(workspace: Workspace, grids: Mapping[str, FewLevels]) -> FewBitChoice:
    """The most tensors, in the order of what each costs alone, that together cost no output more than `AFFORDED`.

    grids: of those that may have few bits. Measured where it counts, at the outputs of the float network, on a few
    inputs; none has few bits where outputs cannot be compared, or where no time is left to.
    """
    names, deadline = list(grids), workspace.deadline
    if not names:
        return FewBitChoice(frozenset(), "no tensor is left to choose few bits for")
    images = images_in_time(workspace, IMAGES_OF_CHOICE, CHOSEN, 2 * len(names))
    batch = statistics_batch(workspace.graph, workspace.inputs, workspace.settings.seed, images)
    feeds = batch.first(images).feeds
    scales, ends = ({name: getattr(grid, key) for name, grid in grids.items()} for key in ("scale", "ends"))
    try:
        network = ToggledRounding(workspace, scales, [[name] for name in names], feeds, ends)
    except ModelError as error:
        return FewBitChoice(frozenset(), f"8 bits everywhere: what fewer cost cannot be measured: {error}")
    if not network.comparable:
        return FewBitChoice(frozenset(), "8 bits everywhere: no output holds numbers to compare")

    def cost(chosen: Sequence[int]) -> float:
        return damage(network.losses(chosen))

    alone: list[float] = []
    for index in range(len(names)):
        if deadline.past(CHOSEN):
            deadline.cut("which activations may have few bits was not measured: all have 8")
            return FewBitChoice(frozenset(), "8 bits everywhere: no time was left to measure what fewer cost")
        alone.append(cost([index]))
    order = sorted(range(len(names)), key=alone.__getitem__)
    fit, over = 0, len(order) + 1
    while over - fit > 1 and not deadline.past(CHOSEN):
        middle = (fit + over) // 2
        fit, over = (middle, over) if cost(order[:middle]) <= AFFORDED else (fit, middle)
    share = 100 * cost(order[:fit])
    note = f"{fit} of {len(order)} tensors have few bits, which cost {share:.2g} % of the output; the others have 8"
    return FewBitChoice(frozenset(names[index] for index in order[:fit]), note)
