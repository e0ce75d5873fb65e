"""How sure a share is that was counted on few samples."""

from __future__ import annotations

import math

import numpy as np

INTERVAL_TAIL = 0.025  # of the probability, beyond each end of an interval of 95 %
HALVINGS = 60  # of an interval of length 1: its end is then known to the last digit


def exact_interval(hits: int, count: int) -> tuple[float, float]:
    """The interval that holds the true share, 0 to 1, of which `hits` of `count` samples were counted.

    It does so at least 95 times in 100, whatever the share.

    Clopper and Pearson, Biometrika 26, 1934. Wilson's is narrower, and right on average over all shares; near 1, where
    networks agree, it holds as few as 80 times in 100 with 32 samples.
    """
    if count <= 0:
        return 0.0, 1.0
    return _lower(hits, count), 1.0 - _lower(count - hits, count)


def samples_for(share: float) -> int:
    """How many samples, all of them hits, put the lower end of the interval at `share`, 0 to 1."""
    return math.ceil(math.log(INTERVAL_TAIL) / math.log(share)) if share < 1 else 2**31


def _lower(hits: int, count: int) -> float:
    """The share at which so many hits, or more, have the probability `INTERVAL_TAIL`."""
    if hits <= 0:
        return 0.0
    k = np.arange(1, count + 1)
    ways = np.concatenate(([0.0], np.cumsum(np.log((count - k + 1) / k))))[hits:]  # logarithms of binomials
    low, high, more = 0.0, 1.0, np.arange(hits, count + 1)
    for _ in range(HALVINGS):
        share = (low + high) / 2
        logs = ways + more * math.log(share) + (count - more) * math.log1p(-share)
        if np.exp(logs).sum() < INTERVAL_TAIL:
            low = share
        else:
            high = share
        if high - low < math.ulp(high):
            break
    return low
