"""Scale and zero point of an activation as a target wants them, from its range."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dfmpc_onnx.numerics.ranges import power_of_two_qparams, signed_qparams, unsigned_qparams
from dfmpc_onnx.pipeline.target_rules import Target

QParams = tuple[np.float32, np.uint8 | np.int8]  # scale and zero point


def activation_qparams(target: Target) -> Callable[[float, float], QParams]:
    """What makes scale and zero point of the least and greatest value of a tensor."""
    if target.scales == "power-of-two":
        return power_of_two_qparams
    return signed_qparams if target.signed else unsigned_qparams
