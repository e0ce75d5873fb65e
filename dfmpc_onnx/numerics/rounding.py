"""Rounding with error feedback: each weight's rounding error is made good by those not yet rounded.

Optimal brain quantization for a fixed order of the columns (Frantar et al. 2022, "GPTQ", algorithm 1), written as
Babai's nearest plane: with ``H = M M'``, M upper triangular in that order, ``e H e' = sum_j (e M)_j^2`` for
``e = w - w^``, and column j of M holds all that is known of e when w_j is rounded. So no inverse is needed, and the
error of the rounding is a sum that the walk makes anyway. Batched over groups, so that depthwise layers cost one call.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.arrays import CodeArray, Float, Float32, Floating
from dfmpc_onnx.numerics.code_descent import descend
from dfmpc_onnx.numerics.factorization import cholesky
from dfmpc_onnx.numerics.grids import Grid
from dfmpc_onnx.numerics.saturation import (
    MOST_PAIR,
    NO_NEIGHBOUR,
    Neighbours,
    PairLimits,
    factors_that_fit,
    ordered_neighbours,
    reach_of_pair,
)

DAMPING = 0.05  # of mean diag H: docs/method.md, section 5
COLUMNS_AT_ONCE, COLUMNS_WITHIN = 128, 16  # columns that one product serves, in blocks and in blocks of blocks
WIDE = (1.0, 0.8, 1.25)  # scales tried on grids of few levels, as multiples of the one that suits nearest rounding
CLOSE = (1.0, 0.92, 1.08)  # and then around the best
FEW_LEVELS = 3  # bits
FINE = 8  # bits at which the nearest grid is good enough
STACKED = 2**24  # weights that trials may take at a time


@dataclasses.dataclass(frozen=True)
class Feedback:
    """How the errors of columns are spread over those that follow.

    order: of the columns, ``[groups, k]``. factor: M in that order, ``M M' = H + damp I``, each column over its
    diagonal, ``[groups, k, k]``; pivots: that diagonal, ``[groups, k]``; damp: ``[groups]``.
    """

    order: npt.NDArray[np.intp]
    factor: Float32
    pivots: Float32
    damp: Float


def feedback_of(hat: Floating, damping: float = DAMPING) -> Feedback:
    """Feedback under H, for any weight and grid. hat: H, ``[groups, k, k]``. Columns go in falling order of diag H."""
    order = np.argsort(-np.einsum("gii->gi", hat), axis=1, kind="stable")
    return feedback_in_order(hat, order, damping)


def feedback_in_order(hat: Floating, order: npt.NDArray[np.intp], damping: float = DAMPING) -> Feedback:
    """Feedback under H with columns in a given order, ``[groups, k]``."""
    diagonal = np.einsum("gii->gi", hat)
    backwards = order[:, ::-1]
    if len(hat) == 1:
        ordered = hat[0].take(backwards[0], axis=0).take(backwards[0], axis=1)[None]
    else:
        ordered = hat[np.arange(len(hat))[:, None, None], backwards[:, :, None], backwards[:, None, :]]
    lower, damp = _damped_cholesky(ordered, np.maximum(damping * diagonal.mean(axis=1), 1e-12))
    pivots = np.einsum("gii->gi", lower)[:, ::-1].copy()
    return Feedback(order, lower[:, ::-1, ::-1] / pivots[:, None, :], pivots, damp)


def _damped_cholesky(matrix: Floating, damp: Float) -> tuple[Float32, Float]:
    """The lower factor of matrices ``[groups, k, k]`` plus damp on the diagonal, more where rounding demands it.

    In float32 where that does: damped as it is, a matrix of k columns has a condition of at most some 20 k.
    """
    index = np.arange(matrix.shape[1])
    plain = matrix[:, index, index].astype(np.float64)
    for attempt in range(7):
        damped: Floating = matrix.astype(np.float64 if attempt else np.float32)
        damped[:, index, index] = plain + damp[:, None]
        try:
            return np.asarray(cholesky(damped), np.float32), damp
        except np.linalg.LinAlgError:
            damp = damp * (10 if attempt else 1)
    spread = plain + damp[:, None]  # nothing but the diagonal is to be trusted
    return np.asarray(np.sqrt(np.maximum(spread, 1e-12))[:, :, None] * np.eye(len(index)), np.float32), damp


@dataclasses.dataclass(frozen=True)
class Rounded:
    """A weight on a grid. codes: ``[rows, k]`` float32, rows in the order groups, then out/group. error:
    ``(w - w^) H (w - w^)'`` of each row, ``[groups, out/group]``. limited: how many rows had pairs that saturate."""

    grid: Grid
    codes: Float32
    error: Float
    limited: int = 0


