"""Networks of the usual shapes with random weights, to time conversion and inference with: not to measure accuracy."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper


class Builder:
    """Adds layers to a graph one behind the other; tensors are known by name."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.count = 0

    def _name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def constant(self, values: np.ndarray, stem: str) -> str:
        name = self._name(stem)
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
        return name

    def op(self, kind: str, inputs: list[str], **attrs: object) -> str:
        name = self._name(kind.lower())
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}_out"], name, **attrs))
        return f"{name}_out"

    def conv(self, x: str, inputs: int, outputs: int, kernel: int, stride: int = 1, relu: bool = True) -> str:
        """Conv, BatchNormalization with statistics that fit it, and Relu."""
        fan = inputs * kernel * kernel
        weight = self.rng.standard_normal((outputs, inputs, kernel, kernel), np.float32) * np.float32((2 / fan) ** 0.5)
        pad = kernel // 2
        y = self.op(
            "Conv",
            [x, self.constant(weight, "weight")],
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[pad] * 4,
        )
        norm = [
            self.rng.uniform(0.5, 1.5, outputs),
            self.rng.normal(0, 0.3, outputs),
            self.rng.normal(0, 0.3, outputs),
            self.rng.uniform(0.5, 1.5, outputs),
        ]
        y = self.op("BatchNormalization", [y, *(self.constant(v, "norm") for v in norm)])
        return self.op("Relu", [y]) if relu else y

    def model(self, output: str, shape: tuple[int, ...], classes: int) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["N", *shape])],
            [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["N", classes])],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def resnet(depth: int = 50, width: float = 1.0, classes: int = 1000, seed: int = 0) -> onnx.ModelProto:
    """ResNet-18 or ResNet-50 on 224x224 (He et al. 2016, table 1); width scales the channels."""
    blocks = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth]
    b = Builder(seed)
    channels = int(64 * width)
    x = b.conv("input", 3, channels, 7, 2)
    x = b.op("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for stage, count in enumerate(blocks):
        inner = int(64 * width) * 2**stage
        outer = inner * (4 if depth == 50 else 1)
        for index in range(count):
            stride = 2 if stage and not index else 1
            shortcut = x
            if channels != outer or stride != 1:
                shortcut = b.conv(x, channels, outer, 1, stride, relu=False)
            if depth == 50:
                y = b.conv(x, channels, inner, 1)
                y = b.conv(y, inner, inner, 3, stride)
                y = b.conv(y, inner, outer, 1, relu=False)
            else:
                y = b.conv(x, channels, inner, 3, stride)
                y = b.conv(y, inner, inner, 3, relu=False)
            x = b.op("Relu", [b.op("Add", [y, shortcut])])
            channels = outer
    x = b.op("Flatten", [b.op("GlobalAveragePool", [x])], axis=1)
    weight = b.rng.standard_normal((classes, channels), np.float32) * np.float32(channels**-0.5)
    y = b.op("Gemm", [x, b.constant(weight, "fc"), b.constant(np.zeros(classes), "fc_bias")], transB=1)
    return b.model(y, (3, 224, 224), classes)
