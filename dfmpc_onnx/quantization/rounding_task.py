"""A weight to round: the levels and codebooks that a width allows, and which of them loses least."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from dfmpc_onnx.numerics.arrays import Float, Float32
from dfmpc_onnx.numerics.block_rounding import BlockRounder
from dfmpc_onnx.numerics.granularity import PerAxis, unrows
from dfmpc_onnx.numerics.grids import Grid, ternary_grid, uniform_grid
from dfmpc_onnx.numerics.least_squares import OutputErrors, PatchMoments, rounding_error
from dfmpc_onnx.numerics.quantized import QuantizedWeight
from dfmpc_onnx.numerics.rounding import FeedbackRounder, Rounded
from dfmpc_onnx.numerics.ternary import ternary_optimal
from dfmpc_onnx.pipeline.facts import Layer
from dfmpc_onnx.pipeline.settings import TERNARY, BitWidth
from dfmpc_onnx.quantization.codebook_tables import LENGTHS, NetworkTables, takes_codebooks
from dfmpc_onnx.statistics.error_at_next_layer import NextInput

FEWEST_PATCHES = 16  # that say enough of a layer's input to fit to it, or to choose bits by
FINE_RASTER, COARSE_RASTER = 3, 7  # of the ranges that grids of few levels are sought among
ESTIMATED_LEVELS: tuple[BitWidth, ...] = (TERNARY, 2, 3, 4, 5)
ESTIMATED_WIDTHS: tuple[BitWidth, ...] = (TERNARY, 1.6, 2, 2.67, 3, 4, 5)
# Levels that may take a width's place: those of no more bits, where a codebook cannot, and where it can.
NARROWER: Mapping[BitWidth, tuple[BitWidth, ...]] = {1.6: (TERNARY,), 2: (TERNARY, 2), 2.67: (TERNARY, 2)}


def forms_at(width: BitWidth, codebooks: bool) -> tuple[tuple[BitWidth, ...], tuple[int, ...]]:
    """The levels to try at a width, and the lengths of blocks. codebooks: whether the layer takes any."""
    lengths = (LENGTHS[width],) if codebooks and width in LENGTHS else ()
    if lengths and width == 2.67:
        return (), lengths
    return NARROWER.get(width, (width,)), lengths


def _best(candidates: Sequence[Candidate]) -> Candidate:
    """The first of those that lose least."""
    return min(candidates, key=lambda candidate: candidate.lost)


@dataclasses.dataclass
class Candidate:
    """One width tried on a layer: what it rounds to, and the share of what is read next that is lost by rounding."""

    quantized: QuantizedWeight
    rows: Float32
    lost: float


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
    tables: the codebooks of the network.
    """

    target: Float32
    moments: PatchMoments
    measure: Measure | PooledUses
    rounder: FeedbackRounder | None
    layer: Layer
    errors: OutputErrors
    gain: float
    tables: NetworkTables

    def rounded(self, width: BitWidth) -> Candidate:
        """At a width, in whichever form that takes no more bits loses least."""
        levels, lengths = forms_at(width, self._takes_codebooks)
        return _best([*self._on_grids(levels), *self._on_codebooks(lengths)])

    def estimated(self) -> dict[BitWidth, Candidate]:
        """At up to 5 bits, on grids and codebooks that are good rather than the best: for what rounding loses."""
        found = dict(zip(ESTIMATED_LEVELS, self._on_grids(ESTIMATED_LEVELS, thorough=False), strict=True))
        lengths = tuple(LENGTHS.values()) if self._takes_codebooks else ()
        blocks = dict(zip(lengths, self._on_codebooks(lengths, thorough=False), strict=True))
        estimates: dict[BitWidth, Candidate] = {}
        for width in ESTIMATED_WIDTHS:
            levels, own = forms_at(width, self._takes_codebooks)
            estimates[width] = _best([*(found[level] for level in levels), *(blocks[length] for length in own)])
        return estimates

    @property
    def _takes_codebooks(self) -> bool:
        return self.rounder is not None and takes_codebooks(self.layer)

    def _on_codebooks(self, lengths: Sequence[int], *, thorough: bool = True) -> list[Candidate]:
        """In blocks of so many codes, with feedback."""
        if not lengths:
            return []
        rounder = BlockRounder(self.target, self.moments.hat)
        return [self._candidate(rounder.on(self.tables.of(length), thorough=thorough)) for length in lengths]

    def _on_grids(self, widths: Sequence[BitWidth], *, thorough: bool = True) -> list[Candidate]:
        """On grids of levels."""
        flat = self.target.reshape(-1, self.target.shape[2])
        seen = np.maximum(self.moments.diagonal, 0.0)
        if self.moments.count < FEWEST_PATCHES:
            seen = np.ones_like(seen)  # an input that was 0 in a handful of patches is not 0 for ever
        grids = [_grid(flat, seen, width, FINE_RASTER if thorough else COARSE_RASTER) for width in widths]
        if self.rounder is not None:
            return [self._candidate(found) for found in self.rounder.on_best_grids(grids, thorough=thorough)]
        return [self._candidate(self._nearest(flat, grid)) for grid in grids]

    def _nearest(self, flat: Float32, grid: Grid) -> Rounded:
        codes = grid.codes(flat)
        values = grid.values(codes).reshape(self.target.shape)
        return Rounded(grid, codes, rounding_error(self.target, values, self.moments))

    def _candidate(self, found: Rounded) -> Candidate:
        values = found.grid.values(found.codes).reshape(self.target.shape)
        return Candidate(_as_weight(found.codes, found.grid, self.layer), values, self.measure.share(found.error))


def from_rows(rows: Float32, layer: Layer) -> Float32:
    """The weight of `to_rows`."""
    if layer.op == "Conv":
        return np.ascontiguousarray(rows.reshape(layer.shape))
    return np.ascontiguousarray(rows[0] if layer.axis == 0 else rows[0].T)


def nearest(weight: Float32, layer: Layer, bits: BitWidth) -> QuantizedWeight:
    """A weight on the grid that suits it, each number at the level nearest to it; no codebook serves for that."""
    flat = np.asarray(PerAxis(layer.axis).rows(weight), np.float32)
    grid = _grid(flat, np.ones((1, flat.shape[1])), forms_at(bits, codebooks=False)[0][-1])
    return _as_weight(grid.codes(flat), grid, layer)


def _as_weight(codes: Float32, grid: Grid, layer: Layer) -> QuantizedWeight:
    """Codes of rows and their grid in the layout of the layer's weight."""
    whole = codes.astype(np.int8)
    granularity = PerAxis(layer.axis)
    shape = granularity.scale_shape(layer.shape)
    shaped = np.ascontiguousarray(unrows(whole.reshape(layer.shape[layer.axis], -1), layer.shape, granularity))
    zero = grid.zero_point.reshape(shape)
    return QuantizedWeight(shaped, grid.scale.reshape(shape), zero, grid.bits, grid.ternary, grid.book)


def _grid(rows: Float32, importance: Float, width: BitWidth, raster: int = FINE_RASTER) -> Grid:
    """importance: ``[groups, k]``, each of as many rows that follow each other."""
    if width == TERNARY:
        each = np.repeat(importance.astype(np.float32), len(rows) // len(importance), axis=0)
        return ternary_grid(ternary_optimal(rows, each, PerAxis(0)).scale)
    return uniform_grid(rows, importance, int(width), raster)
