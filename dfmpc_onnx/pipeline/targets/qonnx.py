"""QONNX, which FINN and hls4ml turn into circuits of FPGAs."""

from __future__ import annotations

import msgspec

from dfmpc_onnx.pipeline.target_rules import RuleSource, sources_with
from dfmpc_onnx.pipeline.targets.cpu import CPU

QONNX = msgspec.structs.replace(
    CPU,
    name="qonnx",
    summary="Quant and BipolarQuant nodes of QONNX: weights of 2 to 8 bits, zero points 0, float biases",
    takes="FINN, hls4ml and other readers of QONNX",
    ran="the executor of qonnx 1.0.0: all that is rounded is the same, bit for bit",
    not_run="through FINN, nor on an FPGA; hls4ml 1.3.0 reads every node of a small file, and then does not convert "
    "it: it moves a scale a channel behind a Conv without bias alone",
    sources=sources_with(
        CPU,
        RuleSource(
            ("quantizers", "activation_type", "activations", "between", "bias", "float_operators"),
            "Quant and BipolarQuant (QONNX): values are rounded and stay in float; any bits, scale and zero point",
            "https://github.com/fastmachinelearning/qonnx/tree/main/docs/qonnx-custom-ops",
        ),
        RuleSource(
            ("weight_zero_points",),
            "IntQuant of qonnx 1.0.0: types of tensors are inferred for zero points 0 alone",
            "https://github.com/fastmachinelearning/qonnx/blob/main/src/qonnx/custom_op/general/intquant.py",
        ),
    ),
    activation_type="int8",
    activation_bits=(2, 3, 4, 5, 6, 7, 8),
    bias="float",
    pairs_in_16_bits=False,
    between=False,
    float_operators=(),
    spatial_dimensions=(1, 2, 3),
    weight_zero_points=False,
    quantizers="qonnx",
    newest_opset=13,
)
