import math

import numpy as np
import pytest

from dfmpc_onnx.numerics.spreading import LARGEST_FACTOR, spreading_factors

BETA = np.array([0.0, 2.0, -1.0, 0.5, -9.0, 1e-9, 3.0])
GAMMA = np.array([1.0, -0.5, 0.5, 0.0, 1.0, 0.0, -2.0])
BOUNDS = [(0.0, math.inf), (0.0, 6.0), (-math.inf, math.inf)]


def slow(beta, gamma, low, high, peak, deviations):
    """Channel by channel: what reaches furthest from 0 comes to lie on the peak."""
    factors = []
    for b, g in zip(beta, gamma, strict=True):
        furthest = 0.0
        for end in (b - deviations * abs(g), b + deviations * abs(g)):
            furthest = max(furthest, abs(min(max(end, low), high)))
        factors.append(min(max(peak / furthest, 1.0), LARGEST_FACTOR) if furthest else 1.0)
    return factors


@pytest.mark.parametrize(("low", "high"), BOUNDS)
def test_factors_are_those_of_the_definition(low, high):
    fast = spreading_factors(BETA, GAMMA, low, high, 6.0, 6.0)
    np.testing.assert_allclose(fast, slow(BETA, GAMMA, low, high, 6.0, 6.0), rtol=1e-12)


@pytest.mark.parametrize(("low", "high"), BOUNDS)
def test_no_channel_leaves_the_range_that_it_kept_before(low, high):
    peak = 15.0
    factors = spreading_factors(BETA, GAMMA, low, high, peak, 6.0)
    u = BETA + GAMMA * np.linspace(-6, 6, 101)[:, None]
    assert (factors >= 1).all()
    assert (np.abs(factors * np.clip(u, low, high)) <= peak * (1 + 1e-12)).all()


def test_a_channel_that_is_never_above_0_or_that_reaches_beyond_keeps_its_scale():
    assert spreading_factors(np.array([-9.0, 5.0]), np.array([1.0, 1.0]), 0.0, math.inf, 6.0, 6.0).tolist() == [
        1.0,
        1.0,
    ]
