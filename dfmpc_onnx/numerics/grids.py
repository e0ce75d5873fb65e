"""Grids that fit a weight under a given importance: which scale and zero point each output channel gets."""

from __future__ import annotations

import dataclasses

import numpy as np

from dfmpc_onnx.numerics.arrays import Float, Float32, Floating
from dfmpc_onnx.numerics.codebook import Codebook

ASYMMETRIC_BITS = 4  # docs/method.md, section 5: at 4 bits and below an integer zero point pays
SHRINK = np.linspace(1.0, 0.3, 29)
CACHED = 2**15  # weights that are looked at in one go: what is made of them stays in the processor's cache
FEWEST_ROWS = 256  # that one operation serves
LEAST_SCALE = np.float32(2.0**-100)
POWERS_TRIED = 5  # of two that are tried, from the one that covers the range on down


@dataclasses.dataclass(frozen=True)
class Grid:
    """Levels ``scale * (q - zero_point)`` for q from lowest to highest, one row an output channel.

    scale, zero_point: ``[rows, 1]`` float32; zero_point whole. bits: width of a code. shared: whether all rows have one
    scale and zero point. fixed: whether scales must stay as they are, since rows share them or they are powers of two.
    book: the table that blocks of codes are taken from; None where each code is free.
    """

    scale: Float32
    zero_point: Float32
    lowest: int
    highest: int
    bits: int
    ternary: bool = False
    shared: bool = False
    fixed: bool = False
    book: Codebook | None = None

    def codes(self, values: Float32) -> Float32:
        """The codes of the nearest levels, as float32, for ``[rows, n]`` values."""
        codes = values / self.scale
        codes += self.zero_point
        np.rint(codes, out=codes)
        return np.clip(codes, self.lowest, self.highest, out=codes)

    def values(self, codes: Float32) -> Float32:
        """What codes stand for."""
        return (codes - self.zero_point) * self.scale

    def nearest(self, values: Float32) -> Float32:
        """The nearest levels."""
        return self.values(self.codes(values))


