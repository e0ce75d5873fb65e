"""What each execution provider wants of a file: types, zero points, biases, opset."""

from __future__ import annotations

import dataclasses
from typing import Literal

from dfmpc_onnx.errors import OptionError, did_you_mean, printable

Activations = Literal["8", "none"]


@dataclasses.dataclass(frozen=True)
class Target:
    """One way to write a file.

    activations: their bits where nobody asks for others; "none" where the provider has no integer kernels for them.
    signed: activations are int8 with zero point 0, not uint8. int32_bias: at the scale of the products, which every
    version of the CPU provider fuses; else in float. pairs_in_16_bits: whether some of its processors add two products
    in 16 bits. between: whether operators between layers have integer kernels
    of their own, so that every tensor on the way is quantized; else only what layers read. newest_opset: whose types
    weights may be stored in. highest_opset: that the oldest of its runtimes loads.
    """

    name: str
    summary: str
    activations: Activations = "8"
    signed: bool = False
    int32_bias: bool = True
    between: bool = True
    pairs_in_16_bits: bool = False
    newest_opset: int = 25
    highest_opset: int = 26


TARGETS = {
    target.name: target
    for target in (
        Target(
            "cpu",
            "uint8 activations, int32 biases: what onnxruntime's CPU provider fuses to integer kernels",
            pairs_in_16_bits=True,
        ),
        Target(
            "tensorrt",
            "int8 activations with zero points 0, float biases; of a sum's branches only those that no Conv ends in",
            signed=True,
            int32_bias=False,
            between=False,
        ),
        Target("cuda", "float activations, since the CUDA provider has no integer Conv; packed weights", "none"),
        Target("openvino", "as for cpu"),
        Target("webgpu", "float activations, since the WebGPU provider has no integer Conv; packed weights", "none"),
        Target(
            "portable",
            "as for cpu, with weights decoded by operators of opset 13, for onnxruntime 1.16 and later",
            pairs_in_16_bits=True,
            newest_opset=13,
            highest_opset=19,
        ),
    )
}
CPU_TARGET = TARGETS["cpu"]


def parse_target(name: str) -> Target:
    """A target by its name, in any case; raises OptionError."""
    if name.lower() not in TARGETS:
        near = did_you_mean(name, TARGETS)
        raise OptionError(f"target '{printable(name)}': not known{near}; give one of {', '.join(TARGETS)}")
    return TARGETS[name.lower()]
