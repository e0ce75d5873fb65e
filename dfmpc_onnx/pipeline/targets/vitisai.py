"""AMD's NPUs and adaptable SoCs, by the Vitis AI execution provider of onnxruntime."""

from __future__ import annotations

import msgspec

from dfmpc_onnx.pipeline.target_rules import RuleSource, sources_with
from dfmpc_onnx.pipeline.targets.cpu import CPU

VITISAI = msgspec.structs.replace(
    CPU,
    name="vitisai",
    summary="int8 weights, activations and biases, one scale a tensor, which is a power of two",
    takes="the Vitis AI execution provider (Ryzen AI, Versal, Zynq)",
    ran="onnxruntime 1.32 on the CPU provider",
    not_run="by the Vitis AI provider, nor on an NPU",
    sources=sources_with(
        CPU,
        RuleSource(
            ("activation_type", "activation_bits", "scales"),
            "Vitis (MQBench): 8 bits, one symmetric scale a tensor, powers of two, for weights, biases and activations",
            "https://mqbench.readthedocs.io/en/latest/user_guide/hardware/vitis.html",
        ),
        RuleSource(
            ("per_channel", "bias"),
            "Full List of Quantization Configuration Features (AMD Quark): no scale a channel on NPUs; for CNNs there "
            "biases have the type of weights unless Int32Bias is set",
            "https://github.com/amd/quark-documentation/blob/3b5f64f48d5e99ede8151bc0ac3405c2fd5217ff/docs/onnx/"
            "appendix_full_quant_config_features.rst",
        ),
        RuleSource(
            ("lowest_opset", "newest_opset", "highest_opset"),
            "Model Compilation and Deployment (Ryzen AI 1.4): opset 17 is recommended",
            "https://ryzenai.docs.amd.com/en/1.4/modelrun.html",
        ),
        RuleSource(
            ("all_quantized", "may_leave_device", "storage"),
            "Model Compilation and Deployment (Ryzen AI 1.4): subgraphs that the NPU does not support run on the CPU",
            "https://ryzenai.docs.amd.com/en/1.4/modelrun.html",
        ),
    ),
    activation_type="int8",
    activation_bits=(8,),
    scales="power-of-two",
    pairs_in_16_bits=False,
    per_channel=(),
    bias="int8",
    all_quantized=True,
    may_leave_device=True,
    storage="int8",
    lowest_opset=17,
    newest_opset=17,
    highest_opset=17,
)