def uniform_grid(
    weight: Float32, importance: Floating, bits: int, raster: int = 3, *, zero_points: bool = True
) -> Grid:
    """The uniform grid of least ``sum_k h_k (w_k - Q(w_k))^2`` in each row, found over shrunken ranges.

    At 4 bits and below the range is ``[min, max]`` of the row with a whole zero point, above it is symmetric, and
    everywhere without zero_points.
    weight: ``[rows, k]`` float32. importance: h, at least 0, ``[k]`` or ``[groups, k]``, each of as many rows that
    follow each other. bits: 2 to 8. raster: of the shrunken ranges one in so many is tried at each end where both are
    sought apart, at 2 and 3 bits.
    """
    rows, k = weight.shape
    given = np.atleast_2d(np.asarray(importance, np.float32))
    h = np.ascontiguousarray(np.broadcast_to(given, (len(given), k)))
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    scale, zero = np.empty(rows, np.float32), np.zeros(rows, np.float32)
    each = rows // len(h)
    at_once = each if 1 < len(h) < rows else max(FEWEST_ROWS, CACHED // max(k, 1))
    for start in range(0, rows, at_once):
        part = slice(start, min(start + at_once, rows))
        own = h[0] if len(h) == 1 else h[part] if each == 1 else h[start // each]
        scale[part], zero[part] = _best_ranges(weight[part], own, _trials(weight[part], bits, raster, zero_points))
    lower = lowest if bits <= ASYMMETRIC_BITS and zero_points else -highest
    return Grid(scale[:, None], zero[:, None], lower, highest, bits)


@dataclasses.dataclass(frozen=True)
class _Trials:
    """Ranges to try for each row: scale, whole zero point, and the ends of the grid from there: ``[trials, rows]``."""

    scale: Float32
    zero: Float32
    least: Float32
    most: Float32


def _trials(weight: Float32, bits: int, raster: int, zero_points: bool) -> _Trials:
    low, high = np.minimum(weight.min(axis=1), 0), np.maximum(weight.max(axis=1), 0)
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if bits > ASYMMETRIC_BITS or not zero_points:
        scale = _positive(np.maximum(-low, high) * _column(SHRINK) / np.float32(highest))
        whole = np.full_like(scale, highest)
        return _Trials(scale, np.zeros_like(scale), -whole, whole)
    # Two or three bits have no level to spare: their two ends are sought apart, on a coarser raster.
    few = SHRINK[::raster]
    ends = (np.repeat(few, len(few)), np.tile(few, len(few))) if bits <= 3 else (SHRINK, SHRINK)
    bottom, top = low * _column(ends[0]), high * _column(ends[1])
    scale = _positive((top - bottom) / np.float32(2**bits - 1))
    zero = np.clip(np.rint(lowest - bottom / scale), lowest, highest)
    return _Trials(scale, zero, lowest - zero, highest - zero)


def _best_ranges(weight: Float32, h: Float32, trials: _Trials) -> tuple[Float32, Float32]:
    """Scale and zero point of some rows, ``[rows]``; h: ``[k]`` or ``[rows, k]``.

    All trials look at as many columns as the processor's cache holds before the next are read.
    """
    rows, k = weight.shape
    error = np.zeros_like(trials.scale)
    step = min(max(1, CACHED // rows), k)
    steps, codes = (np.empty((step, rows), np.float32) for _ in range(2))
    for start in range(0, k, step):
        columns = np.ascontiguousarray(weight[:, start : start + step].T)
        counts = np.ascontiguousarray(h[..., start : start + step].T)
        off, whole = steps[: len(columns)], codes[: len(columns)]
        for trial in range(len(error)):
            np.divide(columns, trials.scale[trial], out=off)
            np.rint(off, out=whole)
            np.maximum(whole, trials.least[trial], out=whole)
            np.minimum(whole, trials.most[trial], out=whole)
            off -= whole
            np.square(off, out=off)
            error[trial] += counts @ off if counts.ndim == 1 else np.einsum("kr,kr->r", off, counts)
    error *= np.square(trials.scale / trials.scale.max(axis=0))  # of tiny weights squares would be 0
    best, index = error.argmin(axis=0), np.arange(rows)
    return trials.scale[best, index], trials.zero[best, index]


def _column(values: Float) -> Float32:
    return values.astype(np.float32)[:, None]


def _positive(scale: Float32) -> Float32:
    """A row of zeros has no range; any scale suits it."""
    return np.where(scale > 0, scale, np.float32(1))


def _weights_of(importance: Floating, shape: tuple[int, ...]) -> Float32:
    """h of each number of a weight ``[rows, k]``, from ``[groups, k]``."""
    given = np.atleast_2d(np.asarray(importance, np.float32))
    return np.broadcast_to(np.repeat(given, shape[0] // len(given), axis=0), shape)


def tensor_grid(grid: Grid, weight: Float32, importance: Floating) -> Grid:
    """A grid with one scale and zero point for all rows, of the same width and form as one with a scale a row.

    Of least ``sum_rk h_rk (w_rk - Q(w_rk))^2`` over the whole tensor, found over shrunken ranges as in `uniform_grid`;
    ternary levels are tried at the scales of the rows. weight: ``[rows, k]``. importance: as in `uniform_grid`.
    """
    h = _weights_of(importance, weight.shape)
    if grid.ternary:
        tried = np.unique(grid.scale.reshape(-1))
        scale = tried[np.argmin([_loss(dataclasses.replace(grid, scale=s.reshape(1, 1)), weight, h) for s in tried])]
        zero = np.float32(0)
    else:
        flat = weight.reshape(1, -1)
        trials = _trials(flat, grid.bits, 3, zero_points=grid.lowest != -grid.highest)
        scales, zeros = _best_ranges(flat, h.reshape(-1), trials)
        scale, zero = scales[0], zeros[0]
    rows = np.ones_like(grid.scale)
    return dataclasses.replace(grid, scale=rows * scale, zero_point=rows * zero, shared=True, fixed=True)


def with_powers_of_two(grid: Grid, weight: Float32, importance: Floating) -> Grid:
    """A symmetric grid of the same width whose scales are powers of two; rows that share a scale go on sharing one.

    Of those around the scale of a grid without zero point the one of least ``sum h (w - Q(w))^2``, each row for itself
    or all together. weight: ``[rows, k]``. importance: as in `uniform_grid`.
    """
    h = _weights_of(importance, weight.shape)
    lowest = -1 if grid.ternary else -(2 ** (grid.bits - 1) - 1)
    highest = -lowest
    peak = np.abs(weight).max(axis=1, keepdims=True)
    widest = grid.scale if grid.ternary else (peak.max() if grid.shared else peak) / np.float32(highest)
    exponent = np.ceil(np.log2(np.maximum(widest, LEAST_SCALE) + np.zeros_like(grid.scale)))
    zero = np.zeros_like(grid.scale)
    tried = [
        dataclasses.replace(
            grid, scale=np.exp2(exponent - down).astype(np.float32), zero_point=zero, lowest=lowest, highest=highest
        )
        for down in range(POWERS_TRIED)
    ]
    losses = np.stack(
        [np.einsum("rk,rk->r", h, np.square(weight - g.nearest(weight)), dtype=np.float64) for g in tried]
    )
    losses = np.broadcast_to(losses.sum(axis=1, keepdims=True), losses.shape) if grid.shared else losses
    best = losses.argmin(axis=0)
    scale = np.stack([g.scale for g in tried])[best, np.arange(len(weight))]
    return dataclasses.replace(tried[0], scale=scale, fixed=True)


def _loss(grid: Grid, weight: Float32, h: Float32) -> float:
    return float(np.vdot(h, np.square(weight - grid.nearest(weight))))


def ternary_grid(scale: Float32) -> Grid:
    """Levels -scale, 0, scale: ``[rows, 1]`` float32."""
    return Grid(scale, np.zeros_like(scale), -1, 1, 2, ternary=True)