@dataclasses.dataclass(frozen=True)
class _Trial:
    """A scale and zero point for each row of a grid, ``[groups, out]`` float32."""

    grid: Grid
    scale: Float32
    zero: Float32

    def scaled(self, factor: float) -> _Trial:
        return dataclasses.replace(self, scale=self.scale * np.float32(factor))

    def moved(self, by: int) -> _Trial:
        zero = np.clip(self.zero + np.float32(by), self.grid.lowest, self.grid.highest)
        return dataclasses.replace(self, zero=zero)

    @property
    def few(self) -> bool:
        """Whether neighbours of a grid are worth a try because it has few levels."""
        return self.grid.bits <= FEW_LEVELS and self.grid.bits < FINE and not self.grid.fixed


@dataclasses.dataclass(frozen=True)
class _Found(_Trial):
    """What a trial leaves: error ``[groups, out]``, codes ``[k, groups, out]`` in the order of the feedback."""

    error: Float
    codes: CodeArray
    limited: int = 0

    def better_of(self, other: _Found | None) -> _Found:
        """Row by row; this one where both are as good."""
        if other is None:
            return self
        better = other.error < self.error
        if not better.any():
            return self
        scale, zero = np.where(better, other.scale, self.scale), np.where(better, other.zero, self.zero)
        error, codes = np.where(better, other.error, self.error), np.where(better, other.codes, self.codes)
        return _Found(self.grid, scale, zero, error, codes)


