"""The full-matrix form of DF-MPC's compensation: the weight that best repairs what earlier layers broke.

DF-MPC gives the next layer one factor per input channel. The same fit without that restriction is a ridge
regression of the float layer's output on the quantized network's input: docs/method.md, section 4.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]
Float = npt.NDArray[np.float64]
RIDGE = 1.0  # of mean diag H: the moments are those of images that are not the user's, so W is left only for much


LEDOIT_WOLF_PATCHES = 500
NARROW_RIDGE = 0.5  # from here on float32 will do


@dataclasses.dataclass(frozen=True)
class PatchMoments:
    """Uncentred second moments of a layer's input patches, for each group of its channels.

    hat: ``E[x^ x^']``, cross: ``E[x x^']``, original: ``E[x x']``, each ``[groups, k, k]`` float64, with x of the
    float and x^ of the quantized network and k = in/group * taps. mean, mean_hat: ``E[x]`` and ``E[x^]``,
    ``[groups, k]``. shrinkage: how much of the covariance of x^ between different entries is noise of the sample,
    ``[groups]`` in 0..1. count: how many patches were averaged.
    """

    hat: Float
    cross: Float
    original: Float
    mean: Float
    mean_hat: Float
    shrinkage: Float
    count: int

    @classmethod
    def of(cls, patches: Rows, patches_hat: Rows) -> PatchMoments:
        """patches, patches_hat: ``[groups, n, k]`` float32, the same positions in both networks."""
        n = patches.shape[1]
        swapped = patches.transpose(0, 2, 1)
        mean = patches.mean(axis=1, dtype=np.float64)
        original = (swapped @ patches).astype(np.float64) / n
        if patches is patches_hat:
            return cls(original, original, original, mean, mean, ledoit_wolf(patches, original), n)
        hat = (patches_hat.transpose(0, 2, 1) @ patches_hat).astype(np.float64) / n
        cross = (swapped @ patches_hat).astype(np.float64) / n
        mean_hat = patches_hat.mean(axis=1, dtype=np.float64)
        return cls(hat, cross, original, mean, mean_hat, ledoit_wolf(patches_hat, hat), n)

    def shrunk(self) -> PatchMoments:
        """With the covariances of x^ shrunk: what rounding errors cost on inputs that were not in the sample."""
        mean = self.mean_hat
        outer = mean[:, :, None] * mean[:, None, :]
        keep = (1 - self.shrinkage)[:, None, None]
        hat = outer + keep * (self.hat - outer)
        index = np.arange(hat.shape[1])
        hat[:, index, index] = self.diagonal
        return dataclasses.replace(self, hat=hat)

    @property
    def diagonal(self) -> Float:
        """``E[x^_i^2]``: ``[groups, k]``."""
        diagonal: Float = np.einsum("gii->gi", self.hat)
        return diagonal


def ledoit_wolf(patches: Rows, second: Float) -> Float:
    """The share by which a sample's off-diagonal covariances are best shrunk to zero: ``[groups]`` in 0..1.

    ``sum Var(s_ij) / sum s_ij^2`` over i != j (Ledoit and Wolf 2004, with the diagonal as the target). patches:
    ``[groups, n, k]``; second: their uncentred second moments ``[groups, k, k]``.
    """
    n = patches.shape[1]
    mean = patches.mean(axis=1, dtype=np.float64)
    covariance = second - mean[:, :, None] * mean[:, None, :]
    few = patches[:, :: max(1, n // LEDOIT_WOLF_PATCHES)]  # enough for one number
    squares = np.square(few - mean[:, None, :].astype(np.float32))
    # sum over i != j of E[(x_i x_j)^2], without forming the k^2 products of every patch
    fourth = np.square(squares.sum(axis=2, dtype=np.float64)).mean(axis=1)
    fourth -= np.square(squares).sum(axis=2, dtype=np.float64).mean(axis=1)
    off = np.square(covariance).sum(axis=(1, 2)) - np.square(np.einsum("gii->gi", covariance)).sum(axis=1)
    share: Float = np.clip((fourth - off) / n / np.maximum(off, 1e-30), 0.0, 1.0)
    return share


def least_squares(weight: Rows, moments: PatchMoments, ridge: float = RIDGE) -> Rows:
    """``W' = W (C + r I)(H + r I)^-1``: the weight whose output on x^ is nearest that of W on x.

    r is `ridge` times the mean of diag H, times max(1, k / n): with fewer patches than a patch is long the fit would
    follow the sample. weight: ``[groups, out/group, k]`` float32. Returns the same shape.
    """
    if moments.cross is moments.hat:
        return weight
    k = weight.shape[2]
    strength = ridge * max(1.0, k / moments.count)
    r = strength * np.maximum(moments.diagonal.mean(axis=1), 1e-30)
    # W' = W + W (C - H)(H + r I)^-1. No eigenvalue of H is above k times its mean diagonal, so with a ridge the
    # correction can be had in float32: its error is then a small part of the correction, not of W.
    precision: npt.DTypeLike = np.float32 if strength >= NARROW_RIDGE else np.float64
    right: npt.NDArray[np.floating] = weight.astype(precision) @ (moments.cross - moments.hat).astype(precision)
    held: npt.NDArray[np.floating] = moments.hat.astype(precision)
    index = np.arange(k)
    held[:, index, index] += r.astype(precision)[:, None]
    correction = np.linalg.solve(held, right.transpose(0, 2, 1)).transpose(0, 2, 1)
    return np.ascontiguousarray(weight + correction, np.float32)


def diagonal_factors(weight: Rows, moments: PatchMoments, taps: int, ridge: float = RIDGE) -> Float:
    """The same fit restricted to one factor per input channel, as in DF-MPC: ``[groups, in/group]``, at least 0.

    Channels are taken one by one, as the paper's closed form takes them:
    ``c_j = <W_j (C_jj + r I), W_j> / <W_j (H_jj + r I), W_j>``, r as in `least_squares`.
    weight: ``[groups, out/group, k]`` with k = in/group * taps, taps the fastest.
    """
    groups, out, k = weight.shape
    w = weight.astype(np.float64).reshape(groups, out, k // taps, taps)
    index = np.arange(k).reshape(k // taps, taps)
    cross = moments.cross[:, index[:, :, None], index[:, None, :]]
    hat = moments.hat[:, index[:, :, None], index[:, None, :]]
    r = ridge * max(1.0, k / moments.count) * np.maximum(moments.diagonal.mean(axis=1), 0.0)
    held = r[:, None] * np.einsum("goia,goia->gi", w, w)
    above = np.einsum("goia,giab,goib->gi", w, cross, w, optimize=True) + held
    below = np.einsum("goia,giab,goib->gi", w, hat, w, optimize=True) + held
    factors: Float = np.divide(above, below, out=np.ones_like(above), where=below > 1e-30)
    return np.maximum(factors, 0.0)


class OutputErrors:
    """What replacing a weight costs its outputs, for several replacements of one weight.

    weight: ``[groups, out/group, k]`` float32. variance: of ``W x``, ``[groups, out/group]`` float64.
    """

    def __init__(self, weight: Rows, moments: PatchMoments) -> None:
        w = weight.astype(np.float64)
        self._hat = moments.hat
        image = w @ moments.original
        self._power: Float = np.einsum("goi,goi->go", image, w)
        self._mixed = image if moments.cross is moments.original else w @ moments.cross
        variance = self._power - np.square(np.einsum("goi,gi->go", w, moments.mean))
        # What is left by subtraction alone, as of a single patch, is no variance.
        self.variance: Float = np.where(variance > 1e-9 * self._power, variance, 0.0)

    def of(self, quantized: Rows) -> Float:
        """Mean square of ``W x - W^ x^`` per output: ``[groups, out/group]`` float64."""
        q = quantized.astype(np.float64)
        noise = np.einsum("goi,goi->go", q @ self._hat, q)
        error: Float = np.maximum(self._power - 2 * np.einsum("goi,goi->go", self._mixed, q) + noise, 0.0)
        return error


def rounding_error(weight: Rows, quantized: Rows, moments: PatchMoments) -> Float:
    """Mean square of ``(W - W^) x^`` per output: ``[groups, out/group]``; what rounding alone costs.

    The mean counts, although re-calibration takes it back: on other inputs than the sample's it is another.
    """
    difference = weight.astype(np.float64) - quantized.astype(np.float64)
    error: Float = np.einsum("goi,goi->go", difference @ moments.hat, difference)
    return np.maximum(error, 0.0)
