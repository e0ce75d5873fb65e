"""Inputs of a linear layer, moved so that its outputs have the mean and deviation that was measured in training.

A layer y = A x + b is followed by a normalization that knows the mean mu and the deviation s of each of its outputs.
Where inputs give y a mean m and a deviation d instead, the least change of x that corrects them lies along the rows of
A: with the inputs' own variances D as the metric and a number u and f for each output

    x* = x + D A' (u + f (y - m))

A Conv's A' is a transposed Conv, so that the change reaches as far as the kernel does. u and f are found by descent on
the squares of (m - mu) / s and log(d / s), along the diagonal of A D A'. The mean and the variance of y are quadratic
in the length of a step, so the best length is known without running anything: docs/method.md, 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from dfmpc_onnx.numerics.arrays import Float, Float32
from dfmpc_onnx.numerics.batch_norm import BatchNormParameters

FITTING_STEPS = 5  # of descent
LENGTHS = np.concatenate([[0.0], np.geomspace(0.01, 3.0, 40)])  # of a step, that are tried
LARGEST_LOG = 1.5  # of a ratio of deviations that a step answers to: a channel that is dead here would take all
LARGEST_SHIFT = 3.0  # deviations of a mean, likewise
SMALLEST_VARIANCE, SMALLEST_STD = 1e-12, 1e-6


@dataclasses.dataclass(frozen=True)
class Correction:
    """``offset + factor (y - centre)`` of each output is what a layer's transpose spreads over its inputs.

    offset, factor, centre: ``[outputs]`` float64.
    """

    offset: Float
    factor: Float
    centre: Float

    def scaled(self, length: float) -> Correction:
        return dataclasses.replace(self, offset=length * self.offset, factor=length * self.factor)

    def plus(self, other: Correction, length: float) -> Correction:
        """With so much of another one of the same centre."""
        offset, factor = self.offset + length * other.offset, self.factor + length * other.factor
        return dataclasses.replace(self, offset=offset, factor=factor)

    def of(self, y: Float32) -> Float32:
        """y: ``[n, outputs, ...]`` float32, as comes out."""
        shape = (-1, *(1,) * (y.ndim - 2))
        constant = (self.offset - self.factor * self.centre).astype(np.float32).reshape(shape)
        result: Float32 = y * self.factor.astype(np.float32).reshape(shape)
        result += constant
        return result


@dataclasses.dataclass(frozen=True)
class Line:
    """Means and variances of ``y + t dy``, ``[outputs]`` float64 each: of y, of dy, and their covariance."""

    mean: Float
    variance: Float
    mean_step: Float
    variance_step: Float
    covariance: Float

    @classmethod
    def of(cls, y: Float32, dy: Float32) -> Line:
        """y, dy: ``[n, outputs, ...]`` float32."""
        a, b = (v.reshape(v.shape[0], v.shape[1], -1) for v in (y, dy))
        means = [v.mean(axis=2).mean(axis=0, dtype=np.float64) for v in (a, b)]
        a, b = (v - mean.astype(np.float32)[:, None] for v, mean in zip((a, b), means, strict=True))
        count = a.shape[0] * a.shape[2]

        def product(p: Float32, q: Float32) -> Float:
            result: Float = np.einsum("nci,nci->nc", p, q).sum(axis=0, dtype=np.float64) / count
            return result

        return cls(means[0], product(a, a), means[1], product(b, b), product(a, b))

    def at(self, lengths: Float) -> tuple[Float, Float]:
        """Mean and variance ``[lengths, outputs]`` at steps of these lengths."""
        t = lengths[:, None]
        variance = self.variance + 2 * t * self.covariance + np.square(t) * self.variance_step
        return self.mean + t * self.mean_step, np.maximum(variance, 0.0)

    def best(self, norm: BatchNormParameters, lengths: Float) -> tuple[float, float, float]:
        """The length whose mismatch is least, that mismatch, and the mismatch of the first length."""
        found = mismatch(*self.at(lengths), norm)
        least = int(np.argmin(found))
        return float(lengths[least]), float(found[least]), float(found[0])


def mismatch(mean: Float, variance: Float, norm: BatchNormParameters) -> Float:
    """How far channels are from what a normalization measured: a mean over the channels, the last dimension.

    Of the squares of ``(mean - mu) / s`` and ``log(d / s)``, with epsilon in both deviations.
    """
    shift, ratio = deviation(mean, variance, norm)
    result: Float = (np.square(shift) + np.square(ratio)).mean(axis=-1)
    return result


def deviation(mean: Float, variance: Float, norm: BatchNormParameters) -> tuple[Float, Float]:
    """``(mean - mu) / s`` and ``log(d / s)``, as far as a step answers to them: ``[..., channels]`` each."""
    std = np.maximum(norm.std, SMALLEST_STD)
    shift = np.clip((mean - norm.mean) / std, -LARGEST_SHIFT, LARGEST_SHIFT)
    ratio = np.clip(np.log(norm.batch_std(variance) / std), -LARGEST_LOG, LARGEST_LOG)
    return shift, ratio


def response_of_outputs(weight: Float32, variance: Float) -> Float:
    """The diagonal of A D A', ``[out]`` float64: what a step of 1 in the offset of an output alone does to it.

    weight: ``[out, in/group, ...]``. variance: ``[in]``, of the layer's inputs. Borders of maps are not looked at.
    """
    squares = np.square(weight, dtype=np.float64).reshape(len(weight), weight.shape[1], -1).sum(axis=2)
    groups = len(variance) // weight.shape[1]
    of_group = np.repeat(variance.reshape(groups, -1), len(weight) // groups, axis=0)
    result: Float = np.maximum(np.einsum("oi,oi->o", squares, of_group), SMALLEST_VARIANCE)
    return result


def fit(
    y: Float32,
    response: Callable[[Float32], Float32],
    diagonal: Float,
    norm: BatchNormParameters,
    steps: int = FITTING_STEPS,
) -> Correction:
    """The correction that brings outputs next to what a normalization measured.

    y: ``[n, out, ...]`` float32. response: ``A D A'`` of an array of that shape. diagonal: as `response_of_outputs`.
    """
    line = Line.of(y, np.zeros_like(y))
    mean, variance = line.mean, line.variance
    found = step = Correction(np.zeros_like(mean), np.zeros_like(mean), mean)
    here, change, before = y, None, None
    for _ in range(steps):
        residual = np.stack(deviation(mean, variance, norm))
        fresh = Correction(-residual[0] * norm.std / diagonal, -residual[1] / diagonal, found.centre)
        along = 0.0 if before is None else _conjugate(residual, before)
        step, before = fresh.plus(step, along), residual
        answer = response(fresh.of(y))
        change = answer if change is None else answer + np.float32(along) * change
        line = Line.of(here, change)
        length, _, _ = line.best(norm, LENGTHS)
        if length == 0.0:
            break
        here = here + np.float32(length) * change
        found = found.plus(step, length)
        (mean,), (variance,) = line.at(np.array([length]))
    return found


def _conjugate(residual: Float, before: Float) -> float:
    """How much of the last step goes into this one (Polak and Ribiere 1969), from what is left and what was."""
    return max(float(np.sum(residual * (residual - before)) / max(np.sum(np.square(before)), SMALLEST_VARIANCE)), 0.0)
