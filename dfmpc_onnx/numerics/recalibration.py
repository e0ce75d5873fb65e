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

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.compensation import BatchNormParameters
from dfmpc_onnx.numerics.moments import linear_moments

Rows = npt.NDArray[np.float32]
Float = npt.NDArray[np.float64]
READINGS = frozenset({"unchanged", "norm_ratio", "analytic", "analytic_ratio", "projection"})


def recalibrate(
    reading: str, weight: Rows, quantized: Rows, norm: BatchNormParameters, mean: Float, variance: Float, epsilon: float
) -> BatchNormParameters:
    """The normalization with the quantized layer's mean and deviation by one of the readings.

    weight, quantized: ``[out, in, taps]`` float32. norm: of the float layer, without the layer's bias.
    mean, variance: ``[in]`` float64, of the layer's input. Gamma and beta are kept. ValueError: no such reading.
    """
    floor = np.finfo(np.float64).tiny
    if reading == "unchanged":
        new_mean, new_std = norm.mean, norm.std
    elif reading == "norm_ratio":
        square = np.einsum("oik,oik->o", weight, weight, dtype=np.float64)
        square_hat = np.einsum("oik,oik->o", quantized, quantized, dtype=np.float64)
        ratio = np.sqrt(square_hat / np.maximum(square, floor))
        new_mean, new_std = norm.mean * ratio, norm.std * ratio
    elif reading == "analytic":
        new_mean, square = linear_moments(quantized, mean, variance)
        new_std = np.sqrt(square + epsilon)
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
    return BatchNormParameters(norm.gamma, norm.beta, new_mean, new_std)
