"""Small networks with the outputs of detectors and readers, and pictures on which they find something."""

from __future__ import annotations

import numpy as np
import onnx

from tests.graphs import Net

BARS = 4


def page() -> np.ndarray:
    """White bars on black, 320x320: what `detector` finds."""
    tile = np.zeros((320, 320, 3), np.uint8)
    for bar in range(BARS):
        tile[20 + 70 * bar : 40 + 70 * bar, 30 : 200 + 20 * bar] = 255
    return tile


def detector() -> onnx.ModelProto:
    """A map of what is white, for pixels from -1 to 1."""
    net = Net(shape=(1, 3, 320, 320))
    light = net.relu(net.conv("x", 1, 1, weight=np.full((1, 3, 1, 1), 1 / 3)))
    steep = net.conv(light, 1, 1, weight=np.full((1, 1, 1, 1), 20.0))
    return net.model(net.node("Sigmoid", net.node("Sub", steep, net.weight("half", np.float32(10)))))


def reader(classes: int = 6) -> onnx.ModelProto:
    """Scores of 40 steps along lines of 48x320, ``[n, steps, classes]``."""
    net = Net(shape=(1, 3, 48, 320))
    x = net.block("x", 4)
    kernel = net.random.standard_normal((classes, 4, 48, 8)).astype(np.float32) / 20
    y = net.node("Conv", x, net.weight("steps.w", kernel), strides=[48, 8])
    y = net.node("Squeeze", y, net.weight("axis", np.array([2])))
    return net.model(net.node("Softmax", net.node("Transpose", y, perm=[0, 2, 1]), axis=2))


def faces() -> onnx.ModelProto:
    """The head of YOLOv8 with two classes, ``[n, 4 + 2, 100]``, for pixels from 0 to 1."""
    net = Net(shape=(1, 3, 320, 320))
    x = net.block("x", 4)
    kernel = np.abs(net.random.standard_normal((6, 4, 32, 32))).astype(np.float32) / 500
    y = net.node("Conv", x, net.weight("boxes.w", kernel), strides=[32, 32])
    return net.model(net.node("Reshape", y, net.weight("shape", np.array([0, 6, 100]))))
