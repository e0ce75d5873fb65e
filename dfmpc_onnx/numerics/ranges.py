"""Scales and zero points for activations, from a range."""

from __future__ import annotations

from typing import Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.moments import clipped_gaussian

Range = tuple[float, float]  # the least and the greatest value of a tensor
QParams = tuple[np.float32, np.uint8 | np.uint16 | np.int8 | ml_dtypes.uint4 | ml_dtypes.int4]  # scale, zero point
LEVELS = 255  # steps that 8 bits divide a range into
LEVELS_16_BITS = 65535
SIGNED_LEVELS = 127
DEVIATIONS = 8.0  # docs/method.md, section 7: what lies beyond is cheaper to clip than to make room for
PARENT_DEVIATIONS = 4.0
_PARENTS = np.linspace(-1.0, 8.0, 901)
LONGEST_REACH = 3.0  # scores of photographs reach 2.7 to 3.2 times as far as those of procedural images
VECTOR_REACH = 2.0  # averages over the map reach 1.7 to 2 times as far, and so what is computed from them
SHORTEST = 1 / 16  # of the median reach: a channel that barely moved in training may do anything elsewhere
ROUNDED = 1e-5  # of a logarithm: what float32 makes of a bound that is a power of two times 127
REACH = 1.5  # docs/method.md, section 7: half a bit of 8 is cheaper than clipping what procedural images miss


def moment_range(
    mean: npt.NDArray[np.float64],
    variance: npt.NDArray[np.float64],
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
    deviations: float = DEVIATIONS,
) -> tuple[float, float]:
    """The range of a tensor: the widest channel's ``mean +- deviations * std``, within the bounds low and high.

    All ``[channels]`` float64; the bounds may be infinite and come from the activation.
    """
    std = np.sqrt(np.maximum(variance, 0.0))
    bottom = np.maximum(mean - deviations * std, low).min()
    top = np.minimum(mean + deviations * std, high).max()
    return float(bottom), float(top)


