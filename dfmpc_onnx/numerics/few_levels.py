"""Scale and zero point of activations of few bits: the grid of least expected squared error, which clips.

With 256 levels room for the rarest value costs little. With 16 it costs more than clipping it: of a Gaussian the
best 16 levels end 2.7 deviations from its mean, of a rectified one 2.9 (Banner et al. 2019, in closed form). What
is asked for here is the same for any distribution, given as a histogram or as the moments of channels, which are
Gaussians between bounds.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from dfmpc_onnx.numerics.arrays import Float, Float32
from dfmpc_onnx.numerics.moments import normal_cdf

BINS = 512  # of a histogram
NARROWEST = 16.0  # how much less than the whole of the values a grid may span
STEP = 1.05  # between the scales that are tried first
FINE_STEPS = np.linspace(1 / STEP, STEP, 9)  # and around the best of them
GAUSSIAN_ENDS = 8.0  # deviations of a channel that a histogram by moments reaches


@dataclasses.dataclass(frozen=True)
class FewLevels:
    """A grid of ``2**bits`` levels: ``scale * (codes - zero_point)``, codes from ``lowest`` on.

    scale: above 0. zero_point: one of the codes, so that 0 is exact. lowest: 0 of codes without sign, else
    ``-2**(bits - 1)``. error: expected squared error of a value, for the distribution that it was made for.
    """

    scale: np.float32
    zero_point: int
    bits: int
    lowest: int
    error: float

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest level."""
        low = self.lowest - self.zero_point
        return float(self.scale) * low, float(self.scale) * (low + 2**self.bits - 1)

    def rounded(self, x: Float32) -> Float32:
        """The nearest levels, ties to even codes as in QuantizeLinear: float32 in the shape of x."""
        steps = x / self.scale
        np.rint(steps, out=steps)
        low = self.lowest - self.zero_point
        np.clip(steps, low, low + 2**self.bits - 1, out=steps)
        steps *= self.scale
        return steps


@dataclasses.dataclass(frozen=True)
class Histogram:
    """A distribution: values in rising order, and how much of it each stands for; two ``[bins]`` float64."""

    values: Float
    shares: Float

    @classmethod
    def of(cls, x: Float32) -> Histogram:
        """Of the finite values of a tensor that are not 0, which every grid holds exactly; shares are of all values."""
        flat = x.reshape(-1)
        live = flat[(flat != 0) & np.isfinite(flat)].astype(np.float64)  # float32 has no bins between near values
        if not live.size:
            return cls(np.zeros(1), np.ones(1))
        low, high = float(live.min()), float(live.max())
        if low == high:
            return cls(np.array([low]), np.array([live.size / flat.size]))
        counts, edges = np.histogram(live, BINS, (low, high))
        return cls((edges[1:] + edges[:-1]) / 2, counts / flat.size)

    @classmethod
    def of_moments(cls, mean: Float, variance: Float, low: Float, high: Float) -> Histogram:
        """Of channels that are Gaussians cut at their bounds, all as frequent: four ``[channels]`` float64.

        A cut channel is taken as the Gaussian of these moments with what lies beyond a bound put on it.
        """
        std = np.sqrt(np.maximum(variance, 0.0))
        bottom = np.maximum(mean - GAUSSIAN_ENDS * std, low)
        top = np.minimum(mean + GAUSSIAN_ENDS * std, high)
        edges = np.linspace(float(bottom.min()), float(top.max()), BINS + 1)
        if not edges[0] < edges[-1]:
            return cls(edges[:1], np.ones(1))
        safe = np.where(std > 0, std, 1e-12)[:, None]
        below = normal_cdf((edges[None] - mean[:, None]) / safe)
        below = np.where(edges[None] < low[:, None], 0.0, np.where(edges[None] >= high[:, None], 1.0, below))
        below[:, 0], below[:, -1] = 0.0, 1.0
        return cls((edges[1:] + edges[:-1]) / 2, np.diff(below.mean(axis=0)))


def least_error_grid(histogram: Histogram, bits: int, *, symmetric: bool = False) -> FewLevels:
    """The grid of ``2**bits`` levels that loses least of a distribution, 0 among its levels.

    symmetric: zero points are 0: codes have a sign where any value is below 0. Else codes have none, and the zero point
    is free. Scales are tried in steps of 5 %, then finer around the best; a distribution of zeros gets scale 1.
    """
    values, levels = histogram.values, 2**bits - 1
    low, high = min(float(values[0]), 0.0), max(float(values[-1]), 0.0)
    lowest = -(2 ** (bits - 1)) if symmetric and low < 0 else 0
    if not high > low:
        return FewLevels(np.float32(1), 0, bits, lowest, 0.0)
    zeros = [0] if symmetric or low == 0 else [levels] if high == 0 else list(range(1, levels))
    tried = [_best(histogram, zero, lowest, bits) for zero in zeros]
    error, scale, zero = min(tried)
    return FewLevels(np.float32(scale), zero, bits, lowest, error)


def _best(histogram: Histogram, zero: int, lowest: int, bits: int) -> tuple[float, float, int]:
    """Error, scale and zero point of the best scale at a zero point."""
    below, above = zero - lowest, 2**bits - 1 - (zero - lowest)
    whole = max(-histogram.values[0] / below if below else 0.0, histogram.values[-1] / above if above else 0.0)
    count = int(np.ceil(np.log(NARROWEST) / np.log(STEP)))
    error, scale = _least(histogram, whole * STEP ** -np.arange(count + 1.0), -below, above)
    error, scale = min((error, scale), _least(histogram, scale * FINE_STEPS, -below, above))
    return error, scale, zero


def _least(histogram: Histogram, scales: Float, low: int, high: int) -> tuple[float, float]:
    """The least error of some scales, and the scale. low, high: the ends of the grid in steps."""
    scales = np.maximum(scales, np.finfo(np.float32).tiny)
    steps = np.clip(np.rint(histogram.values / scales[:, None]), low, high)
    errors = np.square(steps * scales[:, None] - histogram.values) @ histogram.shares
    best = int(errors.argmin())
    return float(errors[best]), float(scales[best])


RATIOS = np.linspace(-4.0, 4.0, 33)  # of mean to deviation, of Gaussians that are cut at 0


@functools.cache
def _ends_of_cut(bits: int) -> Float:
    """Where the best levels of ``max(u, 0)`` end, u of N(r, 1) for each of `RATIOS`."""
    one, none = np.ones(1), np.zeros(1)
    cut = (Histogram.of_moments(r * one, one, none, np.full(1, np.inf)) for r in RATIOS)
    return np.array([least_error_grid(histogram, bits).ends[1] for histogram in cut])


def best_end(mean: Float, std: Float, bits: int) -> Float:
    """Where ``2**bits`` levels from 0 on end that lose least of ``max(u, 0)``, u of N(mean, std^2): all ``[channels]``.

    A channel that is always 0, or never, is taken as one that is so to four deviations.
    """
    ratio = mean / np.maximum(std, 1e-30)
    ends: Float = std * np.interp(ratio, RATIOS, _ends_of_cut(bits)) + np.maximum(mean - RATIOS[-1] * std, 0.0)
    return ends
