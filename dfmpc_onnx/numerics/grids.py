"""Grids that fit a weight under a given importance: which scale and zero point each output channel gets."""

from __future__ import annotations

import dataclasses

import numpy as np

from dfmpc_onnx.numerics.arrays import Float, Float32

ASYMMETRIC_BITS = 4  # docs/method.md, section 5: at 4 bits and below an integer zero point pays
SHRINK = np.linspace(1.0, 0.3, 29)


@dataclasses.dataclass(frozen=True)
class Grid:
    """Levels ``scale * (q - zero_point)`` for q from lowest to highest, one row an output channel.

    scale, zero_point: ``[rows, 1]`` float32; zero_point whole. bits: width of a code.
    """

    scale: Float32
    zero_point: Float32
    lowest: int
    highest: int
    bits: int
    ternary: bool = False

    def codes(self, values: Float32) -> Float32:
        """The codes of the nearest levels, as float32, for ``[rows, n]`` values."""
        codes = values / self.scale
        codes += self.zero_point
        np.rint(codes, out=codes)
        return np.clip(codes, self.lowest, self.highest, out=codes)

    def values(self, codes: Float32) -> Float32:
        """What codes stand for."""
        return (codes - self.zero_point) * self.scale

    def nearest(self, values: Float32) -> Float32:
        """The nearest levels."""
        return self.values(self.codes(values))


def uniform_grid(weight: Float32, importance: Float, bits: int, raster: int = 3) -> Grid:
    """The uniform grid of least ``sum_k h_k (w_k - Q(w_k))^2`` in each row, found over shrunken ranges.

    At 4 bits and below the range is ``[min, max]`` of the row with a whole zero point, above it is symmetric.
    weight: ``[rows, k]`` float32. importance: h, ``[rows, k]`` or ``[k]``, at least 0. bits: 2 to 8. raster: of the
    shrunken ranges one in so many is tried at each end where both are sought apart, at 2 and 3 bits.
    """
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    h = np.broadcast_to(importance, weight.shape).astype(np.float32)
    low = np.minimum(weight.min(axis=1, keepdims=True), 0)
    high = np.maximum(weight.max(axis=1, keepdims=True), 0)
    asymmetric = bits <= ASYMMETRIC_BITS
    best: tuple[Float32, Float32] | None = None
    least = np.full((len(weight), 1), np.inf, np.float32)
    # Two or three bits have no level to spare: their two ends are sought apart, on a coarser raster.
    ends = [(a, b) for a in SHRINK[::raster] for b in SHRINK[::raster]] if bits <= 3 else [(a, a) for a in SHRINK]
    for shrink_low, shrink_high in ends if asymmetric else [(a, a) for a in SHRINK]:
        if asymmetric:
            bottom, top = low * np.float32(shrink_low), high * np.float32(shrink_high)
            scale = (top - bottom) / np.float32(2**bits - 1)
            scale = np.where(scale > 0, scale, np.float32(1))
            zero = np.clip(np.rint(lowest - bottom / scale), lowest, highest)
        else:
            scale = np.maximum(-low, high) * np.float32(shrink_low) / np.float32(highest)
            scale = np.where(scale > 0, scale, np.float32(1))
            zero = np.zeros_like(scale)
        trial = Grid(scale, zero, lowest if asymmetric else -highest, highest, bits)
        error = (h * np.square(weight - trial.nearest(weight))).sum(axis=1, keepdims=True)
        better = error < least
        least = np.where(better, error, least)
        best = (scale, zero) if best is None else (np.where(better, scale, best[0]), np.where(better, zero, best[1]))
    assert best is not None  # SHRINK is not empty
    return Grid(best[0], best[1], lowest if asymmetric else -highest, highest, bits)


def ternary_grid(scale: Float32) -> Grid:
    """Levels -scale, 0, scale: ``[rows, 1]`` float32."""
    return Grid(scale, np.zeros_like(scale), -1, 1, 2, ternary=True)
