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
SMALLEST_CHANNEL = 1e-30  # of a channel: what is smaller has no inverse in float32, and stays 0
COLUMNS_AT_ONCE = 120  # that one product of earlier errors serves: whole blocks of 2 to 6
SCORED = 2**17  # products with vectors that are made in one go: they stay in the processor's cache


@dataclasses.dataclass(frozen=True)
class _Found:
    """Scales ``[groups, out]``, the errors that they leave, and codes ``[groups, k, out]`` in rounding order."""

    scale: Float32
    error: Float
    codes: CodeArray

    def better_of(self, other: _Found) -> _Found:
        """Row by row; this one where both are as good."""
        better = other.error < self.error
        return _Found(
            np.where(better, other.scale, self.scale),
            np.where(better, other.error, self.error),
            np.where(better[:, None], other.codes, self.codes),
        )


class BlockRounder:
    """Rounds one weight ``[groups, out/group, k]`` float32 to codebooks, so that ``|(W - W^) x^|`` stays small."""

    def __init__(self, weight: Float32, hat: Floating) -> None:
        """hat: H, ``E[x^ x^']``, ``[groups, k, k]``."""
        self._rows, self._hat = weight, hat
        self._by_length: dict[int, tuple[list[tuple[int, int]], Feedback]] = {}

    def on(self, table: LearntTable) -> Rounded:
        """The weight on a codebook, each output channel at the best of some scales, fitted by least squares."""
        walk = self._walk(table, self._rows, self._image)
        best = walk.best(self._scales(self._rows, table, FIRST_SCALES))
        best = best.better_of(walk.best([best.scale * np.float32(factor) for factor in NEAR_SCALES]))
        if len(self._hat) == 1:
            best = best.better_of(walk.descended(best, self._hat[0]))
        return walk.rounded(best)

    def estimate(self, table: LearntTable, outs: npt.NDArray[np.intp] | None = None) -> Rounded:
        """The weight on a codebook, without a search around the best scale and without descent: what rounding loses is
        0.4 to 1 dB more than at the best. outs: the channels of each group that are rounded; all where None."""
        own = slice(None) if outs is None else outs
        rows = self._rows[:, own]
        walk = self._walk(table, rows, self._image[:, own])
        return walk.rounded(walk.best(self._scales(rows, table, FIRST_SCALES)))

    def _walk(self, table: LearntTable, rows: Float32, image: Float32) -> _Walk:
        cuts, feedback = self._ordered(table.book.length)
        return _Walk(rows, image, feedback, cuts, table.book)

    def _ordered(self, length: int) -> tuple[list[tuple[int, int]], Feedback]:
        """Where blocks of a length begin and end in the order in which they are rounded, and the feedback in it."""
        if length not in self._by_length:
            order, cuts = block_order(np.einsum("gii->i", self._hat), length)
            self._by_length[length] = (
                cuts,
                feedback_in_order(self._hat, np.broadcast_to(order, (len(self._hat), len(order)))),
            )
        return self._by_length[length]

    @staticmethod
    def _scales(rows: Float32, table: LearntTable, factors: Sequence[float]) -> list[Float32]:
        """Multiples of the scale that the size of each channel suggests."""
        size = np.sqrt(np.mean(np.square(rows, dtype=np.float64), axis=2))
        start = np.where(size > SMALLEST_CHANNEL, size * table.unit, 1.0).astype(np.float32)
        return [start * np.float32(factor) for factor in factors]

    @functools.cached_property
    def _image(self) -> Float32:
        """``W H``."""
        return self._rows @ self._hat.astype(np.float32, copy=False)


