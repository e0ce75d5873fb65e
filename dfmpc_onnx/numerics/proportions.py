"""How sure a share is that was counted on few samples."""

from __future__ import annotations

import math

Z95 = 1.959964  # standard deviations that hold 95 % of a normal distribution


def wilson_interval(hits: int, count: int, z: float = Z95) -> tuple[float, float]:
    """The interval that holds the true share, 0 to 1, of which `hits` of `count` samples were counted.

    Wilson, Journal of the American Statistical Association 22, 1927; honest for few samples and shares near 1.
    """
    if count <= 0:
        return 0.0, 1.0
    share, spread = hits / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def samples_for(share: float, z: float = Z95) -> int:
    """How many samples, all of them hits, put the lower end of the interval at `share`, 0 to 1."""
    return math.ceil(share * z * z / (1 - share)) if share < 1 else 2**31
