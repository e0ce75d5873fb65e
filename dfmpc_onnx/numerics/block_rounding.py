"""Rounding with error feedback to the vectors of a codebook: blocks of d weights at a time.

As in `rounding`, with ``H = M M'`` and ``e H e' = sum_b |(e M)_b|^2`` over blocks b of columns: ``(e M)_b`` holds all
that is known of the error when block b is rounded, ``e_b M_bb`` and what earlier blocks left. So the vector c is taken
that is least in ``|(w_b - s c) M_bb + r_b|``, and the sum is the error. Blocks go in falling order of diag H.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.arrays import CodeArray, Float, Float32, Floating
from dfmpc_onnx.numerics.code_descent import descend
from dfmpc_onnx.numerics.codebook import CODE_BITS, LARGEST, Codebook, LearntTable
from dfmpc_onnx.numerics.grids import Grid
from dfmpc_onnx.numerics.rounding import Feedback, Rounded, feedback_in_order, fitted_scale

FIRST_SCALES = (1.0, 1.2)  # scales that are tried, as multiples of the one that the channel's size suggests
NEAR_SCALES = (0.92, 1.0, 1.08)  # and then around the best
LIKELY_SCALE = (1.1,)  # the one for an estimate
SMALLEST_CHANNEL = 1e-30  # of a channel: what is smaller has no inverse in float32, and stays 0
COLUMNS_AT_ONCE = 120  # that one product of earlier errors serves: whole blocks of 2 to 6
SCORED = 2**16  # products with vectors that are made in one go: they stay in the processor's cache


@dataclasses.dataclass(frozen=True)
class _Found:
    """Scales ``[groups, out]``, the errors that they leave, and codes ``[k, groups, out]`` in rounding order."""

    scale: Float32
    error: Float
    codes: CodeArray

    def better_of(self, other: _Found) -> _Found:
        """Row by row; this one where both are as good."""
        better = other.error < self.error
        return _Found(
            np.where(better, other.scale, self.scale),
            np.where(better, other.error, self.error),
            np.where(better, other.codes, self.codes),
        )


@dataclasses.dataclass(frozen=True)
class _Block:
    """Columns start to stop. own: what the block's weights are in its own columns of M, ``[groups, d, wide]``.
    vectors: the codebook's, as `_ready` makes them, ``[groups, d + 1, entries]``."""

    start: int
    stop: int
    own: Float32
    vectors: Float32


class BlockRounder:
    """Rounds one weight ``[groups, out/group, k]`` float32 to codebooks, so that ``|(W - W^) x^|`` stays small."""

    def __init__(self, weight: Float32, hat: Floating) -> None:
        """hat: H, ``E[x^ x^']``, ``[groups, k, k]``."""
        self._rows, self._hat = weight, hat

    def on(self, table: LearntTable, *, thorough: bool = True) -> Rounded:
        """The weight on a codebook, each output channel at the best of some scales, fitted by least squares.

        thorough: whether scales are sought, and blocks sorted; without it an estimate of what rounding loses.
        """
        k = self._rows.shape[2]
        diagonal = np.einsum("gii->i", self._hat) if thorough else np.ones(k)
        order, cuts = block_order(diagonal, table.book.length)
        feedback = self._feedback_in(order) if thorough else self._in_place
        walk = _Walk(self._rows, self._image, feedback, cuts, table.book)
        size = np.sqrt(np.mean(np.square(self._rows, dtype=np.float64), axis=2))
        start = np.where(size > SMALLEST_CHANNEL, size * table.unit, 1.0).astype(np.float32)
        best = walk.best([start * np.float32(factor) for factor in (FIRST_SCALES if thorough else LIKELY_SCALE)])
        if thorough:
            best = best.better_of(walk.best([best.scale * np.float32(factor) for factor in NEAR_SCALES]))
            if len(self._hat) == 1:
                best = best.better_of(walk.descended(best, self._hat[0]))
        return walk.rounded(best)

    @functools.cached_property
    def _image(self) -> Float32:
        """``W H``."""
        return self._rows @ self._hat.astype(np.float32, copy=False)

    @functools.cached_property
    def _in_place(self) -> Feedback:
        """Feedback with all columns where they are: one for blocks of any length."""
        return self._feedback_in(np.arange(self._rows.shape[2]))

    def _feedback_in(self, order: npt.NDArray[np.intp]) -> Feedback:
        return feedback_in_order(self._hat, np.broadcast_to(order, (len(self._hat), len(order))))


