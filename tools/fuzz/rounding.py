"""A network with its weights rounded to the nearest of 8 bits, and nothing else done: what a result is measured by.

Where the terms of a sum nearly cancel, an output is a small difference of large numbers. Every rounding of the weights
then leaves a noise that is large beside it, and no figure of its size says anything of the tool.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.inliner
from onnx import numpy_helper

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose constant weights are whole multiples of a 127th of the largest of their output channel.

    Layers that are calls of the model's own functions are rounded, too: `quantize` inlines them.
    """
    result = onnx.ModelProto()
    result.CopyFrom(onnx.inliner.inline_local_functions(model) if model.functions else model)
    held = {tensor.name: tensor for tensor in result.graph.initializer}
    for node in result.graph.node:
        if node.op_type in LAYERS and len(node.input) > 1 and node.input[1] in held:
            tensor = held[node.input[1]]
            weight = numpy_helper.to_array(tensor)
            if weight.ndim < 2 or not weight.size:
                continue
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            axis = 0 if node.op_type == "Conv" or transposed else 1
            others = tuple(index for index in range(weight.ndim) if index != axis)
            scale = np.maximum(np.abs(weight).max(axis=others, keepdims=True) / 127, np.finfo(np.float32).tiny)
            whole = (np.rint(weight / scale) * scale).astype(weight.dtype)
            tensor.CopyFrom(numpy_helper.from_array(whole, tensor.name))
    return result
