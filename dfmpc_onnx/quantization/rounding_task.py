"""A weight to round: the levels and codebooks that a width allows, and which of them loses least."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from dfmpc_onnx.numerics.arrays import Float, Float32
from dfmpc_onnx.numerics.block_rounding import BlockRounder
from dfmpc_onnx.numerics.codebook import Blocks
from dfmpc_onnx.numerics.grids import Grid
from dfmpc_onnx.numerics.least_squares import OutputErrors, PatchMoments, rounding_error
from dfmpc_onnx.numerics.quantized import QuantizedWeight
from dfmpc_onnx.numerics.rounding import FeedbackRounder, Rounded
from dfmpc_onnx.pipeline.facts import Layer
from dfmpc_onnx.pipeline.settings import BitWidth
from dfmpc_onnx.quantization.codebook_tables import BLOCKS, NetworkTables
from dfmpc_onnx.quantization.grid_rules import GridRules
from dfmpc_onnx.quantization.weight_grids import FINE_RASTER, as_weight, forms_at, weight_grid
from dfmpc_onnx.statistics.error_at_next_layer import NextInput

FEWEST_PATCHES = 16  # that say enough of a layer's input to fit to it, or to choose bits by


def _best(levels: Sequence[Candidate], blocks: Sequence[Candidate]) -> Candidate:
    """The first of those that lose least, levels before blocks."""
    best = min([*levels, *blocks], key=lambda candidate: candidate.lost)
    return dataclasses.replace(best, on_levels=min((one.lost for one in levels), default=None))


@dataclasses.dataclass
class Candidate:
    """One width tried on a layer: what it rounds to, and the share of what is read next that is lost by rounding.

    limited: of how many outputs pairs of codes would have reached too far for sums in 16 bits. on_levels: what the best
    of the grids of levels that were tried loses; None where there was none.
    """

    quantized: QuantizedWeight
    rows: Float32
    lost: float
    limited: int
    on_levels: float | None = None


@dataclasses.dataclass(frozen=True)
class Measure:
    """What errors of a layer's outputs are, as a share of what is read of them next.

    signal: variance of the float outputs, ``[groups, out/group]``.
    """

    signal: Float
    ahead: NextInput

    def share(self, error: Float) -> float:
        """error: mean squares, as `signal`. A channel that does not vary counts only where no other does."""
        live = self.signal > 0
        if not live.any():
            return 1.0 if error.any() else 0.0
        lost = np.divide(error, self.signal, out=np.zeros_like(error), where=live)
        return round(self.ahead.share(lost.reshape(-1)), 6)


@dataclasses.dataclass(frozen=True)
class PooledUses:
    """What the layers that share a weight read together, and how errors are measured at those looked at.

    moments: those of each, of mean square 1, averaged. uses: how many layers there are.
    """

    moments: PatchMoments
    measures: tuple[Measure, ...]
    uses: int

    def share(self, error: Float) -> float:
        """That of the layer where it is largest."""
        return max(measure.share(error) for measure in self.measures)


@dataclasses.dataclass(frozen=True)
class Task:
    """A weight to round.

    target: ``[groups, out/group, k]``. rounder: with feedback, None for the nearest code. errors: what replacements of
    the weight cost its outputs. gain: what the fit that made the target takes back, as a share of what is read next.
    tables: the codebooks of the network. rules: what the target allows of a grid.
    """

    target: Float32
    moments: PatchMoments
    measure: Measure | PooledUses
    rounder: FeedbackRounder | None
    layer: Layer
    errors: OutputErrors
    gain: float
    tables: NetworkTables
    rules: GridRules

    def rounded(self, width: BitWidth) -> Candidate:
        """At a width, in whichever form that takes no more bits loses least."""
        levels, blocks = self.forms_at(width)
        return _best(
            [self._candidate(found) for found in self.on_levels(levels)],
            [self._candidate(found) for found in self._on_codebooks(blocks)],
        )

    def forms_at(self, width: BitWidth) -> tuple[tuple[BitWidth, ...], tuple[Blocks, ...]]:
        """The levels to try at a width, and the sizes of blocks."""
        return forms_at(width, width in BLOCKS and self.takes(BLOCKS[width]))

    def takes(self, blocks: Blocks) -> bool:
        """Whether the weight may be rounded to blocks of a size."""
        return self.rounder is not None and self.tables.serves(self.layer, blocks)

    def _on_codebooks(self, sizes: Sequence[Blocks]) -> list[Rounded]:
        """In blocks of each size, with feedback."""
        if not sizes:
            return []
        rounder = BlockRounder(self.target, self.moments.hat)
        return [rounder.on(self.tables.of(blocks)) for blocks in sizes]

    def on_levels(
        self, widths: Sequence[BitWidth], raster: int = FINE_RASTER, *, thorough: bool = True
    ) -> list[Rounded]:
        """On grids of levels. raster: as in `weight_grid`. thorough: as in `FeedbackRounder.on_best_grids`."""
        flat = self.target.reshape(-1, self.target.shape[2])
        seen = np.maximum(self.moments.diagonal, 0.0)
        if self.moments.count < FEWEST_PATCHES:
            seen = np.ones_like(seen)  # an input that was 0 in a handful of patches is not 0 for ever
        grids = [weight_grid(flat, seen, width, self.rules, self.layer.op, raster) for width in widths]
        if self.rounder is not None:
            return self.rounder.on_best_grids(grids, thorough=thorough)
        return [self._nearest(flat, grid) for grid in grids]

    def _nearest(self, flat: Float32, grid: Grid) -> Rounded:
        codes = grid.codes(flat)
        values = grid.values(codes).reshape(self.target.shape)
        return Rounded(grid, codes, rounding_error(self.target, values, self.moments))

    def _candidate(self, found: Rounded) -> Candidate:
        values = found.grid.values(found.codes).reshape(self.target.shape)
        quantized, lost = as_weight(found.codes, found.grid, self.layer), self.measure.share(found.error)
        return Candidate(quantized, values, lost, found.limited)
