"""onnxruntime's CPU provider."""

from __future__ import annotations

from dfmpc_onnx.pipeline.target_rules import RULES, RuleSource, Target

FUSION = RuleSource(
    ("activations", "activation_type", "between", "fused_sums", "float_operators", "bias"),
    "Quantize ONNX models (onnxruntime): U8S8 on x86, and the QDQ patterns that its CPU provider fuses",
    "https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html",
)
KERNELS = RuleSource(
    ("pairs_in_16_bits",),
    "MLAS (onnxruntime), kernels for AVX2: vpmaddubsw adds two products in 16 bits and cuts what does not fit",
    "https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/mlas/lib/amd64/QgemmU8X8KernelAvx2.asm",
)
MEASURED = RuleSource(
    tuple(rule for rule in RULES if rule not in (*FUSION.rules, *KERNELS.rules)),
    "measured: kernels that onnxruntime 1.16 to 1.32 chooses on x86-64, and what they load",
)
CPU = Target(
    name="cpu",
    summary="uint8 activations, int32 biases: what onnxruntime's CPU provider fuses to integer kernels",
    takes="onnxruntime 1.24 or newer on a processor",
    ran="onnxruntime 1.31 and 1.32 on x86-64 with VNNI; 1.32 with AVX2 alone, emulated: the same numbers",
    sources=(FUSION, KERNELS, MEASURED),
    activation_bits=(4, 8),
    pairs_in_16_bits=True,
)
