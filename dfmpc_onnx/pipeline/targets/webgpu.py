"""onnxruntime in a browser, and its WebGPU builds."""

from __future__ import annotations

import msgspec

from dfmpc_onnx.pipeline.target_rules import RuleSource, sources_with
from dfmpc_onnx.pipeline.targets.cpu import CPU

WEBGPU = msgspec.structs.replace(
    CPU,
    name="webgpu",
    summary="float activations, since the WebGPU provider has no integer Conv; packed weights",
    takes="onnxruntime in a browser, or its WebGPU build",
    ran="onnxruntime-webgpu 1.27 on Mesa's software Vulkan: less than 0.01 steps from the CPU provider; "
    "onnxruntime-ep-webgpu 0.4.0 with onnxruntime 1.32 there: the same numbers",
    not_run="on a GPU",
    sources=sources_with(
        CPU,
        RuleSource(
            ("activations",),
            "WebGPU operators (onnxruntime web): no QLinearConv among them",
            "https://github.com/microsoft/onnxruntime/blob/main/js/web/docs/webgpu-operators.md",
        ),
    ),
    activations="none",
    activation_bits=(8,),
    pairs_in_16_bits=False,
)