class _Walk:
    """One weight and one codebook, columns in the order in which their blocks are rounded."""

    def __init__(
        self, rows: Float32, image: Float32, feedback: Feedback, cuts: list[tuple[int, int]], book: Codebook
    ) -> None:
        """image: ``W H``. cuts: where blocks begin and end in the order of the feedback, one for all groups."""
        self._shape, self._book, self._cuts, self._feedback = rows.shape, book, cuts, feedback
        self._order = feedback.order[0]
        self._weight = np.ascontiguousarray(rows.transpose(2, 0, 1)[self._order])
        self._image = np.ascontiguousarray(image.transpose(2, 0, 1)[self._order])

    @functools.cached_property
    def _power(self) -> Float:
        power: Float = np.einsum("kgo,kgo->go", self._image, self._weight).astype(np.float64)
        return power

    def best(self, scales: Sequence[Float32]) -> _Found:
        """Row by row the best of some scales, ``[groups, out]`` each, the first where several are as good."""
        out = self._weight.shape[2]
        codes, left, error = self._walked(np.concatenate(scales, axis=1), len(scales))
        found: _Found | None = None
        for index, scale in enumerate(scales):
            own = slice(index * out, (index + 1) * out)
            mixed = np.einsum("kgo,kgo->go", self._image, left[:, :, own]).astype(np.float64)
            factor, gain = fitted_scale(self._power, mixed, error[:, own])
            trial = _Found((scale * factor).astype(np.float32), error[:, own] - gain, codes[:, :, own])
            found = trial if found is None else found.better_of(trial)
        assert found is not None
        return found

    def descended(self, found: _Found, hat: Floating) -> _Found:
        """Blocks moved one by one, scales fitted; of a weight of one group. hat: H, ``[k, k]``."""

        def nearest(start: int, stop: int, points: Float32, own: Float32) -> Float32:
            metric = np.linalg.cholesky(own)
            vectors = _ready(self._book.table[:, : stop - start], metric[None, None])[0]
            best, _ = _nearest((points.T @ metric).T[None], vectors)
            entries: Float32 = self._book.table.T[: stop - start].take(best[0], axis=1).astype(np.float32)
            return entries

        scale, hat = found.scale[0], hat.take(self._order, axis=0).take(self._order, axis=1)
        steps = found.codes[:, 0].astype(np.float32)
        moved, left, pull = descend(self._weight[:, 0], hat, steps, scale, self._cuts, nearest)
        error = np.einsum("ko,ko->o", left, pull).astype(np.float64)[None]
        mixed = np.einsum("kgo,kgo->go", self._image, left[:, None]).astype(np.float64)
        factor, gain = fitted_scale(self._power, mixed, error)
        return _Found((found.scale * factor).astype(np.float32), error - gain, moved.astype(np.int8)[:, None])

    def rounded(self, found: _Found) -> Rounded:
        groups, out, k = self._shape
        codes = np.empty((groups, out, k), np.float32)
        codes[:, :, self._order] = found.codes.transpose(1, 2, 0)
        scale = found.scale.reshape(-1, 1)
        grid = Grid(scale, np.zeros_like(scale), -LARGEST, LARGEST, CODE_BITS, book=self._book)
        return Rounded(grid, codes.reshape(-1, k), np.maximum(found.error, 0.0))

    def _walked(self, scale: Float32, trials: int) -> tuple[CodeArray, Float32, Float]:
        """Codes and what they leave of the weight, ``[k, groups, wide]``; the error of each row, ``[groups, wide]``."""
        k, groups, wide = len(self._weight), *scale.shape
        codes, left = np.empty((k, groups, wide), np.int8), np.empty((k, groups, wide), np.float32)
        error, spread = np.zeros((groups, wide)), np.zeros((groups, wide))
        weight = np.tile(self._weight, (1, 1, trials))
        factor, pivots = self._feedback.factor, self._feedback.pivots
        inverse = np.reciprocal(scale)[:, None]
        entries = np.ascontiguousarray(self._book.table.T)
        for cuts in self._chunks():
            first = cuts[0][0]
            before = _left_for(factor, left[:first], 0, first, slice(first, cuts[-1][1]))
            for block in self._blocks(cuts, weight):
                start, stop = block.start, block.stop
                target = block.own
                if start:
                    known = before[:, start - first : stop - first]
                    if start > first:
                        known = known + _left_for(factor, left[first:start], first, start, slice(start, stop))
                    target = target + known
                best, lost = _nearest(target * pivots[:, start:stop, None] * inverse, block.vectors)
                error += lost * np.square(scale)
                chosen = entries[: stop - start].take(best, axis=1)
                codes[start:stop] = chosen
                np.subtract(weight[start:stop], chosen * scale, out=left[start:stop])
                spread += np.square(left[start:stop]).sum(axis=0)
        error -= self._feedback.damp[:, None] * spread
        return codes, left, error

    def _chunks(self) -> Iterator[list[tuple[int, int]]]:
        """The blocks, by what one product of earlier errors serves."""
        chunk: list[tuple[int, int]] = []
        for cut in self._cuts:
            if chunk and cut[0] >= chunk[0][0] + COLUMNS_AT_ONCE:
                yield chunk
                chunk = []
            chunk.append(cut)
        yield chunk

    def _blocks(self, cuts: Sequence[tuple[int, int]], weight: Float32) -> list[_Block]:
        """What is known of blocks before any is rounded. weight: ``[k, groups, wide]``."""
        factor, pivots = self._feedback.factor, self._feedback.pivots
        found: dict[int, _Block] = {}
        for size in {stop - start for start, stop in cuts}:
            starts = [start for start, stop in cuts if stop - start == size]
            columns = np.asarray(starts)[:, None] + np.arange(size)
            inner = factor[:, columns[:, :, None], columns[:, None, :]].transpose(1, 0, 2, 3)  # [blocks, groups, d, d]
            own = inner.swapaxes(2, 3) @ weight[columns].transpose(0, 2, 1, 3)
            vectors = _ready(self._book.table[:, :size], inner * pivots[:, columns].transpose(1, 0, 2)[:, :, None])
            found |= {
                start: _Block(start, start + size, *both) for start, *both in zip(starts, own, vectors, strict=True)
            }
        return [found[start] for start, _ in cuts]