class FeedbackRounder:
    """Rounds one weight ``[groups, out/group, k]`` float32 on any grid, so that ``|(W - W^) x^|`` stays small."""

    def __init__(self, weight: Float32, hat: Floating, beside: Neighbours | None = None) -> None:
        """hat: H, ``E[x^ x^']``, ``[groups, k, k]``. beside: the neighbours of entries (`saturation.neighbours`) whose
        8-bit codes must not saturate together; None where they may."""
        self._feedback = feedback_of(hat)
        self._beside = beside
        self._hat = hat
        self._rows = weight
        self._weight = self._ordered(weight)

    def on_best_grid(self, grid: Grid, *, thorough: bool = True) -> Rounded:
        """One grid, as `on_best_grids`."""
        return self.on_best_grids([grid], thorough=thorough)[0]

    def on_best_grids(self, grids: Sequence[Grid], *, thorough: bool = True) -> list[Rounded]:
        """For each grid one of the same form that suits rounding with feedback, and the weight on it.

        Feedback drives the weights that are rounded late away from where they were, so the grid that is best for the
        nearest level is too narrow for it. Some scales around it are tried, at few levels zero points too, and each row
        keeps what leaves the least ``(w - w^) H (w - w^)'``, its scale fitted to the codes by least squares. A fixed
        grid is taken as it is.

        thorough: whether neighbours of the best scale are tried too; without it an estimate of what rounding loses.
        """
        groups, out, _ = self._rows.shape
        firsts = [
            _Trial(grid, *(v.reshape(groups, out).astype(np.float32) for v in (grid.scale, grid.zero_point)))
            for grid in grids
        ]
        best = self._best([_first_trials(trial, thorough) for trial in firsts], [None] * len(firsts))
        if thorough and any(trial.few for trial in firsts):
            best = self._best([_near_trials(found) if found.few else [] for found in best], list(best))
        if thorough:
            best = [found.better_of(self._descended(found)) for found in best]
        if self._beside is not None:
            best = [self._without_saturation(found, self._beside) for found in best]
        return [self._rounded(found) for found in best]

    def _descended(self, found: _Found) -> _Found | None:
        """The codes moved one by one, their scales fitted; None for several groups, and where scales are given."""
        if len(self._hat) > 1 or found.grid.bits >= FINE or found.grid.fixed:
            return None
        order, scale, zero = self._feedback.order[0], found.scale[0], found.zero[0]
        hat = self._hat[0].take(order, axis=0).take(order, axis=1)
        least, most = found.grid.lowest - zero, found.grid.highest - zero
        steps = found.codes[:, 0].astype(np.float32) - zero
        cuts = [(column, column + 1) for column in range(len(order))]
        moved, left, pull = descend(
            self._weight[:, 0], hat, steps, scale, cuts, lambda _s, _e, at, _h: np.clip(np.rint(at), least, most)
        )
        error = np.einsum("ko,ko->o", left, pull).astype(np.float64)[None]
        trial = _Trial(found.grid, found.scale, found.zero)
        return self._fitted(trial, error, left[:, None], (moved + zero).astype(np.int8)[:, None])

    def _without_saturation(self, found: _Found, beside: Neighbours) -> _Found:
        """Where pairs of 8-bit codes saturate, the outputs rounded anew within limits, at the best of some scales."""
        if found.grid.bits < FINE:
            return found
        place = ordered_neighbours(beside, self._feedback.order).T[:, :, None]
        other = np.where(place == NO_NEIGHBOUR, 0, np.take_along_axis(found.codes, np.maximum(place, 0), axis=0))
        worst = reach_of_pair(found.codes, other).max(axis=0)
        outs = np.flatnonzero((worst > MOST_PAIR).any(axis=0))
        if not outs.size:
            return found
        scale, zero = found.scale[:, outs], found.zero[:, outs]
        trials = [
            _Trial(found.grid, (scale * factor).astype(np.float32), zero) for factor in factors_that_fit(worst[:, outs])
        ]
        (better,) = self._best([trials], [None], outs)
        fresh = [getattr(found, field).copy() for field in ("scale", "error", "codes")]
        for values, new in zip(fresh, (better.scale, better.error, better.codes), strict=True):
            values[..., outs] = new
        limited = int((worst > MOST_PAIR).sum())
        return dataclasses.replace(found, scale=fresh[0], error=fresh[1], codes=fresh[2], limited=limited)

    def _best(
        self,
        trials: list[list[_Trial]],
        before: Sequence[_Found | None],
        outs: npt.NDArray[np.intp] | None = None,
    ) -> list[_Found]:
        """Of each list of trials and what was found before, what is best row by row. outs: as in `_walk`."""
        flat = [(index, trial) for index, several in enumerate(trials) for trial in several]
        best = list(before)
        share = 1 if outs is None else outs.size / self._weight.shape[2]
        at_once = max(1, int(STACKED / max(self._weight.size * share, 1)))
        for start in range(0, len(flat), at_once):
            part = flat[start : start + at_once]
            for (index, _), found in zip(part, self._walk([trial for _, trial in part], outs), strict=True):
                earlier = best[index]
                best[index] = found if earlier is None else earlier.better_of(found)
        return [found for found in best if found is not None]

    def _rounded(self, found: _Found) -> Rounded:
        groups, out, k = self._rows.shape
        codes = np.empty((groups, out, k), np.float32)
        if groups == 1:
            codes[0][:, self._feedback.order[0]] = found.codes[:, 0].T
        else:
            order = np.broadcast_to(self._feedback.order[:, None, :], codes.shape)
            np.put_along_axis(codes, order, found.codes.transpose(1, 2, 0).astype(np.float32), axis=2)
        scale, zero = found.scale.reshape(-1, 1), found.zero.reshape(-1, 1)
        grid = dataclasses.replace(found.grid, scale=scale, zero_point=zero)
        return Rounded(grid, codes.reshape(-1, k), np.maximum(found.error, 0.0), found.limited)

    def _ordered(self, rows: Float32) -> Float32:
        """``[k, groups, out/group]``, columns in the order in which they are rounded."""
        order = self._feedback.order
        if len(rows) == 1:
            alone: Float32 = np.ascontiguousarray(rows[0].T).take(order[0], axis=0)[:, None]
            return alone
        ordered: Float32 = np.take_along_axis(rows, order[:, None, :], axis=2).transpose(2, 0, 1)
        return np.ascontiguousarray(ordered)

    @functools.cached_property
    def _image(self) -> Float32:
        """``W H`` in the order of `_weight`; only differences of errors that rounding makes are compared."""
        return self._ordered(self._rows @ self._hat.astype(np.float32, copy=False))

    @functools.cached_property
    def _power(self) -> Float:
        """``w H w'``: ``[groups, out]``."""
        power: Float = np.einsum("kgo,kgo->go", self._image, self._weight).astype(np.float64)
        return power

    def _walk(self, trials: list[_Trial], outs: npt.NDArray[np.intp] | None = None) -> list[_Found]:
        """Round on several trials, which stand beside each other as further outputs of their group.

        outs: the outputs that the trials are of, whose pairs then stay within limits; None for all, without limits.
        """
        weight, limits = self._weight, None
        if outs is not None and self._beside is not None:
            weight = self._weight[:, :, outs]
            feedback = self._feedback
            limits = PairLimits.of(self._beside, weight, feedback.order, feedback.factor, feedback.pivots)
        k, groups, out = weight.shape
        wide = len(trials) * out
        scale = np.stack([trial.scale for trial in trials], axis=1).reshape(groups, wide)
        zero = np.stack([trial.zero for trial in trials], axis=1).reshape(groups, wide)
        ends = np.array([(trial.grid.lowest, trial.grid.highest) for trial in trials], np.float32)
        least, most = np.repeat(ends, out, axis=0).T
        columns = _Columns(scale, zero if zero.any() else None, least - zero, most - zero, limits)
        codes, left = np.empty((k, groups, wide), np.int8), np.empty((k, groups, wide), np.float32)
        error, spread = np.zeros((groups, wide)), np.zeros((groups, wide))
        for start in range(0, k, COLUMNS_AT_ONCE):
            part = slice(start, min(start + COLUMNS_AT_ONCE, k))
            values = np.repeat(weight[part, :, None], len(trials), axis=2).reshape(-1, groups, wide)
            left[part] = values
            columns.round(values, start, self._feedback.factor, left, codes)
            values *= self._feedback.pivots[:, part].T[:, :, None]
            error += np.einsum("kgo,kgo->go", values, values)
            spread += np.einsum("kgo,kgo->go", left[part], left[part])
        error -= self._feedback.damp[:, None] * spread
        split = (slice(i * out, (i + 1) * out) for i in range(len(trials)))
        return [
            self._fitted(t, error[:, own], left[:, :, own], codes[:, :, own])
            for t, own in zip(trials, split, strict=True)
        ]

    def _fitted(self, trial: _Trial, error: Float, left: Float32, codes: CodeArray) -> _Found:
        """With the scale of least squares under the codes. left: ``r = w - w^``, ``[k, groups, out]``."""
        if trial.grid.bits >= FINE or trial.grid.fixed:
            return _Found(trial.grid, trial.scale, trial.zero, error, codes)
        mixed = np.einsum("kgo,kgo->go", self._image, left).astype(np.float64)
        factor, gain = fitted_scale(self._power, mixed, error)
        return _Found(trial.grid, (trial.scale * factor).astype(np.float32), trial.zero, error - gain, codes)


