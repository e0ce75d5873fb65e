"""What rounding a weight loses at each width, without the best grid or codebook at any of them.

Levels are rounded in full, since they also make the probes. What blocks of a codebook lose beside them differs little
from one output channel to the next, and each channel takes a search among all vectors: so some channels are rounded to
blocks, and the others lose as much in proportion to what they lose on levels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.arrays import Float, Float32
from dfmpc_onnx.numerics.block_rounding import BlockRounder
from dfmpc_onnx.numerics.codebook import Blocks
from dfmpc_onnx.numerics.rounding import Rounded
from dfmpc_onnx.pipeline.settings import TERNARY, BitWidth
from dfmpc_onnx.quantization.codebook_tables import BLOCKS
from dfmpc_onnx.quantization.rounding_task import Task

COARSE_RASTER = 7  # of the ranges that grids of few levels are sought among
ESTIMATED_LEVELS: tuple[BitWidth, ...] = (TERNARY, 2, 3, 4, 5)
ESTIMATED_WIDTHS: tuple[BitWidth, ...] = (TERNARY, 1.6, 2, 2.67, 3, 4, 5)
CHANNELS_ON_BLOCKS = 32  # of each group, that are rounded to blocks: what blocks lose is then known to some 3 %


@dataclasses.dataclass(frozen=True)
class RoundingEstimate:
    """At one width. lost: in the form that loses least. blocks: whether that is blocks of a codebook."""

    lost: float
    blocks: bool


class RoundingEstimates:
    """Of one weight, at up to 5 bits."""

    def __init__(self, task: Task) -> None:
        self._task = task
        found = task.on_levels(ESTIMATED_LEVELS, COARSE_RASTER, thorough=False)
        self._levels = dict(zip(ESTIMATED_LEVELS, found, strict=True))
        self._lost = {width: task.measure.share(found.error) for width, found in self._levels.items()}

    def by_width(self) -> Mapping[BitWidth, RoundingEstimate]:
        """In rising order of widths."""
        on_blocks, found = self._on_blocks(), {}
        for width in ESTIMATED_WIDTHS:
            levels, blocks = self._task.forms_at(width)
            on_levels = min((self._lost[level] for level in levels), default=math.inf)
            coded = min((on_blocks[size] for size in blocks), default=math.inf)
            found[width] = RoundingEstimate(min(on_levels, coded), coded < on_levels)
        return found

    def lost_on_levels(self, width: BitWidth) -> float:
        """What is lost on levels, whatever blocks lose."""
        return self._lost[width]

    def on_levels(self, width: BitWidth) -> Float32:
        """The weight on levels, ``[groups, out/group, k]``."""
        found = self._levels[width]
        return found.grid.values(found.codes).reshape(self._task.target.shape)

    def _on_blocks(self) -> dict[Blocks, float]:
        """What is lost on the blocks that the layer may take."""
        task = self._task
        serving = {width: blocks for width, blocks in BLOCKS.items() if task.takes(blocks)}
        if not serving:
            return {}
        outs = np.arange(0, task.target.shape[1], -(-task.target.shape[1] // CHANNELS_ON_BLOCKS))
        rounder = BlockRounder(task.target[:, outs], task.moments.hat)
        found = {}
        for width, blocks in serving.items():
            seen = rounder.on(task.tables.of(blocks), thorough=False)
            found[blocks] = task.measure.share(_for_all(seen.error, outs, self._levels[round(float(width))]))
        return found


def _for_all(seen: Float, outs: npt.NDArray[np.intp], levels: Rounded) -> Float:
    """The errors of all channels, ``[groups, out/group]``, from those of some.

    seen: of the channels `outs`. levels: the weight on levels, whose errors say how those of the others stand to them.
    """
    beside = levels.error[:, outs]
    live = beside > 0
    ratio = float(np.mean(seen[live] / beside[live])) if live.any() else 1.0
    found: Float = levels.error * ratio
    found[:, outs] = seen
    return found
