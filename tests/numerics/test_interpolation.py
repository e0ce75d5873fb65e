"""How far a cubic interpolation goes beyond what it reads, against its kernel written out."""

import numpy as np
import pytest

from dfmpc_onnx.numerics.interpolation import cubic_overshoot, overshot


def keys(t, a):
    """The four weights of Keys' kernel at a place t between the two middle values."""

    def inner(d):
        return (a + 2) * d**3 - (a + 3) * d**2 + 1

    def outer(d):
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a

    return np.array([outer(1 + t), inner(t), inner(1 - t), outer(2 - t)])


@pytest.mark.parametrize("coefficient", [-0.75, -0.5])
@pytest.mark.parametrize("axes", [1, 2])
def test_the_bound_is_what_the_kernel_reaches_at_worst(coefficient, axes):
    worst = 0.0
    for t in np.linspace(0, 1, 101):
        weights = keys(t, coefficient)
        weights = weights if axes == 1 else np.outer(weights, weights)
        assert weights.sum() == pytest.approx(1)
        worst = max(worst, -weights[weights < 0].sum())
    assert cubic_overshoot(coefficient, axes) == pytest.approx(worst)


def test_bounds_move_by_their_distance_and_stay_open():
    low, high = overshot(np.array([0.0, 0.0, -np.inf]), np.array([1.0, np.inf, np.inf]), axes=1)
    assert low.tolist() == [-0.1875, -np.inf, -np.inf] and high.tolist() == [1.1875, np.inf, np.inf]
