"""One factor a channel, so that each uses the whole of a range that all share."""

from __future__ import annotations

import numpy as np

from dfmpc_onnx.numerics.arrays import Float

LARGEST_FACTOR = 1024.0  # what is a thousand times smaller than its neighbours is as good as constant


def spreading_factors(
    beta: Float, gamma: Float, low: float, high: float, peak: float, deviations: float, largest: float = LARGEST_FACTOR
) -> Float:
    """Factors t >= 1 by which channels ``min(max(u, low), high)``, u of N(beta, gamma^2), still lie within +-peak.

    ``t_c = peak / max(|a_c|, |b_c|)`` with a_c and b_c the image of ``beta_c -+ deviations |gamma_c|``, at most
    `largest`; 1 where that image is 0 alone. beta, gamma: ``[channels]`` float64; the bounds may be infinite.
    """
    reach = deviations * np.abs(gamma)
    ends = np.clip(np.stack([beta - reach, beta + reach]), low, high)
    own = np.abs(ends).max(axis=0)
    live = own > 0
    factors: Float = np.ones_like(own)
    factors[live] = np.clip(peak / np.maximum(own[live], peak / largest), 1.0, largest)
    return factors