def fitted_scale(power: Float, mixed: Float, error: Float) -> tuple[Float, Float]:
    """The factor on the scales of w^ that leaves the least error, and how much less that is; 1 where it would turn.

    With ``r = w - w^``: power: ``w H w'``, mixed: ``w H r'``, error: ``r H r'``, of one shape.
    """
    noise, tilt = power - 2 * mixed + error, mixed - error  # w^ H w^' and w^ H r'
    fits = (power - mixed > 0) & (noise > 0)
    factor = np.divide(power - mixed, noise, out=np.ones_like(noise), where=fits)
    gain = np.divide(np.square(tilt), noise, out=np.zeros_like(noise), where=fits)
    return factor, gain


def _first_trials(trial: _Trial, thorough: bool) -> list[_Trial]:
    if trial.grid.bits >= FINE or trial.grid.fixed or not (thorough or trial.few):
        return [trial]
    return [trial.scaled(factor) for factor in (WIDE if trial.few else CLOSE)]


def _near_trials(found: _Trial) -> list[_Trial]:
    """Neighbours of the best so far, its own scale with codes of its own among them."""
    near = [found.scaled(factor) for factor in CLOSE]
    symmetric = found.grid.lowest == -found.grid.highest
    return near if symmetric else [*near, found.moved(-1), found.moved(1)]


