"""Sums of two products in 16 bits: what x86 processors with AVX2 but without VNNI make of 8-bit weights.

Their kernels multiply uint8 activations by int8 codes with ``vpmaddubsw``, which adds two neighbouring products and
clips the sum to int16 before it goes on in 32 bits. An activation is at most 255 whatever its zero point, since the
kernels take that off afterwards, by the sums of the codes. So two codes of one sign must not exceed
``MOST_PAIR = 128`` together: 255 * 128 = 32,640 fits, 255 * 129 = 32,895 does not. Codes of two signs always fit.

Neighbours are entries 0 and 1, 2 and 3, ... of a patch in the order in which kernels pack it: all channels of a group
at the first tap, all of them at the second, and so on; an odd last one is alone. Depthwise kernels multiply in 32 bits.

Source: MLAS of onnxruntime, ``amd64/ConvSymKernelAvx2``, ``QgemmU8X8KernelAvx2``, ``QgemvU8S8KernelAvx2``; the AVX512
kernels without VNNI add the same pairs.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.arrays import CodeArray, Float, Float32, Floating

MOST_PAIR = 128  # of two codes of one sign
AT_ONCE = 2**21  # entries of rows that are looked at in one go
NO_NEIGHBOUR = -1  # in place of the neighbour of an entry that has none
STEPS_TO_FIT = 2  # scales tried, beside the one that is best without neighbours, up to the one at which all pairs fit

Neighbours = npt.NDArray[np.intp]


def neighbours(channels: int, taps: int) -> Neighbours:
    """For each entry of a patch the one whose product is added to its own first, ``[k]``; NO_NEIGHBOUR for none.

    A patch has k = channels * taps entries, all taps of a channel side by side, as the rows of a weight have them.
    """
    packed = np.arange(channels * taps).reshape(channels, taps).T.reshape(-1)
    found = np.full(channels * taps, NO_NEIGHBOUR)
    first, second = packed[0 : len(packed) - 1 : 2], packed[1::2]
    found[first], found[second] = second, first
    return found


def neighbours_of_conv(shape: tuple[int, ...], groups: int) -> Neighbours | None:
    """Those of a Conv's weight ``[out, in/group, *kernel]``; None of a depthwise one, whose kernels add in 32 bits."""
    depthwise = shape[1] == 1 and groups == shape[0]
    return None if depthwise else neighbours(shape[1], math.prod(shape[2:]))


def reach_of_pair(own: npt.NDArray[np.number], other: npt.NDArray[np.number]) -> npt.NDArray[np.int16]:
    """How far from zero two neighbours reach together, int16: that of codes of two signs is that of the farther one."""
    a, b = own.astype(np.int16), other.astype(np.int16)
    high = np.maximum(a, 0) + np.maximum(b, 0)
    low = np.minimum(a, 0) + np.minimum(b, 0)
    far: npt.NDArray[np.int16] = np.maximum(high, -low)
    return far


def pair_sums(codes: npt.NDArray[np.number], beside: Neighbours) -> npt.NDArray[np.int16]:
    """`reach_of_pair` of each code ``[rows, k]`` and its neighbour, 0 where it has none: ``[rows, k]`` int16."""
    return reach_of_pair(codes, np.where(beside == NO_NEIGHBOUR, 0, codes[:, beside]))


def worst_pairs(codes: npt.NDArray[np.number], beside: Neighbours) -> npt.NDArray[np.int16]:
    """The largest of the `pair_sums` of each row of codes ``[rows, k]``: ``[rows]`` int16."""
    parts = [pair_sums(codes[part], beside).max(axis=1, initial=0) for part in row_blocks(*codes.shape)]
    return np.concatenate(parts) if parts else np.zeros(0, np.int16)


