"""onnxruntime's CUDA provider."""

from __future__ import annotations

import msgspec

from dfmpc_onnx.pipeline.target_rules import RuleSource, sources_with
from dfmpc_onnx.pipeline.targets.cpu import CPU

CUDA = msgspec.structs.replace(
    CPU,
    name="cuda",
    summary="float activations, since the CUDA provider has no integer Conv; packed weights",
    takes="onnxruntime-gpu without TensorRT",
    ran="onnxruntime 1.32 on the CPU provider, which folds the weights to float at load",
    not_run="on a GPU",
    sources=sources_with(
        CPU,
        RuleSource(
            ("activations",),
            "Operator kernels (onnxruntime): no QLinearConv and no QGemm for CUDA",
            "https://github.com/microsoft/onnxruntime/blob/main/docs/OperatorKernels.md",
        ),
    ),
    activations="none",
    activation_bits=(8,),
    pairs_in_16_bits=False,
)
