"""What an output of a network loses: the share of its variance that is error."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

BLOCK = 2**22  # values that are compared at a time


@dataclasses.dataclass(frozen=True)
class OutputLoss:
    """share: of an output's variance that is lost, 0 to 1. vector: whether it is one, not a map or a list."""

    share: float
    vector: bool

    def weighed(self, stricter: float) -> float:
        """The share as a budget for vectors counts it. stricter: how many times stricter maps and lists are taken.

        They are used value by value, and of a vector the largest entry.
        """
        return self.share * (1 if self.vector else stricter)


def is_vector(shape: Sequence[int]) -> bool:
    """Whether an output ``[n, ...]`` is one vector an image: all but one dimension are 1, as of ``[n, classes, 1, 1]``.

    ``[n, 1, k]`` is a list of k, or of one thing; it is taken for a list.
    """
    inner = [d for d in shape[1:] if d != 1]
    return len(shape) <= 2 or ((len(shape) > 3 or shape[2] == 1) and len(inner) <= 1)


def lost_share(want: npt.NDArray[np.generic], got: npt.NDArray[np.generic]) -> float:
    """Squared error over variance of an output ``[n, ...]``, 0 to 1.

    Of maps and lists the mean over the channels, each at most 1: the second dimension, or the last where that one is
    the shorter and no other follows. Of vectors (`is_vector`) all values together: what differs between the
    classes is about what differs between pictures of things, while pictures of nothing in particular are hardly told
    apart.
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
    many = max(BLOCK // (want.size // want.shape[channel]), 1)
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
