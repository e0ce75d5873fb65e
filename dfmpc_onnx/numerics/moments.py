"""Mean and variance of a Gaussian after an activation, and of a linear layer's output.

The rectified Gaussian follows from integrating x and x^2 against the normal density between two bounds; smooth
activations are integrated by Gauss-Hermite quadrature.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.arrays import Float

_ERFC = np.frompyfunc(math.erfc, 1, 1)
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(48)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
_FINE = np.linspace(-6.0, 6.0, 401)  # for what has kinks
_DENSITY = np.exp(-0.5 * np.square(_FINE))
_DENSITY /= _DENSITY.sum()

FAR = 40.0  # deviations, beyond which a density in double precision is 0

MeanVariance = tuple[Float, Float]  # mean and variance, [channels] each


def normal_cdf(z: Float) -> Float:
    """Phi(z), exact to rounding in both tails; infinities allowed. float64 in the shape of z."""
    result: Float = np.asarray(0.5 * _ERFC(-np.asarray(z, np.float64) / math.sqrt(2.0)), np.float64)
    return result


def normal_pdf(z: Float) -> Float:
    """phi(z); 0 at the infinities."""
    result: Float = np.exp(-0.5 * np.square(z)) / math.sqrt(2.0 * math.pi)
    return result


def effective_bounds(mean: Float, std: Float, low: float, high: float) -> tuple[Float, Float]:
    """The bounds of a Clip, infinite for each channel ``N(mean, std^2)`` that does not come near: in mean's shape.

    Exporters write "no bound" as 1e30 or the largest float, whose square drowns everything else.
    """
    below = np.where(low < mean - FAR * std, -math.inf, low)
    return below, np.where(high > mean + FAR * std, math.inf, high)


def clipped_gaussian(mean: Float, variance: Float, low: float = 0.0, high: float = math.inf) -> tuple[Float, Float]:
    """Mean and variance of ``min(max(x, low), high)`` for ``x ~ N(mean, variance)``.

    With low = 0 and high = inf this is ReLU: ``E = m Phi(m/s) + s phi(m/s)`` and
    ``E x^2 = (m^2 + s^2) Phi(m/s) + m s phi(m/s)`` (docs/method.md, section 1). Any of the bounds may be infinite.

    mean, variance: ``[channels]`` float64; a variance of 0 stands for a constant.
    """
    mean = np.asarray(mean, np.float64)
    std = np.sqrt(np.maximum(variance, 0.0))
    safe = np.where(std > 0, std, 1.0)
    bottom, top = effective_bounds(mean, safe, low, high)
    a, b = (bottom - mean) / safe, (top - mean) / safe
    below, above = normal_cdf(a), normal_cdf(-b)
    inside = np.maximum(1.0 - below - above, 0.0)
    density_a, density_b = normal_pdf(a), normal_pdf(b)
    # Moments about a finite bound where there is one: differences of large numbers would eat a small variance.
    centre = np.where(np.isfinite(bottom), bottom, np.where(np.isfinite(top), top, 0.0))
    shifted = mean - centre
    at_bottom, at_top = (np.where(np.isfinite(bound), bound - centre, 0.0) for bound in (bottom, top))
    first = shifted * inside + std * (density_a - density_b) + at_bottom * below + at_top * above
    edges = (shifted + at_bottom) * density_a - (shifted + at_top) * density_b
    second = (shifted**2 + std**2) * inside + std * edges + at_bottom**2 * below + at_top**2 * above
    constant = std == 0
    out_mean = np.where(constant, np.clip(mean, low, high), first + centre)
    out_variance = np.where(constant, 0.0, np.maximum(second - first**2, 0.0))
    return out_mean, out_variance


def leaky_gaussian(mean: Float, variance: Float, slope: Float) -> tuple[Float, Float]:
    """Mean and variance of ``x if x > 0 else slope x`` for a Gaussian x (LeakyRelu, PRelu); slope broadcasts."""
    up_mean, up_variance = clipped_gaussian(mean, variance)
    down_mean, down_variance = clipped_gaussian(-np.asarray(mean), variance)
    out_mean = up_mean - slope * down_mean
    second = up_variance + up_mean**2 + slope**2 * (down_variance + down_mean**2)
    return out_mean, np.maximum(second - out_mean**2, 0.0)


def function_of_gaussian(mean: Float, variance: Float, function: Callable[[Float], Float]) -> tuple[Float, Float]:
    """Mean and variance of ``function(x)`` for a Gaussian x, by 48-point Gauss-Hermite quadrature.

    mean, variance: ``[channels]``. Exact for polynomials; for functions with a kink good to about 1 %.
    """
    points = np.asarray(mean)[..., None] + np.sqrt(np.maximum(variance, 0.0))[..., None] * _NODES
    values = function(points)
    out_mean = values @ _WEIGHTS
    return out_mean, np.square(values - out_mean[..., None]) @ _WEIGHTS


def error_through(mean: Float, variance: Float, function: Callable[[Float], Float]) -> tuple[Float, Float, Float]:
    """What a small error becomes behind a function of a Gaussian, which may have kinks: three ``[channels]``.

    The first is how much of the error's variance is left, ``E[f'(x)^2]``; the others are mean and variance of f(x).
    The error is taken as a tenth of the deviation, so that a kink counts for how often it is crossed. Where x does not
    vary, the slope at its mean. Where the function leaves float64, as Exp of large numbers, nothing is finite.
    """
    std = np.sqrt(np.maximum(np.asarray(variance), 0.0))[..., None]
    step = np.where(std > 0, 0.1 * std, 1e-6)
    points = np.asarray(mean)[..., None] + std * _FINE
    with np.errstate(over="ignore", invalid="ignore"):
        values = function(points)
        up, down = (np.square((function(points + side * step) - values) / step) for side in (1.0, -1.0))
        out_mean = values @ _DENSITY
        return 0.5 * (up + down) @ _DENSITY, out_mean, np.square(values - out_mean[..., None]) @ _DENSITY


def linear_moments(
    rows: npt.NDArray[np.float32], mean: Float, variance: Float, bias: Float | float = 0.0
) -> tuple[Float, Float]:
    """Mean and variance of a linear layer's outputs when its inputs are independent.

    ``mean_o = sum_i (sum_k W_oik) E_i + bias``, ``var_o = sum_i (sum_k W_oik^2) Var_i``.
    rows: ``[out, in, taps]``; mean, variance: ``[in]``, or ``[out, in]`` for grouped layers. Returns two ``[out]``.
    """
    sums = rows.sum(axis=2, dtype=np.float64)
    squares = np.einsum("oik,oik->oi", rows, rows, dtype=np.float64)
    return (sums * mean).sum(axis=1) + bias, (squares * variance).sum(axis=1)


@dataclasses.dataclass(frozen=True)
class ChannelMoments:
    """Mean, variance and bounds of each channel of an activation: four ``[channels]`` float64; bounds may be inf."""

    mean: Float
    variance: Float
    low: Float
    high: Float
