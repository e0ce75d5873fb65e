"""Mean and variance of each channel of a tensor: measured on values, in one network or in two."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.arrays import Float, Float32
from dfmpc_onnx.numerics.moments import MeanVariance


@dataclasses.dataclass(frozen=True)
class ChannelStatistics:
    """Per channel of one tensor over the batch, in both networks: ``[channels]`` float64 each.

    mean, variance: of the float network; mean_hat, variance_hat: of the quantized one.
    """

    mean: Float
    variance: Float
    mean_hat: Float
    variance_hat: Float

    def shifted(self, by: Float, by_hat: Float) -> ChannelStatistics:
        """With a constant a channel added to the tensor in each network."""
        return dataclasses.replace(self, mean=self.mean + by, mean_hat=self.mean_hat + by_hat)

    @classmethod
    def of(cls, plain: npt.NDArray[np.generic], hat: npt.NDArray[np.generic]) -> ChannelStatistics:
        """plain, hat: ``[n, channels, ...]``, measured once where they are the same array."""
        mean, variance = channel_moments(plain)
        if plain is hat:
            return cls(mean, variance, mean, variance)
        return cls(mean, variance, *channel_moments(hat))


def channel_moments(x: npt.NDArray[np.generic]) -> MeanVariance:
    """Mean and variance of each channel, the second dimension, over all others: ``[channels]`` each.

    Products are float32, as the maps are, and summed in float64 over the batch.
    """
    rows = _rows(x)
    mean = channel_mean(rows)
    centred = rows - mean.astype(np.float32)[:, None]
    return mean, _inner(centred, centred) / (rows.shape[0] * rows.shape[2])


def channel_mean(x: npt.NDArray[np.generic]) -> Float:
    """Mean of each channel, the second dimension, over all others: ``[channels]``, summed in float64 over the batch."""
    result: Float = _rows(x).mean(axis=2).mean(axis=0, dtype=np.float64)
    return result


def exact_moments(x: npt.NDArray[np.generic]) -> MeanVariance:
    """As `channel_moments`, in float64 throughout, for a few small maps; not finite where a value is not."""
    rows = np.moveaxis(np.asarray(x, np.float64), 1, 0).reshape(x.shape[1], -1)
    with np.errstate(over="ignore", invalid="ignore"):
        return rows.mean(axis=1), rows.var(axis=1)


def _rows(x: npt.NDArray[np.generic]) -> Float32:
    return np.asarray(x, np.float32).reshape(x.shape[0], x.shape[1], -1)


def _inner(a: Float32, b: Float32) -> Float:
    """Sum over batch and positions of a product, summed in float64 over the images: ``[channels]``."""
    result: Float = np.einsum("nci,nci->nc", a, b).sum(axis=0, dtype=np.float64)
    return result
