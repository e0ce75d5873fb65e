"""Reading a quantized file back, with onnx and numpy alone: what its weights are stored as, and what they hold."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import onnx
from onnx import numpy_helper

DECODING = {"Cast", "Sub", "Add", "Mul", "DequantizeLinear"}
WIDTHS = {onnx.TensorProto.INT2: 2, onnx.TensorProto.INT4: 4, onnx.TensorProto.INT8: 8}


@dataclasses.dataclass(frozen=True)
class StoredWeight:
    """One layer's codes. width: bits of the stored type; bytes: what the file spends on them."""

    codes: np.ndarray
    width: int
    bytes: int


def stored_weights(path: pathlib.Path) -> dict[str, StoredWeight]:
    """The codes of every layer with a weight, found by walking from the layer back through what decodes it."""
    graph = onnx.load(path).graph
    makers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        name = node.input[1]
        while name in makers and makers[name].op_type in DECODING:
            name = makers[name].input[0]
        tensor = constants[name]
        assert tensor.data_type in WIDTHS, f"{node.name}: stored as {onnx.TensorProto.DataType.Name(tensor.data_type)}"
        codes = numpy_helper.to_array(tensor).astype(np.int64)
        found[node.name] = StoredWeight(codes, WIDTHS[tensor.data_type], len(tensor.raw_data))
    return found


def top1(path: pathlib.Path, images: pathlib.Path) -> float:
    """Per cent of an .npz of 8-bit images that a network classifies rightly, normalized as for ImageNet."""
    import onnxruntime

    data = np.load(images)
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    x = ((data["x"].astype(np.float32) / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    batches = (np.ascontiguousarray(x[i : i + 50]) for i in range(0, len(x), 50))
    scores = np.concatenate([session.run(None, {name: batch})[0] for batch in batches])
    return round(100 * float((scores.argmax(1) == data["y"]).mean()), 2)