@dataclasses.dataclass(frozen=True)
class _Columns:
    """Grids of the outputs that are rounded side by side: ``[groups, wide]`` each; zero: None where all are 0.

    least, most: the ends of a grid, counted from its zero point. limits: of pairs; None where codes are free.
    """

    scale: Float32
    zero: Float32 | None
    least: Float32
    most: Float32
    limits: PairLimits | None

    def round(self, values: Float32, start: int, factor: Float32, left: Float32, codes: CodeArray) -> None:
        """Round the columns from `start` on: into codes, and what they leave into `left`, ``[k, groups, wide]`` each.

        values: of these columns, ``[n, groups, wide]``; then ``(e M)_j / M_jj``. factor: of the feedback.
        """
        stop, level = start + len(values), np.empty_like(self.scale)
        _add_left(values, factor[:, :start, start:stop], left[:start])
        for first in range(start, stop, COLUMNS_WITHIN):
            last = min(first + COLUMNS_WITHIN, stop)
            _add_left(values[first - start : last - start], factor[:, start:first, first:last], left[start:first])
            for column in range(first, last):
                value = values[column - start]
                if column > first:
                    value += _dot(factor[:, first:column, column], left[first:column])
                np.divide(value, self.scale, out=level)
                if self.limits is not None:
                    ends = np.clip(level, self.least, self.most)
                    level = self.limits.cut(column, ends, self.scale, codes)
                np.rint(level, out=level)
                np.maximum(level, self.least, out=level)
                np.minimum(level, self.most, out=level)
                codes[column] = level if self.zero is None else level + self.zero
                level *= self.scale
                value -= level
                left[column] -= level


def _add_left(values: Float32, factor: Float32, left: Float32) -> None:
    """Add to columns what earlier roundings left for them: factor ``[groups, i, n]``, left ``[i, groups, wide]``."""
    if not len(left):
        return
    if left.shape[1] == 1:
        values[:, 0] += factor[0].T @ left[:, 0]
    else:
        values += (factor.transpose(0, 2, 1) @ left.transpose(1, 0, 2)).transpose(1, 0, 2)


def _dot(column: Float32, left: Float32) -> Float32:
    """What earlier roundings left for one column: ``[groups, i]`` by ``[i, groups, wide]``."""
    found: Float32 = column[0] @ left[:, 0] if left.shape[1] == 1 else np.einsum("gi,igo->go", column, left)
    return found
