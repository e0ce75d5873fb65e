"""What kernels of onnxruntime's CPU provider take, roughly: enough to say where integers do not pay.

Nanoseconds on one thread of a processor with VNNI, fitted to profiles of onnxruntime 1.32 (ResNet-20, MobileNetV2, a
face detector). An integer Conv gathers its patches pixel by pixel and tap by tap, whatever the number of channels; so
with few channels, and depthwise, it takes longer than the float one in blocks of channels.
"""

from __future__ import annotations

import math

import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.operators import op_of

FLOAT_PRODUCTS = 100.0  # multiplications a nanosecond
FLOAT_DEPTHWISE = 40.0
INTEGER_PRODUCTS = 480.0
INTEGER_TAP = 1.2  # for each tap of each output pixel
INTEGER_VALUE = 0.024  # for each output value, to round it
DEPTHWISE_TAP = 0.65
DEPTHWISE_PRODUCT = 0.016
QUANTIZE = 0.3  # for each value, channels moved last
DEQUANTIZE = 0.4  # for each value, kept from fusion and channels moved into blocks
RESIZE_CODES = 0.8  # for each output value
RESIZE_FLOATS = 0.1


def conv_times(node: gs.Node, products: int) -> tuple[float, float]:
    """Nanoseconds of a Conv in integers and in float. products: its multiplications, over 0."""
    weight = [int(d) for d in node.inputs[1].shape]
    taps = math.prod(weight[2:])
    values = products / math.prod(weight[1:])
    pixels = values / weight[0]
    if int(node.attrs.get("group", 1)) == weight[0] and weight[1] == 1:
        return DEPTHWISE_TAP * taps * pixels + DEPTHWISE_PRODUCT * products, products / FLOAT_DEPTHWISE
    integer = INTEGER_TAP * taps * pixels + products / INTEGER_PRODUCTS + INTEGER_VALUE * values
    return integer, products / FLOAT_PRODUCTS


def between_times(node: gs.Node, values: int) -> tuple[float, float]:
    """Nanoseconds of an operator between layers in integers and in float. values: that it gives."""
    return (RESIZE_CODES * values, RESIZE_FLOATS * values) if op_of(node) == "Resize" else (0.0, 0.0)
