"""The full-matrix form of DF-MPC's compensation: the weight that best repairs what earlier layers broke.

DF-MPC gives the next layer one factor per input channel. The same fit without that restriction is a ridge
regression of the float layer's output on the quantized network's input: docs/method.md, section 4.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.arrays import Float, Float32, Floating
from dfmpc_onnx.numerics.factorization import solved_from_right

RIDGE = 1.0  # of mean diag H: the moments are those of images that are not the user's, so W is left only for much
FOURTH_POWERS_FIT = 2.0**16  # activations beyond which fourth powers are counted at a smaller scale
LEDOIT_WOLF_PATCHES = 500
PATCHES_OF_A_FIGURE = 500  # that tell what a weight costs its outputs, for the report: some 5 % of itself
POSITIONS_AT_ONCE = 100  # summed in float32
NARROW_RIDGE = 0.5  # from here on float32 will do
FEW_PATCHES = 0.5  # of the entries of a patch: with fewer patches the fit is solved in these


@dataclasses.dataclass(frozen=True)
class PatchMoments(abc.ABC):
    """Uncentred second moments of a layer's input patches, for each group of its channels.

    x is of the float and x^ of the quantized network; k = in/group * taps. hat: ``E[x^ x^']``, ``[groups, k, k]``,
    float32 or float64. mean, mean_hat: ``E[x]`` and ``E[x^]``, ``[groups, k]`` float64. shrinkage: how much of the
    covariance of x^ between different entries is noise of the sample, ``[groups]`` in 0..1. count: how many patches
    were averaged. What ties x to x^ is asked for by method: as a matrix it costs more than any answer that is needed.
    """

    hat: Floating
    mean: Float
    mean_hat: Float
    shrinkage: Float
    count: int

    @property
    @abc.abstractmethod
    def same(self) -> bool:
        """Whether both networks see the same inputs."""

    @abc.abstractmethod
    def cross_product(self, weight: Float32) -> Floating:
        """``W C`` with ``C = E[x x^']``: ``[groups, out/group, k]``."""

    @abc.abstractmethod
    def cross_blocks(self, taps: int) -> Float:
        """The blocks of C of each channel's taps: ``[groups, in/group, taps, taps]``."""

    @abc.abstractmethod
    def output_errors(self, weight: Float32) -> OutputErrors:
        """What replacements of a weight ``[groups, out/group, k]`` cost its outputs."""

    @abc.abstractmethod
    def power(self, weight: Float32) -> Float:
        """Mean square of ``W x^`` per output, for ``[groups, out/group, k]``: ``[groups, out/group]``."""

    def shrunk(self) -> PatchMoments:
        """With the covariances of x^ shrunk: what rounding errors cost on inputs that were not in the sample."""
        mean, keep = self.mean_hat.astype(self.hat.dtype), (1 - self.shrinkage).astype(self.hat.dtype)
        hat = self.hat * keep[:, None, None]
        hat += (mean - mean * keep[:, None])[:, :, None] * mean[:, None, :]
        index = np.arange(hat.shape[1])
        hat[:, index, index] = self.diagonal
        return dataclasses.replace(self, hat=hat)

    def varying(self, variance: Float) -> PatchMoments:
        """With entries that vary more than they did, each by itself. variance: what to add, ``[groups, k]``."""
        if not variance.any():
            return self
        hat, index = self.hat.copy(), np.arange(self.hat.shape[1])
        hat[:, index, index] += variance.astype(hat.dtype)
        return dataclasses.replace(self, hat=hat)

    @property
    def diagonal(self) -> Float:
        """``E[x^_i^2]``: ``[groups, k]`` float64."""
        diagonal: Float = np.einsum("gii->gi", self.hat).astype(np.float64)
        return diagonal


@dataclasses.dataclass(frozen=True)
class SampledMoments(PatchMoments):
    """Of patches ``[groups, n, k]`` float32 at the same positions of both networks."""

    patches: Float32
    patches_hat: Float32

    @classmethod
    def of(cls, patches: Float32, patches_hat: Float32) -> SampledMoments:
        """patches_hat is `patches` itself where both networks see the same. Of no patch all moments are 0."""
        n = patches.shape[1]
        if n == 0:
            groups, _, k = patches.shape
            mean = np.zeros((groups, k))
            none = np.zeros((groups, k, k), np.float32)
            return cls(none, mean, mean, np.ones(groups), 0, patches, patches_hat)
        hat = patches_hat.transpose(0, 2, 1) @ patches_hat
        hat /= np.float32(n)
        mean_hat = _average(patches_hat)
        mean = mean_hat if patches is patches_hat else _average(patches)
        return cls(hat, mean, mean_hat, ledoit_wolf(patches_hat, hat, mean_hat), n, patches, patches_hat)

    @property
    def same(self) -> bool:
        return self.patches is self.patches_hat

    def cross_product(self, weight: Float32) -> Floating:
        outputs = self.patches @ weight.transpose(0, 2, 1)
        crossed: Floating = outputs.transpose(0, 2, 1) @ self.patches_hat
        return crossed / np.float32(self.patches.shape[1])

    def cross_blocks(self, taps: int) -> Float:
        plain, hat = (p.reshape(*p.shape[:2], -1, taps) for p in (self.patches, self.patches_hat))
        blocks = plain.transpose(0, 2, 3, 1) @ hat.transpose(0, 2, 1, 3)
        moments: Float = blocks.astype(np.float64) / self.patches.shape[1]
        return moments

    def power(self, weight: Float32) -> Float:
        outputs = self.patches_hat @ weight.transpose(0, 2, 1)
        power: Float = np.einsum("gno,gno->go", outputs, outputs).astype(np.float64) / outputs.shape[1]
        return power

    def output_errors(self, weight: Float32) -> OutputErrors:
        outputs = self.patches @ weight.transpose(0, 2, 1)
        n = outputs.shape[1]
        few = slice(None, None, max(n // PATCHES_OF_A_FIGURE, 1))
        wanted, seen = outputs[:, few], self.patches_hat[:, few]

        def error_of(quantized: Float32) -> Float:
            wrong = wanted - seen @ quantized.transpose(0, 2, 1)
            error: Float = np.einsum("gno,gno->go", wrong, wrong).astype(np.float64) / wrong.shape[1]
            return error

        centred = outputs - _average(outputs)[:, None].astype(np.float32)
        variance, power = (np.einsum("gno,gno->go", y, y).astype(np.float64) / n for y in (centred, outputs))
        return OutputErrors(_beyond_rounding(variance, power), error_of)


@dataclasses.dataclass(frozen=True)
class GivenMoments(PatchMoments):
    """Known without a sample. cross: ``E[x x^']``, original: ``E[x x']``, ``[groups, k, k]`` float64, or as `hat`."""

    cross: Floating
    original: Floating

    @property
    def same(self) -> bool:
        return self.cross is self.hat

    def cross_product(self, weight: Float32) -> Floating:
        return weight.astype(np.float64) @ self.cross

    def cross_blocks(self, taps: int) -> Float:
        return diagonal_blocks(self.cross, taps)

    def power(self, weight: Float32) -> Float:
        w = weight.astype(np.float64)
        power: Float = np.einsum("goi,goi->go", w @ self.hat, w)
        return power

    def output_errors(self, weight: Float32) -> OutputErrors:
        w = weight.astype(np.float64)
        power: Float = np.einsum("goi,goi->go", w @ self.original, w)
        mixed = w @ self.cross

        def error_of(quantized: Float32) -> Float:
            q = quantized.astype(np.float64)
            noise = np.einsum("goi,goi->go", q @ self.hat, q)
            error: Float = np.maximum(power - 2 * np.einsum("goi,goi->go", mixed, q) + noise, 0.0)
            return error

        variance = power - np.square(np.einsum("goi,gi->go", w, self.mean))
        return OutputErrors(_beyond_rounding(variance, power), error_of)


def pooled_moments(before: PatchMoments | None, count: int, other: PatchMoments, factor: float) -> PatchMoments:
    """The mean of `count` moments, `before`, and of one more times a factor: of the float network in both places.

    What a weight is used for in several places asks of it ``sum_u f_u H_u``. Sums are kept, no patches.
    """
    hat = other.hat * other.hat.dtype.type(factor)
    mean = other.mean * np.sqrt(factor)
    if before is None:
        return GivenMoments(hat, mean, mean, other.shrinkage, other.count, hat, hat)
    share = 1 / (count + 1)
    hat *= hat.dtype.type(share)
    hat += before.hat * before.hat.dtype.type(1 - share)
    mean = (1 - share) * before.mean + share * mean
    shrinkage = (1 - share) * before.shrinkage + share * other.shrinkage
    return GivenMoments(hat, mean, mean, shrinkage, before.count + other.count, hat, hat)


@dataclasses.dataclass(frozen=True)
class OutputErrors:
    """What replacing a weight W costs its outputs. variance: of ``W x``, ``[groups, out/group]`` float64.
    of: mean square of ``W x - W^ x^`` per output, in the same shape, for a W^ in the shape of W; of a sample on some of
    its patches."""

    variance: Float
    of: Callable[[Float32], Float]


def _beyond_rounding(variance: Float, power: Float) -> Float:
    """What is left by subtraction alone, as of a single patch, is no variance."""
    return np.where(variance > 1e-9 * power, variance, 0.0)


def diagonal_blocks(matrix: Floating, taps: int) -> Float:
    """Of matrices ``[groups, k, k]`` the blocks of each channel's taps: ``[groups, k / taps, taps, taps]`` float64."""
    index = np.arange(matrix.shape[1]).reshape(-1, taps)
    return matrix[:, index[:, :, None], index[:, None, :]].astype(np.float64)


def _average(rows: Float32) -> Float:
    """Mean over the n of ``[groups, n, k]``: ``[groups, k]``; in float32, by hundreds, and then in float64."""
    groups, n, k = rows.shape
    if rows.strides[1] == rows.itemsize:  # then numpy sums in pairs
        summed: Float = np.asarray(rows.sum(axis=1), np.float64) / n
        return summed
    whole = n - n % POSITIONS_AT_ONCE
    total = rows[:, :whole].reshape(groups, -1, POSITIONS_AT_ONCE, k).sum(axis=2).sum(axis=1, dtype=np.float64)
    result: Float = (total + rows[:, whole:].sum(axis=1, dtype=np.float64)) / n
    return result


def ledoit_wolf(patches: Float32, second: Floating, mean: Float) -> Float:
    """The share by which a sample's off-diagonal covariances are best shrunk to zero: ``[groups]`` in 0..1.

    ``sum Var(s_ij) / sum s_ij^2`` over i != j (Ledoit and Wolf 2004, with the diagonal as the target). patches:
    ``[groups, n, k]``; second: their uncentred second moments ``[groups, k, k]``; mean: theirs, ``[groups, k]``.
    """
    n = patches.shape[1]
    few = patches[:, :: max(1, n // LEDOIT_WOLF_PATCHES)]  # enough for one number
    largest = float(np.einsum("gii->gi", second).max(initial=0.0))
    if largest > FOURTH_POWERS_FIT**2:  # fourth powers would leave float32; the share is the same at any scale
        scale = 2.0 ** -np.floor(np.log2(largest) / 2)
        few, mean, second = few * np.float32(scale), mean * scale, second * second.dtype.type(scale**2)
    squares = few - mean[:, None, :].astype(np.float32)
    np.square(squares, out=squares)
    # sum over i != j of E[(x_i x_j)^2], without forming the k^2 products of every patch
    fourth = np.square(squares.sum(axis=2).astype(np.float64)).mean(axis=1)
    fourth -= np.einsum("gnk,gnk->g", squares, squares).astype(np.float64) / squares.shape[1]
    # sum over i != j of (second_ij - mean_i mean_j)^2, multiplied out: no further k^2 numbers
    power = np.square(mean).sum(axis=1)
    whole = np.einsum("gij,gij->gi", second, second).sum(axis=1, dtype=np.float64)
    whole += np.square(power) - 2 * np.einsum("gi,gi->g", (mean[:, None] @ second)[:, 0], mean)
    off = whole - np.square(np.einsum("gii->gi", second) - np.square(mean)).sum(axis=1)
    share: Float = np.clip((fourth - off) / n / np.maximum(off, 1e-30), 0.0, 1.0)
    return share


def least_squares(weight: Float32, moments: PatchMoments, ridge: float = RIDGE) -> Float32:
    """``W' = W (C + r I)(H + r I)^-1``: the weight whose output on x^ is nearest that of W on x.

    r is `ridge` times the mean of diag H, times max(1, k / n): with fewer patches than a patch is long the fit would
    follow the sample. weight: ``[groups, out/group, k]`` float32. Returns the same shape.
    """
    if moments.same:
        return weight
    k = weight.shape[2]
    strength = ridge * max(1.0, k / moments.count)
    r = strength * np.maximum(moments.diagonal.mean(axis=1), 1e-30)
    # W' = W + W (C - H)(H + r I)^-1. No eigenvalue of H is above k times its mean diagonal, so with a ridge the
    # correction can be had in float32: its error is then a small part of the correction, not of W.
    precision: npt.DTypeLike = np.float32 if strength >= NARROW_RIDGE else np.float64
    if precision == np.float32 and isinstance(moments, SampledMoments) and moments.count <= FEW_PATCHES * k:
        return np.ascontiguousarray(weight + _correction_in_patches(weight, moments, r), np.float32)
    held: Floating = moments.hat.astype(precision)
    right: Floating = moments.cross_product(weight).astype(precision) - weight.astype(precision) @ held
    index = np.arange(k)
    held[:, index, index] += r.astype(precision)[:, None]
    if precision == np.float32:
        correction = solved_from_right(held, right)
    else:  # a weak ridge may leave what rounding makes of an eigenvalue 0
        correction = np.linalg.solve(held, right.transpose(0, 2, 1)).transpose(0, 2, 1)
    return np.ascontiguousarray(weight + correction, np.float32)


def _correction_in_patches(weight: Float32, moments: SampledMoments, r: Float) -> Float32:
    """``W (C - H)(H + r I)^-1`` as ``W (X - X^)' (X^ X^' + n r I)^-1 X^``, X the patches ``[n, k]`` of a group: what is
    solved is n by n (Woodbury 1950)."""
    x = moments.patches_hat
    wrong = weight @ (moments.patches - x).transpose(0, 2, 1)
    held = x @ x.transpose(0, 2, 1)
    index = np.arange(x.shape[1])
    held[:, index, index] += (len(index) * r).astype(np.float32)[:, None]
    return np.asarray(solved_from_right(held, wrong) @ x, np.float32)


def diagonal_factors(weight: Float32, moments: PatchMoments, taps: int, ridge: float = RIDGE) -> Float:
    """The same fit restricted to one factor per input channel, as in DF-MPC: ``[groups, in/group]``, at least 0.

    Channels are taken one by one, as the paper's closed form takes them:
    ``c_j = <W_j (C_jj + r I), W_j> / <W_j (H_jj + r I), W_j>``, r as in `least_squares`.
    weight: ``[groups, out/group, k]`` with k = in/group * taps, taps the fastest.
    """
    groups, out, k = weight.shape
    w = weight.astype(np.float64).reshape(groups, out, k // taps, taps)
    cross, hat = moments.cross_blocks(taps), diagonal_blocks(moments.hat, taps)
    r = ridge * max(1.0, k / moments.count) * np.maximum(moments.diagonal.mean(axis=1), 0.0)
    held = r[:, None] * np.einsum("goia,goia->gi", w, w)
    above = np.einsum("goia,giab,goib->gi", w, cross, w, optimize=True) + held
    below = np.einsum("goia,giab,goib->gi", w, hat, w, optimize=True) + held
    factors: Float = np.divide(above, below, out=np.ones_like(above), where=below > 1e-30)
    return np.maximum(factors, 0.0)


def rounding_error(weight: Float32, quantized: Float32, moments: PatchMoments) -> Float:
    """Mean square of ``(W - W^) x^`` per output: ``[groups, out/group]``; what rounding alone costs.

    The mean counts, although re-calibration takes it back: on other inputs than the sample's it is another.
    """
    difference = weight - quantized
    error: Float = np.einsum("goi,goi->go", difference @ moments.hat, difference).astype(np.float64)
    return np.maximum(error, 0.0)