def row_blocks(rows: int, k: int) -> list[slice]:
    """Rows of k entries in blocks, so that what is made of one does not fill the memory."""
    each = max(1, AT_ONCE // max(k, 1))
    return [slice(start, start + each) for start in range(0, rows, each)]


def saturating(codes: npt.NDArray[np.number], beside: Neighbours) -> npt.NDArray[np.bool_]:
    """Which rows of codes ``[rows, k]`` have a pair whose products can leave 16 bits: ``[rows]``."""
    return np.asarray(worst_pairs(codes, beside) > MOST_PAIR)


def saturating_products(
    activations: npt.NDArray[np.uint8], codes: CodeArray, beside: Neighbours
) -> npt.NDArray[np.int32]:
    """What the kernels make of patches ``[n, k]`` and codes ``[rows, k]``: ``[n, rows]`` int32.

    The sum of products, but that each pair of them is clipped to int16.
    """
    a, w = activations.astype(np.int32), codes.astype(np.int32)
    total = np.zeros((len(a), len(w)), np.int32)
    for one, other in enumerate(beside):
        if other == NO_NEIGHBOUR:
            total += np.outer(a[:, one], w[:, one])
        elif one < other:
            pair = np.outer(a[:, one], w[:, one]) + np.outer(a[:, other], w[:, other])
            total += np.clip(pair, -(2**15), 2**15 - 1)
    return total


def factors_that_fit(worst: npt.NDArray[np.int16]) -> Float:
    """Factors to try on the scales of rows: ``[trials, *worst.shape]``, from 1 to that at which all pairs fit.

    The best lies between: at 1 codes of pairs must move far, at the last hardly one must, but all are coarser.
    worst: the largest of the rows' `pair_sums`.
    """
    fits = np.clip(worst / MOST_PAIR, 1.0, 2.0)  # twice the step is one bit less, which always fits
    factors: Float = fits[None] ** np.linspace(0.0, 1.0, STEPS_TO_FIT + 1).reshape(-1, *[1] * fits.ndim)
    return factors


@dataclasses.dataclass(frozen=True)
class PairLimits:
    """Keeps pairs within MOST_PAIR while the columns of a weight are rounded one after the other.

    beside: of each column its neighbour by its place in the order of rounding, ``[groups, k]``. weight: in that order,
    ``[k, groups, outputs]``. share: of what is too much in a pair, what the column gives up that is rounded first,
    ``[k, groups]``.
    """

    beside: Neighbours
    weight: Float32
    share: Float32

    @classmethod
    def of(
        cls, beside: Neighbours, weight: Float32, order: npt.NDArray[np.intp], factor: Float32, pivots: Float32
    ) -> PairLimits:
        """beside: of `neighbours`. order, factor, pivots: of the feedback of errors (`rounding.Feedback`).

        An error d of column i costs ``(p_i d)^2`` and moves what is wanted of its neighbour j by ``m_ij d``; so cutting
        an excess e into d and the rest costs ``(p_i d)^2 + (p_j (e - (1 - m_ij) d))^2``, least at the share of e here.
        """
        place = ordered_neighbours(beside, order)
        groups = np.arange(len(order))[:, None]
        later = np.maximum(place, 0)
        turn = 1 - factor[groups, np.arange(order.shape[1]), later]
        far = np.square(np.take_along_axis(pivots, later, axis=1)) * turn
        share = np.clip(far / (np.square(pivots) + far * turn), 0, 1)
        return cls(place, weight, np.ascontiguousarray(share.T, np.float32))

    def cut(self, column: int, steps: Float32, scale: Float32, codes: CodeArray) -> Float32:
        """What may be rounded to a code: steps, less the column's part of what is too much in its pairs.

        steps: the column over its scale, within the codes of 8 bits, ``[groups, wide]``. scale: ``[groups, wide]``.
        codes: those of the columns in front, ``[k, groups, wide]``; wide holds the outputs once or several times.
        """
        if len(self.beside) == 1:
            return self._cut_alone(column, steps, scale, codes)
        beside, groups = self.beside[:, column], np.arange(len(self.beside))
        rounded = (beside < column)[:, None]
        if rounded.all():
            other = codes[beside, groups].astype(np.float32)
        else:
            apart = scale.reshape(len(scale), -1, self.weight.shape[2])
            ahead = (self.weight[beside, groups][:, None] / apart).reshape(scale.shape)
            np.clip(ahead, -127, 127, out=ahead)
            other = np.where(rounded, codes[beside, groups], ahead) if rounded.any() else ahead
        other[beside == NO_NEIGHBOUR] = 0
        far = np.abs(steps)
        over = np.where(np.sign(steps) == np.sign(other), far + np.abs(other) - MOST_PAIR, 0)
        part = np.maximum(over, 0) * np.where(rounded, 1, self.share[column][:, None])
        cut: Float32 = np.sign(steps) * np.maximum(far - part, 0)
        return cut.astype(np.float32)

    def _cut_alone(self, column: int, steps: Float32, scale: Float32, codes: CodeArray) -> Float32:
        """The same of one group, where a column has one neighbour: in a third of the operations."""
        beside = int(self.beside[0, column])
        if beside == NO_NEIGHBOUR:
            return steps
        if beside < column:
            other = codes[beside].astype(np.float32)
        else:
            other = (self.weight[beside] / scale.reshape(-1, self.weight.shape[2])).reshape(scale.shape)
            np.clip(other, -127, 127, out=other)
        far = np.abs(steps)
        over = far + np.abs(other) - np.float32(MOST_PAIR)
        over[steps * other <= 0] = 0
        np.maximum(over, 0, out=over)
        if not over.any():
            return steps
        if beside > column:
            over *= self.share[column]
        cut: Float32 = np.copysign(np.maximum(far - over, 0), steps)
        return cut


def ordered_neighbours(beside: Neighbours, order: npt.NDArray[np.intp]) -> Neighbours:
    """Neighbours by their place in an order of the columns, ``[groups, k]``, for each place in it."""
    place = np.argsort(order, axis=1)
    found = np.take_along_axis(place, np.maximum(beside[order], 0), axis=1)
    return np.where(beside[order] == NO_NEIGHBOUR, NO_NEIGHBOUR, found)


def within_pairs(
    weight: Float32, scale: Float32, beside: Neighbours, importance: Floating, *, one_scale: bool = False
) -> tuple[CodeArray, Float32]:
    """8-bit codes ``[rows, k]`` of which no pair saturates, and the scale of each row, ``[rows, 1]`` float32.

    Codes are those nearest to the weight, but that a pair that reaches too far gives up what is too much in equal
    parts. Rows without such a pair keep their scale; each other takes that of `factors_that_fit` of least
    ``sum_k h_k (w_k - w^_k)^2``.

    weight: ``[rows, k]`` float32. scale: ``[rows, 1]``, over 0. importance: h, ``[k]`` or ``[rows, k]``. one_scale:
    whether all rows share theirs, and go on doing so.
    """
    kept = scale.astype(np.float32)
    plain = np.clip(np.rint(weight / kept), -127, 127)
    hit = saturating(plain, beside)
    rows = np.arange(len(weight)) if one_scale and hit.any() else np.flatnonzero(hit)
    found = plain.astype(np.int8)
    if not rows.size:
        return found, kept
    part, h = weight[rows], np.broadcast_to(importance, weight.shape)[rows]
    least, worst = np.full(len(rows), np.inf), worst_pairs(plain[rows], beside)
    for factor in factors_that_fit(np.full_like(worst, worst.max()) if one_scale else worst):
        wider = (scale[rows] * factor[:, None]).astype(np.float32)
        codes = nearest_within_pairs(part, wider, beside)
        error = np.einsum("rk,rk->r", h, np.square(part.astype(np.float64) - codes * wider))
        better = (np.full_like(error, error.sum()) if one_scale else error) < least
        least = np.where(better, error.sum() if one_scale else error, least)
        found[rows[better]], kept[rows[better]] = codes[better], wider[better]
    return found, kept


def nearest_within_pairs(weight: Float32, scale: Float32, beside: Neighbours) -> CodeArray:
    """The codes next to ``weight / scale``, ``[rows, k]`` int8, pairs cut to MOST_PAIR in equal parts."""
    steps = np.clip(weight.astype(np.float64) / scale, -127, 127)
    other = np.where(beside == NO_NEIGHBOUR, 0.0, steps[:, beside])
    far = np.abs(steps)
    over = np.where(np.sign(steps) == np.sign(other), far + np.abs(other) - MOST_PAIR, 0.0)
    codes = np.rint(np.sign(steps) * (far - np.maximum(over, 0.0) / 2))
    # Two halves of a step may both have been rounded away from zero.
    late = (beside != NO_NEIGHBOUR) & (beside < np.arange(len(beside)))
    codes -= np.sign(codes) * (late & (pair_sums(codes, beside) > MOST_PAIR))
    return codes.astype(np.int8)
