"""What an output of a network loses: the share of its variance that is error.

Of a vector, as the logits of a classifier, there are two answers, and they differ much: most of what logits vary by
lies between the classes and is the same for every picture. Procedural images are told apart far less than
photographs are, so what lies between images is small in them and its share of error is large.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

VALUES_AT_ONCE = 2**22  # values that are compared at a time


@dataclasses.dataclass(frozen=True)
class OutputLoss:
    """Shares of an output's variance that are error, 0 to 1.

    share_of_variance: of a vector all values together, those of the classes and those of the images. It is what rounded
    activations may cost: what differs between the classes is about what differs between
    pictures of things.
    share_between_images: the same error as a share of what the images alone differ by, so never less. It is what errors
    of weights may cost: at 1 the error is as large as what tells the images apart.
    Of maps and lists, and of a single image, both are the same.
    vector: whether the output is one, not a map or a list.
    """

    share_of_variance: float
    share_between_images: float
    vector: bool

    def strictness(self, of_maps: float) -> float:
        """What a share is multiplied by before a budget for vectors is held against it.

        of_maps: how many times stricter maps and lists are taken. They are used value by value, and of a vector the
        largest entry.
        """
        return 1.0 if self.vector else of_maps


def is_vector(shape: Sequence[int]) -> bool:
    """Whether an output ``[n, ...]`` is one vector an image: all but one dimension are 1, as of ``[n, classes, 1, 1]``.

    ``[n, 1, k]`` is a list of k, or of one thing; it is taken for a list.
    """
    inner = [d for d in shape[1:] if d != 1]
    return len(shape) <= 2 or ((len(shape) > 3 or shape[2] == 1) and len(inner) <= 1)


def output_loss(plain: npt.NDArray[np.generic], hat: npt.NDArray[np.generic]) -> OutputLoss:
    """What an output ``[n, ...]`` of finite numbers loses where it becomes `hat`, of the same shape."""
    vector = is_vector(plain.shape)
    if plain is hat:
        return OutputLoss(0.0, 0.0, vector)
    share = _share_of_variance(plain, hat)
    several = vector and plain.ndim >= 2 and len(plain) >= 2
    return OutputLoss(share, _share_between(plain, hat) if several else share, vector)


def _share_between(plain: npt.NDArray[np.generic], hat: npt.NDArray[np.generic]) -> float:
    """Squared error over the variance between images, both summed over the entries of a vector; 0 to 1."""
    if not plain.size:
        return 0.0
    want = np.asarray(plain, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is lost
        square = np.nan_to_num(np.square(np.asarray(hat, np.float64) - want), nan=np.inf)
        error = float(square.mean(axis=0).sum())
    variance = float(want.var(axis=0).sum())
    return min(error / variance, 1.0) if variance > 1e-12 * float(np.square(want).mean()) else 0.0


def _share_of_variance(want: npt.NDArray[np.generic], got: npt.NDArray[np.generic]) -> float:
    """Squared error over variance of an output ``[n, ...]``, 0 to 1.

    Of maps and lists the mean over the channels, each at most 1: the second dimension, or the last where that one is
    the shorter and no other follows. Of vectors (`is_vector`) all values together.
    """
    if not want.size:
        return 0.0
    channel = 0
    if not is_vector(want.shape):
        channel = 2 if want.ndim == 3 and want.shape[2] < want.shape[1] else 1
    else:
        want, got = want.reshape(1, -1), got.reshape(1, -1)
    axes = tuple(axis for axis in range(want.ndim) if axis != channel)
    # Some channels at a time: in double precision, with their difference and its square, large outputs would swell.
    many = max(VALUES_AT_ONCE // (want.size // want.shape[channel]), 1)
    variances, errors = [], []
    for start in range(0, want.shape[channel], many):
        part = (slice(None),) * channel + (slice(start, start + many),)
        x = want[part].astype(np.float64)
        variances.append(x.var(axis=axes))
        with np.errstate(over="ignore", invalid="ignore"):
            errors.append(np.nan_to_num(np.square(got[part].astype(np.float64) - x).mean(axis=axes), nan=np.inf))
    variance, error = np.concatenate(variances), np.concatenate(errors)
    live = variance > 1e-12 * max(float(variance.max(initial=0.0)), 1e-300)
    if not live.any():
        return 0.0
    return float(np.minimum(error[live] / variance[live], 1.0).mean())
