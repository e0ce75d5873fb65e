"""Rounding with error feedback: each weight's rounding error is made good by those not yet rounded.

Optimal brain quantization for a fixed order of the columns, through the Cholesky factor of the inverse second moment
(Frantar et al. 2022, "GPTQ", algorithm 1), batched over groups so that depthwise layers cost one call.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.arrays import Float, Float32, Floating
from dfmpc_onnx.numerics.grids import Grid

DAMPING = 0.05  # of mean diag H: docs/method.md, section 5
COLUMNS_AT_ONCE = 64
WIDE = (1.0, 0.8, 1.25)  # scales tried on grids of few levels, as multiples of the one that suits nearest rounding
CLOSE = (1.0, 0.92, 1.08)  # and then around the best
FEW_LEVELS = 3  # bits
FINE = 8  # bits at which the nearest grid is good enough
STACKED = 2**24  # weights that trials may take at a time


def feedback_factor(hat: Floating, damping: float = DAMPING) -> tuple[npt.NDArray[np.intp], Float32]:
    """The order of the columns and the factor that spreads their errors: ``[groups, k]`` and ``[groups, k, k]``.

    hat: ``[groups, k, k]``, ``E[x^ x^']``. Columns go in falling order of its diagonal. The factor is the
    upper triangular U with ``U' U = (H + damping mean diag H)^-1`` in that order. It serves any weight and grid.
    """
    diagonal = np.einsum("gii->gi", hat)
    order = np.argsort(-diagonal, axis=1, kind="stable")
    backwards = order[:, ::-1]
    ordered = hat[np.arange(len(hat))[:, None, None], backwards[:, :, None], backwards[:, None, :]]
    # The factor of the inverse from one Cholesky of the reversed matrix: H = P L L' P, H^-1 = (P L^-T)(P L^-T)'.
    lower = _cholesky(ordered, np.maximum(damping * diagonal.mean(axis=1), 1e-12))
    # The factor is used in float32, so it may be inverted in float32; the decomposition may not.
    return order, np.ascontiguousarray(_triangular_inverse(lower.astype(np.float32))[:, ::-1, ::-1])


def _cholesky(matrix: Floating, damp: Float) -> Float:
    """The lower factor of matrices ``[groups, k, k]`` plus damp on the diagonal, more where rounding demands it."""
    index = np.arange(matrix.shape[1])
    damped = matrix.astype(np.float64)
    for _ in range(6):
        damped[:, index, index] = matrix[:, index, index] + damp[:, None]
        try:
            return np.asarray(np.linalg.cholesky(damped), np.float64)
        except np.linalg.LinAlgError:
            damp = damp * 10
    spread = np.einsum("gii->gi", matrix) + damp[:, None]  # nothing but the diagonal is to be trusted
    return np.asarray(np.sqrt(np.maximum(spread, 1e-12))[:, :, None] * np.eye(len(index)), np.float64)


def _triangular_inverse(lower: Float32) -> Float32:
    """The inverse of lower triangular matrices ``[groups, k, k]``, by halves: numpy has no triangular solver."""
    k = lower.shape[1]
    if k <= 128:
        return np.tril(np.linalg.inv(lower))
    half = k // 2
    result = np.zeros_like(lower)
    head = result[:, :half, :half] = _triangular_inverse(lower[:, :half, :half])
    tail = result[:, half:, half:] = _triangular_inverse(lower[:, half:, half:])
    result[:, half:, :half] = -(tail @ (lower[:, half:, :half] @ head))
    return result


def round_with_feedback(weight: Float32, grid: Grid, order: npt.NDArray[np.intp], factor: Float32) -> Float32:
    """Codes as float32, ``[groups, out/group, k]``, that keep ``|(W - W^) x^|`` small for the inputs behind `factor`.

    weight: ``[groups, out/group, k]`` float32. grid: rows in the order groups, then out/group. order, factor: of
    `feedback_factor`.
    """
    groups, out, k = weight.shape
    scale, zero = grid.scale.reshape(groups, out), grid.zero_point.reshape(groups, out)
    work = np.take_along_axis(weight, order[:, None, :], axis=2)
    codes = np.empty_like(work)
    for start in range(0, k, COLUMNS_AT_ONCE):
        stop = min(start + COLUMNS_AT_ONCE, k)
        errors = np.empty((groups, out, stop - start), np.float32)
        for column in range(start, stop):
            values = work[:, :, column]
            code = np.clip(np.rint(values / scale + zero), grid.lowest, grid.highest)
            codes[:, :, column] = code
            error = (values - (code - zero) * scale) / factor[:, column, column][:, None]
            errors[:, :, column - start] = error
            if column + 1 < stop:
                work[:, :, column + 1 : stop] -= error[:, :, None] * factor[:, column, None, column + 1 : stop]
        if stop < k:
            work[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
    result = np.empty_like(codes)
    np.put_along_axis(result, np.broadcast_to(order[:, None, :], codes.shape), codes, axis=2)
    return result


@dataclasses.dataclass
class _Best:
    """The best grid and codes of each row so far; error: ``[rows]``."""

    error: Float
    scale: Float32
    zero_point: Float32
    codes: Float32


def round_on_best_grid(
    weight: Float32,
    grid: Grid,
    hat: Floating,
    order: npt.NDArray[np.intp],
    factor: Float32,
    *,
    thorough: bool = True,
) -> tuple[Grid, Float32]:
    """A grid for rounding with feedback and the codes on it, ``[rows, k]`` float32: rows are groups, then out/group.

    Feedback drives the weights that are rounded late away from where they were, so the grid that is best for the
    nearest level is too narrow for it. Some scales around it are tried, at few levels zero points too, and each row
    keeps what leaves the least ``(w - w^) H (w - w^)'``, its scale fitted to the codes by least squares.

    weight: ``[groups, out/group, k]`` float32. hat: H, ``[groups, k, k]``. order, factor: of `feedback_factor`.
    thorough: whether neighbours of the best scale are tried too; without it an estimate of what rounding loses.
    """
    narrow = hat.astype(np.float32, copy=False)  # only differences of errors that rounding makes are compared
    image = weight @ narrow
    power = np.einsum("gok,gok->go", image, weight).astype(np.float64)
    few = grid.bits <= FEW_LEVELS
    if grid.bits >= FINE or not (thorough or few):
        trials = [(grid.scale, grid.zero_point)]
    else:
        trials = [(grid.scale * np.float32(m), grid.zero_point) for m in (WIDE if few else CLOSE)]
    best = _try(weight, grid, trials, image, power, narrow, order, factor, None)
    if few and thorough:
        near = [(best.scale * np.float32(m), best.zero_point) for m in CLOSE]
        if not grid.ternary:
            shifted = (np.clip(best.zero_point + np.float32(d), grid.lowest, grid.highest) for d in (-1, 1))
            near += [(best.scale, zero) for zero in shifted]
        best = _try(weight, grid, near, image, power, narrow, order, factor, best)
    return dataclasses.replace(grid, scale=best.scale, zero_point=best.zero_point), best.codes


def _try(
    weight: Float32,
    grid: Grid,
    trials: list[tuple[Float32, Float32]],
    image: Float32,
    power: Float,
    hat: Float32,
    order: npt.NDArray[np.intp],
    factor: Float32,
    best: _Best | None,
) -> _Best:
    """Round on each trial's scale and zero point ``[rows, 1]``; per row, what is better than `best`."""
    groups, out, k = weight.shape
    at_once = max(1, STACKED // weight.size)
    for start in range(0, len(trials), at_once):
        part = trials[start : start + at_once]
        # Trials stand beside each other as further outputs of their group: one walk over the columns for all.
        scales, zeros = (np.stack([t[i].reshape(groups, out) for t in part], axis=1) for i in (0, 1))
        many = dataclasses.replace(grid, scale=scales.reshape(-1, 1), zero_point=zeros.reshape(-1, 1))
        found = round_with_feedback(np.tile(weight, (1, len(part), 1)), many, order, factor)
        found = found.reshape(groups, len(part), out, k)
        for index in range(len(part)):
            codes, scale, zero = found[:, index], scales[:, index], zeros[:, index]
            levels = codes - zero[:, :, None]
            mixed = np.einsum("gok,gok->go", image, levels).astype(np.float64)
            noise = np.einsum("gok,gok->go", levels @ hat, levels).astype(np.float64)
            fits = (mixed > 0) & (noise > 0) & (grid.bits < FINE)
            fitted = np.divide(mixed, noise, out=scale.astype(np.float64), where=fits).astype(np.float32)
            error = power - 2 * fitted * mixed + np.square(fitted.astype(np.float64)) * noise
            now = _Best(
                error.reshape(-1), fitted.reshape(-1, 1), zero.reshape(-1, 1).astype(np.float32), codes.reshape(-1, k)
            )
            if best is None:
                best = now
                continue
            better = now.error < best.error
            best.error = np.where(better, now.error, best.error)
            best.scale = np.where(better[:, None], now.scale, best.scale)
            best.zero_point = np.where(better[:, None], now.zero_point, best.zero_point)
            best.codes = np.where(better[:, None], now.codes, best.codes)
    assert best is not None  # there is at least one trial
    return best
