"""Factors that give channels the same reach, as codes hold them: docs/method.md, section 7."""

from __future__ import annotations

import numpy as np

from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.ranges import LEVELS

WIDEST_SPREAD = 8.0  # times what a channel reaches: of its noise a 64th is left, and more would leave it no tail


def gate_codes(reach: Float) -> Float:
    """Whole 255ths k / 255 of the widest channel's reach that each channel's is enlarged to, rounded up.

    Times 255 / k no channel reaches further than the widest. reach: ``[channels]``, at least 0. Returns whole numbers
    of 255 / 8 to 255, ``[channels]`` float64; 255 for all where nothing reaches anywhere.
    """
    widest = float(np.max(reach, initial=0.0))
    if not widest > 0:
        return np.full(len(reach), float(LEVELS))
    codes: Float = np.ceil(LEVELS * np.maximum(reach / widest, 1.0 / WIDEST_SPREAD))
    return codes