def block_order(diagonal: Floating, length: int) -> tuple[npt.NDArray[np.intp], list[tuple[int, int]]]:
    """Columns with blocks of `length` kept together, in falling order of what a block's columns have on the diagonal
    of H on average, and where each block begins and ends in that order. diagonal: ``[k]``."""
    k = len(diagonal)
    starts = np.arange(0, k, length)
    sizes = np.minimum(starts + length, k) - starts
    means = np.add.reduceat(np.asarray(diagonal, np.float64), starts) / sizes
    ranked = np.argsort(-means, kind="stable")
    order = np.concatenate([np.arange(starts[b], starts[b] + sizes[b]) for b in ranked])
    ends = np.cumsum(sizes[ranked])
    return order, [(int(end - size), int(end)) for end, size in zip(ends, sizes[ranked], strict=True)]


def _left_for(factor: Float32, left: Float32, first: int, last: int, columns: slice) -> Float32:
    """What the errors of columns first to last leave for others: ``[groups, n, wide]``."""
    if first == last:
        return np.zeros((len(factor), columns.stop - columns.start, left.shape[2]), np.float32)
    found: Float32 = factor[:, first:last, columns].transpose(0, 2, 1) @ left.transpose(1, 0, 2)
    return found


def _ready(table: CodeArray, metric: Float32) -> Float32:
    """Vectors c as a product finds the nearest: ``c M`` and ``-|c M|^2 / 2``, ``[blocks, groups, d + 1, entries]``.

    Least |p - v|^2 is most p v - |v|^2 / 2: one product, of points with a 1 behind them. table: ``[entries, d]``.
    metric: M, ``[blocks, groups, d, d]``.
    """
    vectors = table.astype(np.float32) @ metric
    ready = np.concatenate([vectors, -0.5 * np.square(vectors).sum(axis=3, keepdims=True)], axis=3)
    return ready.swapaxes(2, 3)


def _nearest(points: Float32, vectors: Float32) -> tuple[npt.NDArray[np.intp], Float]:
    """Which vectors c are least in ``|p - c M|^2``, and that: ``[groups, wide]`` each.

    points: p, ``[groups, d, wide]``. vectors: what `_ready` makes of the vectors, ``[groups, d + 1, entries]``.
    """
    groups, d, wide = points.shape
    rows = np.ones((groups, wide, d + 1), np.float32)
    rows[:, :, :d] = points.transpose(0, 2, 1)
    best, score = np.empty((groups, wide), np.intp), np.empty((groups, wide), np.float32)
    step = max(1, SCORED // (vectors.shape[2] * groups))
    for start in range(0, wide, step):
        part = slice(start, start + step)
        scores = rows[:, part] @ vectors
        best[:, part] = found = scores.argmax(axis=2)
        score[:, part] = scores[
            np.arange(groups)[:, None], np.arange(found.shape[1]), found
        ]  # a third of what max takes
    lost: Float = np.einsum("gdo,gdo->go", points, points) - 2 * score.astype(np.float64)
    return best, lost
