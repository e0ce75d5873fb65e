"""What rounding a weight loses at each width, without the best grid or codebook at any of them.

What blocks of a codebook lose beside levels differs little from one output channel to the next, and each channel takes
a search among all vectors: so some channels are rounded to blocks, and the others lose as much in proportion to what
they lose on levels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping

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

    def __init__(self, task: Task, whole: Collection[BitWidth] = ()) -> None:
        """whole: widths at which all channels are rounded in every form, as for a weight to be looked at."""
        self._task = task
        found = task.on_levels(ESTIMATED_LEVELS, COARSE_RASTER, thorough=False)
        self._levels = dict(zip(ESTIMATED_LEVELS, found, strict=True))
        self._lost = {width: task.measure.share(one.error) for width, one in self._levels.items()}
        self._blocks: dict[Blocks, Rounded] = {}  # those of all channels
        self._lost_in_blocks = dict(self._on_blocks(whole))

    def by_width(self) -> Mapping[BitWidth, RoundingEstimate]:
        """In rising order of widths."""
        found = {}
        for width in ESTIMATED_WIDTHS:
            levels, blocks = self._task.forms_at(width)
            on_levels = min((self._lost[level] for level in levels), default=math.inf)
            coded = min((self._lost_in_blocks[size] for size in blocks), default=math.inf)
            found[width] = RoundingEstimate(min(on_levels, coded), coded < on_levels)
        return found

    def lost_on_levels(self, width: BitWidth) -> float:
        """What is lost on levels, whatever blocks lose."""
        return self._lost[width]

    def rounded(self, width: BitWidth) -> tuple[Float32, float]:
        """The weight, ``[groups, out/group, k]``, in the form that loses least of those that all channels were rounded
        in; and what is lost."""
        found, lost = self._levels[width], self._lost[width]
        for blocks in self._task.forms_at(width)[1]:
            if blocks in self._blocks and self._lost_in_blocks[blocks] < lost:
                found, lost = self._blocks[blocks], self._lost_in_blocks[blocks]
        return found.grid.values(found.codes).reshape(self._task.target.shape), lost

    def _on_blocks(self, whole: Collection[BitWidth]) -> Iterator[tuple[Blocks, float]]:
        """What is lost in the blocks that the layer may take."""
        task, out = self._task, self._task.target.shape[1]
        some = np.arange(0, out, -(-out // CHANNELS_ON_BLOCKS))
        rounder = BlockRounder(task.target, task.moments.hat)
        for width, blocks in BLOCKS.items():
            if not task.takes(blocks):
                continue
            if width in whole:
                found = self._blocks[blocks] = rounder.estimate(task.tables.of(blocks))
                yield blocks, task.measure.share(found.error)
            else:
                found = rounder.estimate(task.tables.of(blocks), some)
                levels = self._levels[round(float(width))]
                yield blocks, task.measure.share(_for_all(found.error, some, levels.error))


def _for_all(seen: Float, outs: npt.NDArray[np.intp], levels: Float) -> Float:
    """The errors of all channels, ``[groups, out/group]``, from those of some.

    seen: of the channels `outs`. levels: of all channels on levels, beside which the others stand as those do.
    """
    beside = levels[:, outs]
    live = beside > 0
    ratio = float(np.mean(seen[live] / beside[live])) if live.any() else 1.0
    found: Float = levels * ratio
    found[:, outs] = seen
    return found
