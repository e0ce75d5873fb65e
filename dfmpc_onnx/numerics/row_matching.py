"""Rows of two tables of which one may hold them in another order: what is chosen by values, as boxes are.

Scores that lie near each other change places after the smallest error; row by row, two lists of the same boxes would
then be as far apart as any two boxes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.arrays import Array, Float

MOST_ROWS = 4096  # more are compared as they stand
ROWS_MATCHED_AT_ONCE = 512


def matched_rows(want: Array, got: Array) -> tuple[Array, Array]:
    """Two tables, ``[k, ...]`` and ``[m, ...]``, with the rows of one taken so that each is beside the nearest of it.

    Of both directions the one with the larger error: a row that is missing in one table is not hidden by others. Rows
    that are not finite have no nearest; then both stay in order, cut to the same length.
    """
    most = min(len(want), len(got))
    if bool(want.size) != bool(got.size):  # nothing is left of all, or comes of nothing
        return (want, np.zeros_like(want)) if want.size else (np.zeros_like(got), got)
    if not want.size or max(len(want), len(got)) > MOST_ROWS:
        return want[:most], got[:most]
    a, b = (np.asarray(rows, np.float64).reshape(len(rows), -1) for rows in (want, got))
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return want[:most], got[:most]
    of_want, of_got = _nearest(a, b), _nearest(b, a)
    if np.square(a - b[of_want]).sum() >= np.square(a[of_got] - b).sum():
        return want, got[of_want]
    return want[of_got], got


def _nearest(rows: Float, others: Float) -> npt.NDArray[np.intp]:
    """The index of the nearest of the others for each row."""
    lengths, found = np.square(others).sum(axis=1), []
    for start in range(0, len(rows), ROWS_MATCHED_AT_ONCE):
        part = rows[start : start + ROWS_MATCHED_AT_ONCE]
        found.append((lengths - 2 * part @ others.T).argmin(axis=1))
    return np.concatenate(found)
