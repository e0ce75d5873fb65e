"""Qualcomm's Hexagon NPU (HTP), by onnxruntime's QNN provider."""

from __future__ import annotations

import msgspec

from dfmpc_onnx.pipeline.target_rules import RuleSource, sources_with
from dfmpc_onnx.pipeline.targets.cpu import CPU

HTP = "https://docs.qualcomm.com/bundle/publicresource/topics/80-63442-50/HtpOpDefSupplement.html"
QNN_PROVIDER = "https://onnxruntime.ai/docs/execution-providers/QNN-ExecutionProvider.html"
# Those that the provider has a builder for.
OPERATORS = """
Abs Add And ArgMax ArgMin Asin Atan AveragePool BatchNormalization Cast Ceil Clip Concat Conv ConvTranspose Cos
CumSum DepthToSpace DequantizeLinear Div Einsum Elu Equal Exp Expand Flatten Floor Gather GatherElements
GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization GRU
HardSigmoid HardSwish Identity If InstanceNormalization IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log
LogSoftmax LpNormalization LRN LSTM MatMul Max MaxPool Mean Min Mod Mul Neg NonZero Not Or Pad Pow PRelu
QuantizeLinear Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape Resize
RMSNormalization RoiAlign RotaryEmbedding Round ScatterElements ScatterND Selu Sigmoid Sign Sin Slice Softmax
Softplus SpaceToDepth Split Sqrt Squeeze STFT Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Unsqueeze
Upsample Where Xor
"""
QNN = msgspec.structs.replace(
    CPU,
    name="qnn",
    summary="uint8 activations around every operator, uint16 where 8 bits cost too much; every dimension known",
    takes="a Hexagon NPU, by onnxruntime-qnn",
    ran="onnxruntime-qnn 2.7.0 with onnxruntime 1.32 on x86-64, which compiles every network of models/ to one context",
    not_run="on a device",
    sources=sources_with(
        CPU,
        RuleSource(
            ("activation_bits", "float_operators", "spatial_dimensions"),
            "HTP backend operator definition supplement (Qualcomm): types by operator",
            HTP,
        ),
        RuleSource(
            ("activations",),
            "Support mixed-precision integer quantization via overrides (onnxruntime): regions of uint8 and of uint16, "
            "and a DequantizeLinear to a QuantizeLinear between them",
            "https://github.com/microsoft/onnxruntime/pull/19925",
        ),
        RuleSource(
            ("per_channel",),
            "measured: onnxruntime-qnn 2.7.0 compiles a Gemm with a scale a channel for v68, v73 and v79, where its "
            "output is quantized; get_qnn_qdq_config (onnxruntime) has one scale for a MatMul",
        ),
        RuleSource(
            ("operators",),
            "op_builder_factory.cc (onnxruntime-qnn)",
            "https://github.com/onnxruntime/onnxruntime-qnn/blob/main/onnxruntime/core/providers/qnn/builder/"
            "op_builder_factory.cc",
        ),
        RuleSource(
            ("fixed_scales",),
            "get_qnn_qdq_config (onnxruntime): 1 / 65536 behind a Sigmoid of 16 bits, 1 / 32768 around 0 behind a Tanh",
            "https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/python/tools/quantization/"
            "execution_providers/qnn/quant_config.py",
        ),
        RuleSource(
            ("all_quantized", "may_leave_device", "every_operator", "static_shapes"),
            "QNN execution provider (onnxruntime): a quantized model with fixed shapes for the HTP backend",
            QNN_PROVIDER,
        ),
    ),
    activations="auto",
    activation_bits=(8, 16),
    pairs_in_16_bits=False,
    per_channel=("Conv", "ConvTranspose", "Gemm"),
    float_operators=(),
    spatial_dimensions=(1, 2, 3),
    all_quantized=True,
    may_leave_device=True,
    every_operator=True,
    fixed_scales=("Sigmoid", "Tanh"),
    operators=tuple(OPERATORS.split()),
    static_shapes=True,
)