class _Walk:
    """One weight and one codebook, columns in the order in which their blocks are rounded."""

    def __init__(
        self, rows: Float32, image: Float32, feedback: Feedback, cuts: list[tuple[int, int]], book: Codebook
    ) -> None:
        """image: ``W H``. cuts: where blocks begin and end in the order of the feedback, one for all groups."""
        self._shape, self._book, self._cuts, self._damp = rows.shape, book, cuts, feedback.damp
        self._order = feedback.order[0]
        self._weight = np.ascontiguousarray(rows.transpose(0, 2, 1)[:, self._order])
        self._image = np.ascontiguousarray(image.transpose(0, 2, 1)[:, self._order])
        # M', row by row what a column makes of the errors in front of it and of its own.
        self._metric = np.ascontiguousarray((feedback.factor * feedback.pivots[:, None]).transpose(0, 2, 1))

    @functools.cached_property
    def _power(self) -> Float:
        power: Float = np.einsum("gko,gko->go", self._image, self._weight).astype(np.float64)
        return power

    def best(self, scales: Sequence[Float32]) -> _Found:
        """Row by row the best of some scales, ``[groups, out]`` each, the first where several are as good."""
        out = self._weight.shape[2]
        codes, left, error = self._walked(np.concatenate(scales, axis=1), len(scales))
        found: _Found | None = None
        for index, scale in enumerate(scales):
            own = slice(index * out, (index + 1) * out)
            mixed = np.einsum("gko,gko->go", self._image, left[:, :, own]).astype(np.float64) * scale
            factor, gain = fitted_scale(self._power, mixed, error[:, own])
            trial = _Found((scale * factor).astype(np.float32), error[:, own] - gain, codes[:, :, own])
            found = trial if found is None else found.better_of(trial)
        assert found is not None
        return found

    def descended(self, found: _Found, hat: Floating) -> _Found:
        """Blocks moved one by one, scales fitted; of a weight of one group. hat: H, ``[k, k]``."""

        search = _NearestVectors((1, self._weight.shape[2]), self._book)
        table = np.ascontiguousarray(self._book.table.T, np.float32)

        def nearest(start: int, stop: int, points: Float32, own: Float32) -> Float32:
            metric = np.linalg.cholesky(own).T.astype(np.float32, copy=False)
            vectors = _ready(self._book.table[:, : stop - start], metric[None, None])[0]
            best = search.nearest((metric @ points)[None], vectors)[0]
            entries: Float32 = table[: stop - start].take(best, axis=1)
            return entries

        hat = hat.take(self._order, axis=0).take(self._order, axis=1)
        steps = found.codes[0].astype(np.float32)
        moved, left, pull = descend(self._weight[0], hat, steps, found.scale[0], self._cuts, nearest)
        error = np.einsum("ko,ko->o", left, pull).astype(np.float64)[None]
        mixed = np.einsum("ko,ko->o", self._image[0], left).astype(np.float64)[None]
        factor, gain = fitted_scale(self._power, mixed, error)
        return _Found((found.scale * factor).astype(np.float32), error - gain, moved.astype(np.int8)[None])

    def rounded(self, found: _Found) -> Rounded:
        groups, out, k = self._shape
        codes = np.empty((groups, out, k), np.float32)
        codes[:, :, self._order] = found.codes.transpose(0, 2, 1)
        scale = found.scale.reshape(-1, 1)
        grid = Grid(scale, np.zeros_like(scale), -LARGEST, LARGEST, CODE_BITS, book=self._book)
        return Rounded(grid, codes.reshape(-1, k), np.maximum(found.error, 0.0))

    def _walked(self, scale: Float32, trials: int) -> tuple[CodeArray, Float32, Float]:
        """Codes and what they leave of the weight in units of the scale, ``[groups, k, wide]``; the error of each row,
        ``[groups, wide]``."""
        left = np.tile(self._weight, (1, 1, trials))
        left *= np.reciprocal(scale)[:, None]
        codes, error = np.empty(left.shape, np.int8), np.zeros(scale.shape)
        table, search = np.ascontiguousarray(self._book.table.T), _NearestVectors(scale.shape, self._book)
        for cuts in self._chunks():
            first, last = cuts[0][0], cuts[-1][1]
            points = self._metric[:, first:last, :first] @ left[:, :first]
            for (start, stop), vectors in zip(cuts, self._vectors(cuts), strict=True):
                point = points[:, start - first : stop - first]
                point += self._metric[:, start:stop, first:stop] @ left[:, first:stop]
                chosen = table[: stop - start].take(search.nearest(point, vectors), axis=1).swapaxes(0, 1)
                codes[:, start:stop] = chosen
                left[:, start:stop] -= chosen
            error += np.einsum("gko,gko->go", points, points)
        error -= 2 * search.score + self._damp[:, None] * np.einsum("gko,gko->go", left, left)
        error *= np.square(scale)
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

    def _vectors(self, cuts: Sequence[tuple[int, int]]) -> list[Float32]:
        """For each block the vectors of the codebook in its metric, as `_ready` makes them."""
        found: dict[int, Float32] = {}
        for size in {stop - start for start, stop in cuts}:
            starts = [start for start, stop in cuts if stop - start == size]
            columns = np.asarray(starts)[:, None] + np.arange(size)
            metric = self._metric[:, columns[:, :, None], columns[:, None, :]].swapaxes(0, 1)  # [blocks, groups, d, d]
            found |= zip(starts, _ready(self._book.table[:, :size], metric), strict=True)
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


