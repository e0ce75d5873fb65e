"""Mean and variance of each channel of a tensor: measured on values, in one network or in two."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.arrays import Float, Float32
from dfmpc_onnx.numerics.moments import MeanVariance
from dfmpc_onnx.numerics.recalibration import shrunk_mean

ENOUGH_RUNS = 16  # of positions, to judge a mean by; as many images are enough by themselves
CACHED_VALUES = 2**16  # that are worked on while they lie in the processor's cache
SHORTEST_RUN = 16  # positions, so that neighbours in it may see the same


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

    def vouched(self, shift: Float) -> ChannelStatistics:
        """With the mean of the quantized network this far below the float one's: as far as the sample vouches for."""
        return dataclasses.replace(self, mean_hat=self.mean - shift)

    @classmethod
    def of(cls, plain: npt.NDArray[np.generic], hat: npt.NDArray[np.generic]) -> ChannelStatistics:
        """plain, hat: ``[n, channels, ...]``, measured once where they are the same array."""
        mean, variance = channel_moments(plain)
        if plain is hat:
            return cls(mean, variance, mean, variance)
        return cls(mean, variance, *channel_moments(hat))


def channel_moments(x: npt.NDArray[np.generic]) -> MeanVariance:
    """Mean and variance of each channel, the second dimension, over all others: ``[channels]`` each.

    Read once, by pieces that stay in the processor's cache. Sums are float32 within the map of one image, taken around
    the mean of the first one so that little cancels, and float64 over the images.
    """
    rows = _rows(x)
    near = rows[0].mean(axis=1)
    first, second, ones = np.zeros(rows.shape[1]), np.zeros(rows.shape[1]), np.ones(rows.shape[2], np.float32)
    for part in pieces(rows.shape):
        centred = rows[part] - near[part[1], None]
        first[part[1]] += (centred @ ones).sum(axis=0, dtype=np.float64)
        second[part[1]] += np.einsum("nci,nci->nc", centred, centred).sum(axis=0, dtype=np.float64)
    count = rows.shape[0] * rows.shape[2]
    first /= count
    return near + first, np.maximum(second / count - np.square(first), 0.0)


def pieces(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Of maps ``[images, channels, positions]``: runs of images and channels of about `CACHED_VALUES` values."""
    channels = max(1, CACHED_VALUES // max(shape[2], 1))
    images = max(1, CACHED_VALUES // max(shape[1] * shape[2], 1))
    for image in range(0, shape[0], images):
        for channel in range(0, shape[1], channels):
            yield slice(image, image + images), slice(channel, channel + channels)


def channel_mean(x: npt.NDArray[np.generic]) -> Float:
    """Mean of each channel, the second dimension, over all others: ``[channels]``, summed in float64 over the batch."""
    result: Float = _rows(x).mean(axis=2).mean(axis=0, dtype=np.float64)
    return result


def mean_shift(plain: npt.NDArray[np.generic], hat: npt.NDArray[np.generic]) -> Float:
    """By how much the mean of each channel falls short, ``[channels]``, as far as independent samples vouch for it.

    Positions of one map overlap in what they see, so the means of whole images count, or of long runs of positions
    where there are few images. plain, hat: ``[n, channels, ...]`` of one shape.
    """
    return shrunk_mean(run_means(plain) - run_means(hat))


def run_means(x: npt.NDArray[np.generic]) -> Float:
    """Means of the images, or of as many runs of their positions as make `ENOUGH_RUNS`: ``[runs, channels]``."""
    rows = _rows(x)
    images, channels, positions = rows.shape
    wanted = -(-ENOUGH_RUNS // max(images, 1))
    runs = max(min(wanted, positions // SHORTEST_RUN), 1)
    length = positions // runs
    means = rows[:, :, : runs * length].reshape(images, channels, runs, length).mean(axis=3)
    return np.asarray(means.transpose(0, 2, 1).reshape(-1, channels), np.float64)


def exact_moments(x: npt.NDArray[np.generic]) -> MeanVariance:
    """As `channel_moments`, in float64 throughout, for a few small maps; not finite where a value is not."""
    rows = np.moveaxis(np.asarray(x, np.float64), 1, 0).reshape(x.shape[1], -1)
    with np.errstate(over="ignore", invalid="ignore"):
        return rows.mean(axis=1), rows.var(axis=1)


def _rows(x: npt.NDArray[np.generic]) -> Float32:
    return np.asarray(x, np.float32).reshape(x.shape[0], x.shape[1], -1)
