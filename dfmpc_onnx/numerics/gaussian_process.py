"""A stationary Gaussian process pushed through the layers of a network: covariance functions instead of activations.

Covariances are kept per spatial lag d, ``R[d] = Cov(a(p), b(p + d))``, as ``[lag_y, lag_x, channels_a, channels_b]``
float32 on a periodic window of lags; negative lags stand at the end, as in a discrete Fourier transform. A linear
layer multiplies the transform of R by that of its kernel; an activation acts through its Hermite series, exact for
jointly Gaussian inputs up to the order kept (METHOD, section 2).
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.moments import clipped_gaussian, normal_cdf, normal_pdf

Lags = npt.NDArray[np.float32]
Float = npt.NDArray[np.float64]
ORDER = 6  # of the Hermite series
SMALL_WINDOW = 256  # lags up to which a product with the transform's matrix beats the fast algorithm
Spectrum = npt.NDArray[np.complex64]
Kernels = npt.NDArray[np.float32]


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


def window(lags: Lags, height: int, width: int) -> Lags:
    """The central lags of a covariance, on a smaller periodic window."""
    for axis, size in ((0, height), (1, width)):
        if size < lags.shape[axis]:
            kept = np.fft.ifftshift(np.arange(size) - size // 2)
            lags = np.take(lags, kept % lags.shape[axis], axis=axis)
    return lags


def decimate(lags: Lags, steps: tuple[int, int]) -> Lags:
    """Every `steps`-th lag: what a strided layer, or a pooling, leaves of a covariance."""
    for axis, step in enumerate(steps):
        if step > 1:
            size = lags.shape[axis]
            keep = max(size // step, 1)
            centred = np.fft.ifftshift(np.arange(keep) - keep // 2) * step
            lags = np.take(lags, centred % size, axis=axis)
    return lags


def kernel_spectrum(weights: Kernels, size: tuple[int, int], dilations: tuple[int, int]) -> Spectrum:
    """The transforms of two kernels over a window of lags: ``[2, frequencies, out, in]``.

    weights: of the float and of the quantized network, ``[2, out, in, ky, kx]``. A kernel's middle is its origin, as
    with symmetric padding. Frequencies are those of `to_spectrum`.
    """
    two, out, inputs, ky, kx = weights.shape
    fy, fx = np.meshgrid(np.fft.fftfreq(size[0]), np.fft.rfftfreq(size[1]), indexing="ij")
    taps = [
        ((y - (ky - 1) // 2) * dilations[0], (x - (kx - 1) // 2) * dilations[1]) for y in range(ky) for x in range(kx)
    ]
    # Cov(y(p), .) = sum_k W_k R[d - k]: a convolution along the lag.
    phases = np.stack([np.exp(-2j * np.pi * (fy * y + fx * x)).reshape(-1) for y, x in taps], axis=1)
    rows = np.moveaxis(weights.reshape(two, out, inputs, ky * kx), 3, 1).reshape(two, ky * kx, out * inputs)
    spectra = phases.astype(np.complex64) @ rows.astype(np.complex64)
    return spectra.reshape(two, -1, out, inputs)


def apply_left(spectrum: Spectrum, kernel: Spectrum) -> Spectrum:
    """``W(f) R(f)``: a linear layer on the first argument of a covariance, each half by its own kernel.

    spectrum: ``[frequencies, 2 in, c]``; kernel: ``[2, frequencies, out, in]``. Returns ``[frequencies, 2 out, c]``.
    """
    half = kernel.shape[3]
    parts = [kernel[0] @ spectrum[:, :half], kernel[1] @ spectrum[:, half:]]
    return np.concatenate(parts, axis=1)


def apply_both(spectrum: Spectrum, kernel: Spectrum) -> Spectrum:
    """``W(f) R(f) W(f)^H``: on both arguments, ``[frequencies, 2 out, 2 out]``."""
    half = kernel.shape[3]
    left = apply_left(spectrum, kernel)
    back = kernel.conj().swapaxes(2, 3)
    return np.concatenate([left[:, :, :half] @ back[0], left[:, :, half:] @ back[1]], axis=2)


@functools.cache
def _transform(size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """The real and, below it, the imaginary part of the transform over a small window, as a matrix on the lags."""
    ny, nx = size
    dy, dx = (v.reshape(-1) for v in np.meshgrid(np.arange(ny), np.arange(nx), indexing="ij"))
    fy, fx = (v.reshape(-1, 1) for v in np.meshgrid(np.arange(ny), np.arange(nx // 2 + 1), indexing="ij"))
    angle = 2 * np.pi * (fy * dy / ny + fx * dx / nx)
    return np.concatenate([np.cos(angle), -np.sin(angle)]).astype(np.float32)


@functools.cache
def _inverse_transform(size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """The inverse of `_transform`: frequencies that stand for their mirror image too count twice."""
    ny, nx = size
    column = np.tile(np.arange(nx // 2 + 1), ny)
    weight = np.where((column == 0) | (2 * column == nx), 1.0, 2.0) / (ny * nx)
    return np.ascontiguousarray((_transform(size) * np.tile(weight, 2)[:, None]).T, np.float32)


def to_spectrum(lags: Lags) -> Spectrum:
    """The transform over the lags, frequencies in one dimension: ``[frequencies, a, b]``."""
    size = (lags.shape[0], lags.shape[1])
    if size[0] * size[1] > SMALL_WINDOW:
        transform = np.fft.rfft2(lags, axes=(0, 1))
        return np.ascontiguousarray(transform.reshape(-1, *lags.shape[2:]), np.complex64)
    parts = _transform(size) @ lags.reshape(size[0] * size[1], -1)
    count = len(parts) // 2
    spectrum = np.empty((count, *lags.shape[2:]), np.complex64)
    spectrum.real, spectrum.imag = (half.reshape(spectrum.shape) for half in (parts[:count], parts[count:]))
    return spectrum


def to_lags(spectrum: Spectrum, size: tuple[int, int]) -> Lags:
    """The inverse of `to_spectrum`."""
    if size[0] * size[1] > SMALL_WINDOW:
        transform = spectrum.reshape(size[0], size[1] // 2 + 1, *spectrum.shape[1:])
        return np.ascontiguousarray(np.fft.irfft2(transform, s=size, axes=(0, 1)), np.float32)
    flat = spectrum.reshape(len(spectrum), -1)
    parts = np.concatenate([flat.real, flat.imag])
    lags: Lags = (_inverse_transform(size) @ parts).reshape(*size, *spectrum.shape[1:])
    return lags


def transposed(lags: Lags) -> Lags:
    """``Cov(b(p), a(p + d)) = Cov(a(p), b(p - d))'``."""
    flipped = np.roll(lags[::-1, ::-1], (1, 1), axis=(0, 1))
    return flipped.swapaxes(2, 3)


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
    for bound, sign in ((low, 1.0), (high, -1.0)):
        if math.isfinite(bound):
            series += sign * _ramp_series((mean - bound) / std, std)
        elif bound < 0:
            series[0] += std  # no bound below: the identity
    out_mean, out_variance = clipped_gaussian(mean, variance, low, high)
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
    rho = np.clip(lags / (std[:, None] * std), -1, 1)
    series = activation.series.astype(np.float32)
    result = np.zeros_like(rho)
    power = np.ones_like(rho)
    for row in series:
        power *= rho
        result += power * (row[:, None] * row)
    rest = np.sqrt(np.maximum(activation.variance - np.square(activation.series).sum(axis=0), 0.0)).astype(np.float32)
    index = np.arange(len(std))
    for other in (index, (index + twins) % len(std)):
        tail = power[:, :, index, other] * rho[:, :, index, other]
        result[:, :, index, other] += np.abs(tail) * rest[index] * rest[other]
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
            result[:, a, :, b] = lags[(yb - ya) % ny, (xb - xa) % nx]
    return result.reshape(channels * len(taps), channels * len(taps))


def measured(covariance: Float, mean: Float, rows: Float, true_mean: Float, true_std: Float) -> tuple[Float, Float]:
    """A patch's covariance and mean corrected by what a BatchNormalization measured along the rows of a weight.

    With Y = W S W' and D the ratio of the measured to the derived deviation, ``S += K (D Y D - Y) K'`` and
    ``m += K (mu - W m)`` with ``K = S W' (Y + eps I)^-1`` (METHOD, section 2).

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
