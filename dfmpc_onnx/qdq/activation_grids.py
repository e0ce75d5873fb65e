"""Scale and zero point of an activation as a target wants them, from its range."""

from __future__ import annotations

import functools
from collections.abc import Callable

from dfmpc_onnx.numerics.ranges import QParams, power_of_two_qparams, signed_qparams, unsigned_qparams
from dfmpc_onnx.pipeline.settings import Settings


def activation_qparams(settings: Settings) -> Callable[[float, float], QParams]:
    """What makes scale and zero point of the least and greatest value of a tensor."""
    if settings.target.scales == "power-of-two":
        return power_of_two_qparams
    if settings.target.signed:
        return signed_qparams
    return functools.partial(unsigned_qparams, bits=settings.activation_bits)
