"""OpenVINO, as an execution provider of onnxruntime."""

from __future__ import annotations

import msgspec

from dfmpc_onnx.pipeline.targets.cpu import CPU

OPENVINO = msgspec.structs.replace(
    CPU,
    name="openvino",
    summary="as for cpu",
    takes="onnxruntime-openvino",
    ran="onnxruntime-openvino 1.24.1 on the processor: one subgraph, at most 5.3 steps from the CPU provider",
    not_run="on a GPU or an NPU of Intel; by the plug-in onnxruntime-ep-openvino 1.8.1, which registers with "
    "onnxruntime 1.32 and finds no device on a processor of AMD",
    pairs_in_16_bits=False,
    activation_bits=(8,),
)
