"""How far an interpolation goes beyond the values that it reads."""

from __future__ import annotations

import numpy as np

from dfmpc_onnx.numerics.arrays import Float

CUBIC_COEFFICIENT = -0.75  # of ONNX's Resize where it says nothing
MAP_AXES = 2


def cubic_overshoot(coefficient: float = CUBIC_COEFFICIENT, axes: int = MAP_AXES) -> float:
    """By what part of its input's range a cubic interpolation may leave that range, at either end.

    The four weights of Keys' kernel add up to 1, the outer two at a place t between two values to ``a t (1 - t)``, so
    that along one axis negative weights add up to ``n = |a| / 4`` at most. Their absolute values add up to ``1 + 2 n``,
    for a product over axes to ``(1 + 2 n)^axes``; half of what that exceeds 1 by is the weight of the wrong sign.

    Reference: Keys 1981, "Cubic convolution interpolation for digital image processing", section 3.
    """
    return ((1.0 + abs(coefficient) / 2.0) ** axes - 1.0) / 2.0


def overshot(
    low: Float, high: Float, coefficient: float = CUBIC_COEFFICIENT, axes: int = MAP_AXES
) -> tuple[Float, Float]:
    """The bounds of what a cubic interpolation makes of values within bounds: float64 of any shape, infinite too."""
    with np.errstate(invalid="ignore"):  # of bounds that are both infinite; those stay
        beyond = cubic_overshoot(coefficient, axes) * (np.asarray(high, np.float64) - np.asarray(low, np.float64))
    return low - beyond, high + beyond
