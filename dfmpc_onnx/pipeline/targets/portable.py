"""Older runtimes on a processor."""

from __future__ import annotations

import msgspec

from dfmpc_onnx.pipeline.target_rules import RuleSource, sources_with
from dfmpc_onnx.pipeline.targets.cpu import CPU

PORTABLE = msgspec.structs.replace(
    CPU,
    name="portable",
    summary="as for cpu, with weights decoded by operators of opset 13, for onnxruntime 1.16 and later",
    takes="older onnxruntime, from 1.16 on",
    ran="onnxruntime 1.16.3, 1.20.1 and 1.31: the same numbers; 1.32",
    sources=sources_with(
        CPU,
        RuleSource(
            ("newest_opset", "highest_opset"),
            "Compatibility (onnxruntime): opset and IR version by release; 1.16 loads opset 19",
            "https://onnxruntime.ai/docs/reference/compatibility.html",
        ),
    ),
    activation_bits=(8,),
    newest_opset=13,
    highest_opset=19,
)