def _ready(table: CodeArray, metric: Float32) -> Float32:
    """Vectors c as a product finds the nearest: ``c M`` and ``-|c M|^2 / 2``, ``[blocks, groups, d + 1, entries]``.

    Least |p - v|^2 is most p v - |v|^2 / 2: one product, of points with a 1 behind them. table: ``[entries, d]``.
    metric: M', ``[blocks, groups, d, d]``.
    """
    blocks, groups, d, _ = metric.shape
    ready = np.empty((blocks, groups, d + 1, len(table)), np.float32)
    vectors = np.matmul(metric, np.ascontiguousarray(table.T, np.float32), out=ready[:, :, :d])
    np.einsum("bgde,bgde->bge", vectors, vectors, out=ready[:, :, d])
    ready[:, :, d] *= -0.5
    return ready


class _NearestVectors:
    """Finds for points ``[groups, d, wide]`` which vectors c are least in ``|p - c M|^2``.

    score: the sum of ``p c M - |c M|^2 / 2`` over all that was found, ``[groups, wide]``. What is computed with lies in
    memory that is taken once: a fresh piece for each product costs as much as the product.
    """

    def __init__(self, shape: tuple[int, ...], book: Codebook) -> None:
        """shape: groups and wide."""
        groups, wide = shape
        entries = len(book.table)
        self.score = np.zeros(shape)
        self._step = min(max(1, SCORED // (entries * groups)), wide)
        self._products = np.empty(groups * self._step * entries, np.float32)
        self._first = np.arange(groups * self._step) * entries
        self._points = np.ones((groups, wide, book.length + 1), np.float32)

    def nearest(self, points: Float32, vectors: Float32) -> npt.NDArray[np.intp]:
        """Their indices, ``[groups, wide]``. vectors: what `_ready` makes of the codebook, ``[groups, d + 1,
        entries]``; the last block of a row may be shorter than the others."""
        groups, d, wide = points.shape
        ones = self._points if d + 1 == self._points.shape[2] else np.ones((groups, wide, d + 1), np.float32)
        ones[:, :, :d] = points.swapaxes(1, 2)
        best, entries = np.empty((groups, wide), np.intp), vectors.shape[2]
        for start in range(0, wide, self._step):
            rows = ones[:, start : start + self._step]
            shape = groups, rows.shape[1], entries
            products = self._products[: groups * shape[1] * entries]
            found = np.matmul(rows, vectors, out=products.reshape(shape)).argmax(axis=2)
            places = found.reshape(-1) + self._first[: groups * shape[1]]
            best[:, start : start + self._step] = found
            self.score[:, start : start + self._step] += products.take(places).reshape(shape[:2])
        return best
