"""A stationary Gaussian process pushed through the layers of a network: covariance functions instead of activations.

Covariances are kept per spatial lag, see `dfmpc_onnx.numerics.lags`, where the linear layers are. Here are the prior of
images, the activations through their Hermite series, exact for jointly Gaussian inputs up to the order kept, and the
correction by what a BatchNormalization measured (docs/method.md, section 2).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.lags import Lags, mirrored
from dfmpc_onnx.numerics.moments import clipped_gaussian, effective_bounds, normal_cdf, normal_pdf

ORDER = 6  # of the Hermite series
SMALL = 128  # entries of a patch in both networks up to which covariances are made positive
QUADRATURE = 48  # points
ELEMENTS_AT_ONCE = 2**18  # elements of a covariance that an activation works on at a time, to stay in the cache


def natural_prior(height: int, width: int, colours: Float) -> Lags:
    """Covariance of images whose power falls as 1/f^2: the spectrum of photographs.

    colours: covariance of the channels at one pixel, ``[c, c]``. Returns ``[height, width, c, c]``.
    """
    fy, fx = np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")
    square = fy**2 + fx**2
    power = 1.0 / np.maximum(square, 1.0 / max(height, width) ** 2)
    lags = np.fft.ifft2(power).real
    shape: Float = lags / lags[0, 0]
    return (shape[:, :, None, None] * colours).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Activation:
    """How an activation acts on Gaussian channels: ``[channels]`` each; series is ``[ORDER, channels]``.

    series: Hermite coefficients 1..ORDER of the output, so that a covariance is their sum over powers of the
    correlation. gain: the share of the input that passes linearly (Bussgang). mean, variance: of the output.
    """

    series: Float
    gain: Float
    mean: Float
    variance: Float


def clip_activation(mean: Float, variance: Float, low: float, high: float) -> Activation:
    """Clip to ``[low, high]``, ReLU with high = inf: a difference of two ramps."""
    std = np.sqrt(np.maximum(variance, 1e-20))
    series = np.zeros((ORDER, len(mean)))
    bottom, top = effective_bounds(mean, std, low, high)
    for bound, sign in ((bottom, 1.0), (top, -1.0)):
        near = np.isfinite(bound)
        ramp = _ramp_series((mean - np.where(near, bound, mean)) / std, std)
        series += sign * np.where(near, ramp, 0.0)
    series[0] += np.where(np.isneginf(bottom), std, 0.0)  # no bound below: the identity
    out_mean, out_variance = clipped_gaussian(mean, variance, low, high)
    return Activation(series, series[0] / std, out_mean, out_variance)


def function_activation(mean: Float, variance: Float, function: Callable[[Float], Float]) -> Activation:
    """Any function of one channel, its Hermite coefficients ``E[f(m + s z) He_n(z)] / sqrt(n!)`` by quadrature.

    mean, variance: ``[channels]``. function: on ``[channels, points]``.
    """
    std = np.sqrt(np.maximum(variance, 1e-20))
    nodes, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE)
    weights = weights / weights.sum()
    values = function(mean[:, None] + std[:, None] * nodes)
    polynomials = np.polynomial.hermite_e.hermevander(nodes, ORDER)[:, 1:]
    norms = np.sqrt([float(math.factorial(n)) for n in range(1, ORDER + 1)])
    series = ((values * weights) @ polynomials / norms).T
    out_mean = values @ weights
    out_variance = np.square(values - out_mean[:, None]) @ weights
    return Activation(series, series[0] / std, out_mean, out_variance)


def _ramp_series(beta: Float, std: Float) -> Float:
    """Hermite coefficients of ``max(b + g z, 0)``: ``g Phi(b/g)``, then ``g phi(b/g) He_{n-2}(-b/g) / sqrt(n!)``."""
    rows = [std * normal_cdf(beta)]
    density = std * normal_pdf(beta)
    before, now = np.zeros_like(beta), np.ones_like(beta)
    for n in range(2, ORDER + 1):
        rows.append(density * now / math.sqrt(math.factorial(n)))
        before, now = now, -beta * now - (n - 2) * before
    return np.stack(rows)


def activate(lags: Lags, variance: Float, activation: Activation, twins: int) -> Lags:
    """The covariance behind an activation.

    lags: of the input, ``[ny, nx, c, c]``, whose variances are `variance`. twins: channel i and i + twins are the
    same channel in two networks; what the series leaves out of the variance is given to a channel and its twin.
    """
    std = np.sqrt(np.maximum(variance, 1e-20)).astype(np.float32)
    outer = std[:, None] * std
    rows = [row[:, None] * row for row in activation.series.astype(np.float32)]
    size = (lags.shape[0], lags.shape[1])
    flat = lags.reshape(-1, *lags.shape[2:])
    result = np.empty_like(flat)
    half, images = mirrored(size)
    step = max(1, ELEMENTS_AT_ONCE // outer.size)
    for start in range(0, len(half), step):
        block, image = half[start : start + step], images[start : start + step]
        rho = np.clip(flat[block] / outer, -1, 1)
        total = rho * rows[-1]
        for row in rows[-2::-1]:
            total += row
            total *= rho
        result[block] = total
        result[image] = total.swapaxes(1, 2)
    result = result.reshape(lags.shape)
    rest = np.sqrt(np.maximum(activation.variance - np.square(activation.series).sum(axis=0), 0.0)).astype(np.float32)
    index = np.arange(len(std))
    for other in (index, (index + twins) % len(std)):
        correlation = np.clip(lags[:, :, index, other] / (std[index] * std[other]), -1, 1)
        result[:, :, index, other] += np.abs(correlation ** (ORDER + 1)) * rest[index] * rest[other]
        if twins in (0, len(std)):
            break
    result[0, 0, index, index] = activation.variance
    return result


def patch_covariance(lags: Lags, kernel: tuple[int, int], dilations: tuple[int, int]) -> Float:
    """Covariance of the entries of a patch: ``[c * taps, c * taps]`` float64, taps the fastest."""
    channels = lags.shape[2]
    taps = [(y * dilations[0], x * dilations[1]) for y in range(kernel[0]) for x in range(kernel[1])]
    result = np.empty((channels, len(taps), channels, len(taps)), np.float64)
    ny, nx = lags.shape[:2]
    for a, (ya, xa) in enumerate(taps):
        for b, (yb, xb) in enumerate(taps):
            # Beyond the window the outermost lag, not what the periodic window has at its other end.
            result[:, a, :, b] = lags[_within(yb - ya, ny), _within(xb - xa, nx)]
    return result.reshape(channels * len(taps), channels * len(taps))


def _within(lag: int, size: int) -> int:
    """Where a periodic window of so many lags holds a lag, or the outermost in its direction. In Python: it is hot."""
    return max(-(size // 2), min(lag, size // 2)) % size


def nearest_covariance(covariances: Float) -> Float:
    """The nearest positive semidefinite matrices to ``[groups, n, n]`` small symmetric ones.

    A window of few lags leaves covariances that no process has, which a kernel that takes differences would show.
    Large matrices are returned as they are: there the ridge of what is fitted to them covers it.
    """
    if covariances.shape[1] > SMALL:
        return covariances
    values, vectors = np.linalg.eigh((covariances + covariances.swapaxes(1, 2)) / 2)
    if (values >= 0).all():
        return covariances
    result: Float = (vectors * np.maximum(values, 0.0)[:, None]) @ vectors.swapaxes(1, 2)
    return result


def condition_on_measurements(
    covariance: Float, mean: Float, rows: Float, true_mean: Float, true_std: Float
) -> tuple[Float, Float]:
    """A patch's covariance and mean corrected by what a BatchNormalization measured along the rows of a weight.

    With Y = W S W' and D the ratio of the measured to the derived deviation, ``S += K (D Y D - Y) K'`` and
    ``m += K (mu - W m)`` with ``K = S W' (Y + eps I)^-1`` (docs/method.md, section 2).

    covariance: ``[n, n]``; mean: ``[n]``; rows: ``[out, n]``, zeros for the entries that the layer does not read;
    true_mean, true_std: ``[out]``.
    """
    image = covariance @ rows.T
    y = rows @ image
    scale = np.trace(y) / len(y)
    gain = np.linalg.solve(y + 1e-3 * max(scale, 1e-30) * np.eye(len(y)), image.T).T
    ratio = true_std / np.sqrt(np.maximum(np.diagonal(y), 1e-12 * max(scale, 1e-30)))
    ratio = np.clip(ratio, 0.2, 5.0)
    change = y * (ratio[:, None] * ratio) - y
    return covariance + gain @ change @ gain.T, mean + gain @ (true_mean - rows @ mean)
