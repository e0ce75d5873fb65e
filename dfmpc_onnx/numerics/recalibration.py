"""Mean and deviation of a quantized layer's output, without running it: the readings of what the paper leaves open.

W is the float weight, W^ the quantized one, A the layer's input with independent channels and pixels of mean E and
variance V; m and s are what BatchNormalization measured on W A in training.

    unchanged       m^ = m, s^ = s
    norm_ratio      s^ = s |W^| / |W|, m^ = m |W^| / |W|
    analytic        m^ = sum W^ E, s^^2 = sum W^^2 V + epsilon
    analytic_ratio  s^ = s sqrt(sum W^^2 V / sum W^2 V), m^ = m + sum (W^ - W) E
    projection      W^ = a W + R with sum W R V = 0:  m^ = a m + sum R E,  s^^2 = a^2 s^2 + sum R^2 V

The projection keeps what was measured for the part of W^ along W, and estimates only the rest; with W^ = W it
changes nothing, as the ratio does and the absolute reading does not.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from dfmpc_onnx.numerics.arrays import Float, Float32
from dfmpc_onnx.numerics.batch_norm import BatchNormParameters
from dfmpc_onnx.numerics.moments import linear_moments

READINGS = frozenset({"unchanged", "norm_ratio", "analytic", "analytic_ratio", "projection"})


def recalibrate(
    reading: str,
    weight: Float32,
    quantized: Float32,
    norm: BatchNormParameters,
    mean: Float,
    variance: Float,
) -> BatchNormParameters:
    """The normalization with the quantized layer's mean and deviation by one of the readings.

    weight, quantized: ``[out, in, taps]`` float32. norm: of the float layer, without the layer's bias.
    mean, variance: ``[in]`` float64, of the layer's input. Gamma and beta are kept. ValueError: no such reading.
    """
    floor = 1e-30  # below it a weight is as good as zero, and its ratio means nothing
    if reading == "unchanged":
        new_mean, new_std = norm.mean, norm.std
    elif reading == "norm_ratio":
        square = np.einsum("oik,oik->o", weight, weight, dtype=np.float64)
        square_hat = np.einsum("oik,oik->o", quantized, quantized, dtype=np.float64)
        ratio = np.sqrt(square_hat / np.maximum(square, floor))
        new_mean, new_std = norm.mean * ratio, norm.std * ratio
    elif reading == "analytic":
        new_mean, square = linear_moments(quantized, mean, variance)
        new_std = np.sqrt(square + norm.epsilon)
    elif reading == "analytic_ratio":
        old_mean, old_square = linear_moments(weight, mean, variance)
        hat_mean, hat_square = linear_moments(quantized, mean, variance)
        ratio = np.sqrt(hat_square / np.maximum(old_square, floor))
        new_mean, new_std = norm.mean + hat_mean - old_mean, norm.std * ratio
    elif reading == "projection":
        cross = np.einsum("oik,oik,i->o", quantized, weight, variance, dtype=np.float64, optimize=True)
        square = np.einsum("oik,oik,i->o", weight, weight, variance, dtype=np.float64, optimize=True)
        a = cross / np.maximum(square, floor)
        rest_mean, rest_square = linear_moments(
            (quantized - a[:, None, None] * weight).astype(np.float32), mean, variance
        )
        new_mean = a * norm.mean + rest_mean
        new_std = np.sqrt(np.square(a * norm.std) + rest_square)
    else:
        raise ValueError(f"no reading named {reading}; there are {', '.join(sorted(READINGS))}")
    return dataclasses.replace(norm, mean=new_mean, std=new_std)


FEWEST_SAMPLES = 8  # independent ones, below which a mean difference is not known


def shrunk_mean(samples: Float) -> Float:
    """The mean of independent samples, shrunk by its own standard error: ``[channels]`` of ``[n, channels]``.

    ``d max(0, 1 - e^2 / d^2)`` with d the mean and e its standard error, channel by channel, as James and Stein (1961)
    shrink: what the sample may have made by chance is not corrected. 0 where samples are few.
    """
    count = len(samples)
    if count < FEWEST_SAMPLES:
        return np.zeros(samples.shape[1])
    mean = samples.mean(axis=0)
    error = samples.var(axis=0, ddof=1) / count
    square = np.square(mean)
    share = np.divide(error, square, out=np.ones_like(square), where=square > 0)
    result: Float = mean * np.maximum(1.0 - share, 0.0)
    return result


class StreamStatistics(Protocol):
    """Mean and variance of a tensor in the float and the quantized stream: ``[channels]`` each."""

    @property
    def mean(self) -> Float: ...
    @property
    def variance(self) -> Float: ...
    @property
    def mean_hat(self) -> Float: ...
    @property
    def variance_hat(self) -> Float: ...


@dataclasses.dataclass(frozen=True)
class Refreshed:
    """What a BatchNormalization gets: mean and variance, and the gain s of its quantized channel."""

    mean: Float
    variance: Float
    scale: Float


GAIN_LIMITS = (0.2, 5.0)
STILL = 1e-4  # of the trained variance: a channel that varies less on the stream is taken as constant there


def restoring_gain(variance: Float, variance_hat: Float) -> Float:
    """By what the quantized channels are multiplied to vary as the float ones do: ``[channels]``, within 0.2 and 5.

    1 where a channel is constant in one of the two networks.
    """
    live = (variance_hat > 1e-12 * np.maximum(variance, 1e-30)) & (variance > 0)
    deviation = np.sqrt(np.divide(variance, variance_hat, out=np.ones_like(variance), where=live))
    return np.where(live, np.clip(deviation, *GAIN_LIMITS), 1.0)


def recalibrate_streams(found: StreamStatistics, mean: Float, variance: Float, epsilon: float) -> Refreshed:
    """A BatchNormalization's statistics for the quantized network, from both streams (docs/method.md, section 6).

    The gain ``s = sqrt(v0 / v1)``, within 0.2 and 5, restores the deviation. Least squares, ``cov / v1``, would shrink
    what is noisy, layer after layer, and most of all where real images have more signal than those of the streams.
    With r the ratio of the trained deviation to the stream's,
    ``mean' = m1 r + (mu - m0 r) / s`` and ``var' = (sd / s)^2 - epsilon``. Where the stream barely moves a channel
    its deviation says nothing, and r is 1.

    mean, variance: mu and sd^2 - epsilon of the float network. All ``[channels]`` float64.
    """
    v0 = found.variance
    scale = restoring_gain(v0, found.variance_hat)
    moved = v0 > STILL * (variance + epsilon)
    ratio = np.sqrt(np.divide(variance + epsilon, v0 + epsilon, out=np.ones_like(v0), where=moved))
    new_mean = found.mean_hat * ratio + (mean - found.mean * ratio) / scale
    new_variance = np.maximum((variance + epsilon) / np.square(scale) - epsilon, 0.0)
    return Refreshed(new_mean, new_variance, scale)
