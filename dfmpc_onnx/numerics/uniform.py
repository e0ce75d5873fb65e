"""Uniform grids of k bits: the mid-rise grid of DoReFa that DF-MPC uses, and the integer grid of the runtimes."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.granularity import Granularity, PerAxis
from dfmpc_onnx.numerics.quantized import QuantizedWeight, quantize

MIN_BITS, MAX_BITS = 2, 8
PRUNED = 1e-2  # of a step: half a step would make such a channel fifty times as large; it was pruned, or has decayed


def dorefa(weight: npt.NDArray[np.float32], bits: int, granularity: Granularity) -> QuantizedWeight:
    """``max|W| * (2 / (2^k - 1) * round((2^k - 1) (W / (2 max|W|) + 1/2)) - 1)`` (DF-MPC, equation 6).

    The 2^k levels are the odd multiples of ``max|W| / (2^k - 1)``: zero is not among them. With
    ``q = round(...) - 2^(k-1)`` a level is ``(2 max|W| / (2^k - 1)) * (q + 1/2)``, so the codes are signed, the
    zero point is -1/2, and k bits hold a code. Eight such bits would need nine in an integer kernel
    (``2 q + 1``), so k = 8 takes the integer grid of `symmetric`. A slice of zeros stays zero.

    weight: any shape, float32. bits: 2 to 8.
    """
    if bits == MAX_BITS:
        return symmetric(weight, bits, granularity)
    peak = np.abs(granularity.rows(weight)).max(axis=1).reshape(granularity.scale_shape(weight.shape))
    scale = (peak / np.float32(2**bits - 1) * 2).astype(np.float32)
    # A slice of zeros has no level of its own on this grid; it stays zero by codes and a zero point of 0.
    live = scale > 0
    scale = np.where(live, scale, np.float32(1)).astype(np.float32)
    zero_point = np.where(live, np.float32(-0.5), np.float32(0)).astype(np.float32)
    return QuantizedWeight(quantize(weight, scale, zero_point, bits), scale, zero_point, bits)


def with_zero_channels(quantized: QuantizedWeight, weight: npt.NDArray[np.float32], axis: int) -> QuantizedWeight:
    """A half-step grid, with codes and zero point 0 for the channels whose weights are next to nothing beside a step.

    Where one scale serves the tensor, pruned filters would else get half a step of it everywhere, which a
    BatchNormalization of variance 0 multiplies by ``1 / sqrt(epsilon)``. Other grids hold 0, and come back unchanged.
    weight: what was quantized, float32. axis: that of its channels; scale and zero point get one value for each.
    """
    if not np.any(quantized.zero_point != np.rint(quantized.zero_point)):
        return quantized
    per_channel = PerAxis(axis)
    peak = np.abs(per_channel.rows(weight)).max(axis=1).reshape(per_channel.scale_shape(weight.shape))
    small = peak < quantized.scale * np.float32(PRUNED)
    if not small.any():
        return quantized
    codes = np.where(small, np.int8(0), quantized.codes)
    zero_point = np.where(small, np.float32(0), quantized.zero_point)
    scale = np.broadcast_to(quantized.scale, zero_point.shape).copy()
    return dataclasses.replace(quantized, codes=codes, scale=scale, zero_point=zero_point)


def symmetric(weight: npt.NDArray[np.float32], bits: int, granularity: Granularity) -> QuantizedWeight:
    """Integer codes ``round(W / scale)`` with ``scale = max|W| / (2^(k-1) - 1)`` and zero point 0.

    The lowest code is never used, so that a weight and its negative have mirrored codes.
    weight: any shape, float32. bits: 2 to 8. A slice of zeros gets scale 1.
    """
    peak = np.abs(granularity.rows(weight)).max(axis=1).reshape(granularity.scale_shape(weight.shape))
    scale = np.where(peak > 0, peak / np.float32(2 ** (bits - 1) - 1), np.float32(1)).astype(np.float32)
    # A peak among the subnormals can vanish in the division.
    scale = np.where(scale > 0, scale, np.float32(1))
    zero_point = np.zeros_like(scale)
    return QuantizedWeight(quantize(weight, scale, zero_point, bits), scale, zero_point, bits)
