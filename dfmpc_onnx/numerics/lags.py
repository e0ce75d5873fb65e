"""Covariance functions of stationary fields over a window of lags, and what linear layers do to them.

``R[d] = Cov(a(p), b(p + d))`` is kept as ``[lag_y, lag_x, channels_a, channels_b]`` float32 on a periodic window;
negative lags stand at the end, as in a discrete Fourier transform. A pointwise layer acts on each lag by itself; a
kernel over space multiplies the transform of R by its own, channel by channel where it is depthwise.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.arrays import Float

Lags = npt.NDArray[np.float32]
Spectrum = npt.NDArray[np.complex64]
KernelArray = npt.NDArray[np.float32]
SMALL_WINDOW = 256  # lags up to which a product with the transform's matrix beats the fast algorithm
CHUNK = 2**22  # elements of a spectrum that a depthwise layer makes at a time


def window(lags: Lags, height: int, width: int) -> Lags:
    """The same covariance on another window: its central lags, or with the outermost ones repeated beyond its edge.

    Far apart, correlations change little with the distance.
    """
    for axis, size in ((0, height), (1, width)):
        have = lags.shape[axis]
        if size != have:
            wanted = np.fft.ifftshift(np.arange(size) - size // 2)
            lags = np.take(lags, np.clip(wanted, -(have // 2), have // 2) % have, axis=axis)
    return lags


def decimate(lags: Lags, steps: tuple[int, int]) -> Lags:
    """Every `steps`-th lag: what a strided layer, or a pooling, leaves of a covariance."""
    for axis, step in enumerate(steps):
        if step > 1:
            size = lags.shape[axis]
            before, after = size // 2 // step, (size - 1) // 2 // step
            kept = np.concatenate([np.arange(after + 1), np.arange(-before, 0)]) * step
            lags = np.take(lags, kept % size, axis=axis)
    return lags


def transposed(lags: Lags) -> Lags:
    """``Cov(b(p), a(p + d)) = Cov(a(p), b(p - d))'``."""
    flipped = np.roll(lags[::-1, ::-1], (1, 1), axis=(0, 1))
    return flipped.swapaxes(2, 3)


def mirrored(size: tuple[int, int]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The lags of a window of which each other one is a mirror image, and those images: two flat indices.

    For a tensor with itself ``R[-d] = R[d]'``, so the second half follows from the first.
    """
    y, x = (v.reshape(-1) for v in np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij"))
    image = (-y % size[0]) * size[1] + -x % size[1]
    half = np.flatnonzero(np.arange(len(image)) <= image)
    return half, image[half]


def spatial_mean(lags: Lags, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Covariance of the averages over a map of `size`: ``[a, b]``.

    ``1 / N^2 sum_pq R[p - q]``: along an axis lag d occurs N - abs(d) times. Lags beyond the window count as its edge.
    """
    weights = []
    for axis, length in enumerate(size):
        have = lags.shape[axis]
        d = np.arange(-length + 1, length)
        weight = np.zeros(have)
        np.add.at(weight, np.clip(d, -(have // 2), have // 2) % have, (length - np.abs(d)) / length**2)
        weights.append(weight)
    both: Float = np.einsum("yxab,y,x->ab", lags, *weights, optimize=True)
    return both.astype(np.float32)


def kernel_spectrum(weights: KernelArray, size: tuple[int, int], dilations: tuple[int, int]) -> Spectrum:
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


def depthwise_spectrum(taps: KernelArray, size: tuple[int, int], dilations: tuple[int, int]) -> Spectrum:
    """The transforms of one kernel a channel: ``[frequencies, channels]``. taps: ``[channels, ky, kx]``."""
    fields = kernel_spectrum(taps[None, :, None], size, dilations)
    return np.ascontiguousarray(fields[0, :, :, 0])


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


def pointwise_both(lags: Lags, weights: KernelArray) -> Lags:
    """A 1x1 layer on both arguments of ``[ny, nx, 2 in, 2 in]``, each half by its own weight ``[2, out, in]``."""
    size = (lags.shape[0], lags.shape[1])
    _, out, inputs = weights.shape
    flat = lags.reshape(-1, 2 * inputs, 2 * inputs)
    result = np.empty((len(flat), 2 * out, 2 * out), np.float32)
    for lag, image in zip(*mirrored(size), strict=True):
        left = np.concatenate([weights[0] @ flat[lag, :inputs], weights[1] @ flat[lag, inputs:]])
        np.matmul(left[:, :inputs], weights[0].T, out=result[lag, :, :out])
        np.matmul(left[:, inputs:], weights[1].T, out=result[lag, :, out:])
        if image != lag:
            result[image] = result[lag].T
    return result.reshape(*size, 2 * out, 2 * out)


def depthwise_both(lags: Lags, spectrum: Spectrum) -> Lags:
    """A layer with one kernel a channel on both arguments of ``[ny, nx, c, c]``; spectrum: ``[frequencies, c]``."""
    size = (lags.shape[0], lags.shape[1])
    channels = lags.shape[2]
    result = np.empty_like(lags)
    step = max(1, CHUNK // (len(spectrum) * channels))
    back = spectrum.conj()[:, None]
    for start in range(0, channels, step):
        rows = slice(start, min(start + step, channels))
        part = to_spectrum(lags[:, :, rows])
        part *= spectrum[:, rows, None]
        part *= back
        result[:, :, rows] = to_lags(part, size)
    return result


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
