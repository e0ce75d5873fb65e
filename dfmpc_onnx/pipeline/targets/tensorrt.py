"""TensorRT, alone or as an execution provider of onnxruntime, and TensorRT for RTX."""

from __future__ import annotations

import msgspec

from dfmpc_onnx.pipeline.target_rules import RuleSource, sources_with
from dfmpc_onnx.pipeline.targets.cpu import CPU

TENSORRT_DOCS = "https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library"
TENSORRT = msgspec.structs.replace(
    CPU,
    name="tensorrt",
    summary="int8 activations with zero points 0, all else float16; of a sum those branches that no Conv ends",
    takes="TensorRT, onnxruntime-gpu with it, onnxruntime-ep-nv-tensorrt-rtx",
    ran="onnxruntime 1.32 on the CPU provider",
    not_run="on a GPU",
    sources=sources_with(
        CPU,
        RuleSource(
            ("activation_type", "activation_bits", "scales"),
            "Working with Quantized Types (TensorRT): symmetric int8, zero points 0; int4 for weights alone",
            f"{TENSORRT_DOCS}/work-with-quantized-types.html",
        ),
        RuleSource(
            ("activations", "between", "per_channel", "storage"),
            "Explicit Quantization (TensorRT): Q/DQ in front of weighted layers, moved over what commutes with it",
            f"{TENSORRT_DOCS}/quantized-types-explicit-quantization.html",
        ),
        RuleSource(
            ("float_type", "lowest_opset"),
            "Migrating from Weak Typing to Strong Typing (TensorRT 11): the types in the file are those that compute",
            "https://docs.nvidia.com/deeplearning/tensorrt/latest/api/migration/tensorrt-10x-to-11x-c-api-patterns.html",
        ),
        RuleSource(
            ("float_operators", "spatial_dimensions"),
            "Supported ONNX operators (onnx-tensorrt): int8 Conv and ConvTranspose of two and three dimensions",
            "https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md",
        ),
        RuleSource(
            ("fused_sums",),
            "Add Custom QDQ Insertion Case (TensorFlow quantization toolkit): the residual branch of an Add",
            "https://docs.nvidia.com/deeplearning/tensorrt/tensorflow-quantization-toolkit/docs/docs/"
            "add_custom_qdq_cases.html",
        ),
        RuleSource(
            ("bias",),
            "onnxruntime issue 14229: TensorRT refuses a DequantizeLinear of int32",
            "https://github.com/microsoft/onnxruntime/issues/14229",
        ),
    ),
    activation_type="int8",
    activation_bits=(8,),
    pairs_in_16_bits=False,
    float_type="float16",
    bias="float",
    between=False,
    fused_sums=True,
    float_operators=(),
    spatial_dimensions=(2, 3),
)
