"""Rounding with error feedback: each weight's rounding error is made good by those not yet rounded.

Optimal brain quantization for a fixed order of the columns, through the Cholesky factor of the inverse second moment
(Frantar et al. 2022, "GPTQ", algorithm 1), batched over groups so that depthwise layers cost one call.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.grids import Grid

Rows = npt.NDArray[np.float32]
Float = npt.NDArray[np.float64]
DAMPING = 0.05  # of mean diag H: METHOD, section 5
BLOCK = 64


def feedback_factor(hat: Float, damping: float = DAMPING) -> tuple[npt.NDArray[np.intp], Rows]:
    """The order of the columns and the factor that spreads their errors: ``[groups, k]`` and ``[groups, k, k]``.

    hat: ``[groups, k, k]`` float64, ``E[x^ x^']``. Columns go in falling order of its diagonal. The factor is the
    upper triangular U with ``U' U = (H + damping mean diag H)^-1`` in that order. It serves any weight and grid.
    """
    diagonal = np.einsum("gii->gi", hat)
    order = np.argsort(-diagonal, axis=1, kind="stable")
    ordered = np.take_along_axis(np.take_along_axis(hat, order[:, :, None], 1), order[:, None, :], 2)
    # The factor of the inverse from one Cholesky of the reversed matrix: H = P L L' P, H^-1 = (P L^-T)(P L^-T)'.
    lower = _cholesky(ordered[:, ::-1, ::-1], np.maximum(damping * diagonal.mean(axis=1), 1e-12))
    return order, np.ascontiguousarray(_triangular_inverse(lower)[:, ::-1, ::-1], np.float32)


def _cholesky(matrix: Float, damp: Float) -> Float:
    """The lower factor of matrices ``[groups, k, k]`` plus damp on the diagonal, more where rounding demands it."""
    eye = np.eye(matrix.shape[1])
    for _ in range(6):
        try:
            return np.asarray(np.linalg.cholesky(matrix + damp[:, None, None] * eye), np.float64)
        except np.linalg.LinAlgError:
            damp = damp * 10
    spread = np.einsum("gii->gi", matrix) + damp[:, None]  # nothing but the diagonal is to be trusted
    return np.asarray(np.sqrt(np.maximum(spread, 1e-12))[:, :, None] * eye, np.float64)


def _triangular_inverse(lower: Float) -> Float:
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


def round_with_feedback(weight: Rows, grid: Grid, order: npt.NDArray[np.intp], factor: Rows) -> Rows:
    """Codes as float32, ``[groups, out/group, k]``, that keep ``|(W - W^) x^|`` small for the inputs behind `factor`.

    weight: ``[groups, out/group, k]`` float32. grid: rows in the order groups, then out/group. order, factor: of
    `feedback_factor`.
    """
    groups, out, k = weight.shape
    scale, zero = grid.scale.reshape(groups, out), grid.zero_point.reshape(groups, out)
    work = np.take_along_axis(weight, order[:, None, :], axis=2)
    codes = np.empty_like(work)
    for start in range(0, k, BLOCK):
        stop = min(start + BLOCK, k)
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