def skewed_channels(
    mean: npt.NDArray[np.float64],
    std: npt.NDArray[np.float64],
    gamma: npt.NDArray[np.float64],
    beta: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Of each channel of ``gamma (x - mean) / std + beta`` for a rectified x: what 0 becomes, and the far end.

    All ``[channels]`` float64; where gamma is negative the far end is the lower. x = max(u, 0) has these moments where
    u is Gaussian with ``t = E u / sd u``, for ``mean / std`` grows with t. The far end is four deviations of u from its
    mean: beyond that, clipping costs less than 8 bits' steps do. A channel that is seldom above 0 (t < -1) says little
    of u, and is taken as t = -1.
    """
    cut_mean, cut_variance = clipped_gaussian(_PARENTS, np.ones_like(_PARENTS))
    ratio = mean / np.maximum(std, 1e-30)
    parents = np.interp(ratio, cut_mean / np.sqrt(cut_variance), _PARENTS)
    cut_mean, cut_variance = clipped_gaussian(parents, np.ones_like(parents))
    far = beta + gamma * (parents + PARENT_DEVIATIONS - cut_mean) / np.sqrt(cut_variance)
    return beta - gamma * ratio, far


def skewed_range(
    mean: npt.NDArray[np.float64],
    std: npt.NDArray[np.float64],
    gamma: npt.NDArray[np.float64],
    beta: npt.NDArray[np.float64],
) -> tuple[float, float]:
    """The range of ``gamma (x - mean) / std + beta`` for a rectified x: all ``[channels]`` float64.

    From what 0 becomes, but at most eight deviations from the mean, to the far end (`skewed_channels`), the widest.
    """
    zero, far = skewed_channels(mean, std, gamma, beta)
    zero = np.where(gamma < 0, np.minimum(zero, beta - DEVIATIONS * gamma), np.maximum(zero, beta - DEVIATIONS * gamma))
    return float(min(far.min(), zero.min())), float(max(far.max(), zero.max()))


def signed_qparams(low: float, high: float) -> tuple[np.float32, np.int8]:
    """Scale and zero point 0 of int8 codes from -127 to 127 that cover ``[low, high]``.

    ``scale = max(-low, high) / 127``; what is never negative uses half of the codes.
    """
    peak = max(-low, high, 0.0)
    if not peak > 0:
        return np.float32(1), np.int8(0)
    return max(np.float32(peak / SIGNED_LEVELS), np.finfo(np.float32).tiny), np.int8(0)


def power_of_two_qparams(low: float, high: float) -> tuple[np.float32, np.int8]:
    """Scale, a power of two, and zero point 0 of int8 codes: the least scale that covers ``[low, high]``."""
    peak = max(-low, high, 0.0)
    if not peak > 0:
        return np.float32(1), np.int8(0)
    exponent = np.ceil(np.log2(peak / SIGNED_LEVELS) - ROUNDED)
    return np.float32(np.exp2(np.clip(exponent, -100, 100))), np.int8(0)


def without_room(range_: Range) -> Range:
    """A range less the room that it has for what was not measured, by `REACH` or by deviations that are rarely reached.

    A power of two that uses up this room costs fewer bits than the next one, which may be twice as coarse, and cuts
    next to nothing.
    """
    return range_[0] / REACH, range_[1] / REACH


def unsigned_qparams(low: float, high: float, bits: Literal[8, 16] = 8) -> tuple[np.float32, np.uint8 | np.uint16]:
    """Scale and zero point of codes of 8 or 16 bits covering ``[low, high]`` and zero, zero being exact.

    ``zero_point = round(-low / scale)``; where low is 0 the zero point is 0 and ``(2^bits - 1) scale <= high``, so that
    a Relu or Clip in front is implied by the range and a runtime may drop it.
    """
    kind, levels = (np.uint8, LEVELS) if bits == 8 else (np.uint16, LEVELS_16_BITS)
    low, high = min(low, 0.0), max(high, 0.0)
    width = high - low
    if not width > 0:
        return np.float32(1), kind(0)
    scale = np.float32(width / levels)
    if low == 0.0 and float(scale) * levels > high:
        scale = np.nextafter(scale, np.float32(0))
    scale = max(scale, np.finfo(np.float32).tiny)
    return np.float32(scale), kind(np.clip(np.rint(-low / float(scale)), 0, levels))


def equal_reach(
    mean: npt.NDArray[np.float64], std: npt.NDArray[np.float64], epsilon: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """What to divide channels by so that all reach as far: ``(|mean| + 8 std) / 8``, ``[channels]``.

    mean, std: ``[readers, channels]``, as each BatchNormalization that reads the channels has measured them, std with
    its epsilon, ``[readers]``; the largest counts. A channel that reaches less than a sixteenth of the median is taken
    to reach as far as that, and none is divided by more than leaves ``(std / a)^2`` well above epsilon.
    """
    reach = (np.abs(mean) + DEVIATIONS * std).max(axis=0) / DEVIATIONS
    wide = np.maximum(reach, SHORTEST * np.median(reach))
    with np.errstate(divide="ignore", invalid="ignore"):
        most = (std / (2.0 * np.sqrt(epsilon))[:, None]).min(axis=0)
    factors = np.minimum(wide, most)
    return np.where(np.isfinite(factors) & (factors > 1e-6), factors, 1.0)


def reach_factors(reach: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What to divide channels by so that all reach as far as the widest: at most 1, ``[channels]``.

    reach: of each channel, ``[channels]``. One that reaches less than a sixteenth of the median is taken to reach as
    far as that: what barely moved on a sample may do anything elsewhere.
    """
    wide = np.maximum(reach, SHORTEST * np.median(reach))
    return wide / wide.max() if wide.max() > 0 else np.ones_like(reach)
