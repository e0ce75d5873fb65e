"""Ternary weights: alpha * {-1, 0, 1}.

The threshold rule is that of Ternary Weight Networks (Li et al. 2016), which DF-MPC (Chen et al. 2023) takes over
as equations 3 and 4. `ternary_optimal` replaces the rule by the exact minimizer for a diagonal second moment.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.granularity import Granularity, unrows
from dfmpc_onnx.numerics.quantized import QuantizedWeight

THRESHOLD = 0.7  # of mean |W|: DF-MPC, equation 4


def ternary(weight: npt.NDArray[np.float32], granularity: Granularity) -> QuantizedWeight:
    """Ternary codes by the threshold rule (DF-MPC, equations 3 and 4).

    +1, 0, -1 by ``W > D``, ``|W| <= D``, ``W < -D`` with ``D = 0.7 mean |W|``; alpha is the mean of ``|W|`` above D.
    Mean, D and alpha are taken over each of the granularity's slices. A slice of zeros gets scale 1.

    weight: any shape, float32, e.g. ``[out, in/group, *kernel]``.
    """
    rows = granularity.rows(weight)
    magnitude = np.abs(rows)
    above = magnitude > np.float32(THRESHOLD) * magnitude.mean(axis=1, keepdims=True)
    count = above.sum(axis=1, keepdims=True)
    total = np.where(above, magnitude, np.float32(0)).sum(axis=1, keepdims=True)
    scale = np.where(count > 0, total / np.maximum(count, 1), np.float32(1))
    codes = np.sign(rows).astype(np.int8) * above
    return _weight(codes, scale, weight.shape, granularity)


def ternary_optimal(
    weight: npt.NDArray[np.float32], second_moment: npt.NDArray[np.float32], granularity: Granularity
) -> QuantizedWeight:
    """The ternary codes and scale that minimize ``sum h (W - alpha T)^2``, exactly.

    For a fixed alpha the best code is 1 where ``|W| > alpha / 2``, so the support of T is always a head of the
    weights in falling order of magnitude; the best head maximizes ``(sum h |W|)^2 / sum h`` over it.

    weight: any shape, float32. second_moment: h >= 0, broadcastable to weight; the second moment of the input
    that each weight multiplies. Where h is all zero in a slice, h = 1 is taken.
    """
    rows = granularity.rows(weight)
    h = granularity.rows(np.ascontiguousarray(np.broadcast_to(second_moment, weight.shape))).astype(np.float64)
    h = np.where(h.sum(axis=1, keepdims=True) > 0, h, 1.0)
    magnitude = np.abs(rows)
    order = np.argsort(-magnitude, axis=1, kind="stable")
    sorted_h = np.take_along_axis(h, order, axis=1)
    weighted = np.cumsum(sorted_h * np.take_along_axis(magnitude, order, axis=1), axis=1)
    mass = np.cumsum(sorted_h, axis=1)
    gain = np.divide(weighted**2, mass, out=np.zeros_like(mass), where=mass > 0)
    # A tie between heads (zero weights, zero moments) goes to the shortest.
    last = gain.argmax(axis=1)[:, None]
    alpha = np.take_along_axis(weighted, last, 1) / np.maximum(np.take_along_axis(mass, last, 1), 1e-300)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(rows.shape[1])[None, :], axis=1)
    codes = np.sign(rows).astype(np.int8) * (rank <= last)
    scale = np.where(alpha > 0, alpha, 1.0).astype(np.float32)
    return _weight(codes, scale, weight.shape, granularity)


def _weight(
    codes: npt.NDArray[np.generic],
    scale: npt.NDArray[np.float32],
    shape: tuple[int, ...],
    granularity: Granularity,
) -> QuantizedWeight:
    scale = scale.astype(np.float32).reshape(granularity.scale_shape(shape))
    signs = np.ascontiguousarray(unrows(codes, shape, granularity)).astype(np.int8)
    return QuantizedWeight(signs, scale, np.zeros_like(scale), bits=2, ternary=True)
