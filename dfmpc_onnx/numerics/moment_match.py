"""How far predicted moments are from those that BatchNormalizations measured, and what follows for candidates."""

from __future__ import annotations

import numpy as np

from dfmpc_onnx.numerics.arrays import Float

LIVE = 1e-3  # of the upper quartile of variances: a channel that varies less is dead, and says nothing of the input
FLOOR = 1e-6  # of the same, so that a logarithm exists where a channel is predicted to be constant
# By how much photographs differ from procedural ones without anything being wrong. A data set is brighter or more
# colourful than the average one by half a deviation; its fine detail varies by a factor of two in variance.
MEAN_TOLERANCE = 0.5  # of the predicted deviation
VARIANCE_TOLERANCE = 0.7  # of a natural logarithm
FREEDOM = 3.0  # degrees of freedom of Student's t: a few channels may be anything
WORST = 1e3  # of one channel
INDEPENDENT = 6.0  # channels of a layer read the same colours, and err together: so many count as evidence


def mismatch(mean: Float, variance: Float, predicted_mean: Float, predicted_variance: Float) -> Float:
    """Minus the log-likelihood of each live channel's measured moments, 0 where they are as predicted.

    The mean, in predicted deviations, and the logarithm of the variance are taken as Student-t about what is
    predicted, with the tolerances above: ``(f + 1) / 2 * log(1 + z^2 / f)`` each. A Gaussian divergence would have one
    channel that photographs do not excite outweigh all others.

    mean, variance: ``[channels]`` as measured; predicted_mean, predicted_variance: the same, as predicted. Returns
    ``[live channels]``; the dead are those whose measured variance is below a thousandth of the upper quartile. What is
    not finite is predicted as badly as can be.
    """
    usual = float(np.quantile(variance, 0.75)) if variance.size and np.isfinite(variance).all() else 0.0
    alive = variance > LIVE * max(usual, 0.0)
    if usual <= 0 or not alive.any():
        return np.zeros(0)
    floor = FLOOR * usual
    wanted, found = variance[alive] + floor, np.maximum(predicted_variance[alive], 0.0) + floor
    with np.errstate(over="ignore", invalid="ignore"):
        shift = (mean[alive] - predicted_mean[alive]) / np.sqrt(found) / MEAN_TOLERANCE
        ratio = (np.log(wanted) - np.log(found)) / VARIANCE_TOLERANCE
        result = _student(shift) + _student(ratio)
    return np.where(np.isfinite(result), result, WORST)


def _student(z: Float) -> Float:
    result: Float = (FREEDOM + 1) / 2 * np.log1p(np.square(z) / FREEDOM)
    return result


def shares(mismatches: Float, channels: int) -> Float:
    """How probable each candidate is where all were equally so before: ``[candidates]``, with sum 1.

    mismatches: ``[candidates]``, the mean over channels; channels: over how many, of which at most six count.
    """
    logits = -min(float(channels), INDEPENDENT) * (mismatches - mismatches.min())
    weights = np.exp(logits)
    result: Float = weights / weights.sum()
    return result
