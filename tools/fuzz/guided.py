"""Networks guided by more than a picture: masks, styles, and bodies with weights of their own."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tools.fuzz.backbones import classify, image, stem
from tools.fuzz.builder import Builder


def masked(build: Builder) -> None:
    """A map of which a mask of flags keeps parts, by Where or by a product."""
    x = build.conv(stem(build, image(build), 8), 8)
    _, _, height, across = build.shapes[x]
    kind = build.rng.choice([TensorProto.BOOL, TensorProto.INT64, TensorProto.INT32])
    mask = build.input((1, height, across), kind)
    if kind == TensorProto.BOOL and build.chance(0.5):
        y = build.node("Where", [mask, x, build.constant(0.0, np.float32)], build.shapes[x])
    else:
        y = build.mul(x, build.node("Cast", [mask], build.shapes[mask], to=TensorProto.FLOAT))
    y = build.conv(y, 12)
    if build.chance(0.5):
        classify(build, y)
    else:
        build.output(build.conv(y, 2, 1, norm=False, act=None))


def styled(build: Builder) -> None:
    """A map whose channels a vector scales and shifts, after groups of them were normalized."""
    x = build.conv(image(build), 8, 3, 2)
    _, width, height, across = build.shapes[x]
    groups = build.rng.choice([1, 2, 8])
    y = build.reshape(x, [groups, width // groups * height * across])
    ones = build.held(np.ones(groups, np.float32), "scale")
    y = build.node("InstanceNormalization", [y, ones, build.held(np.zeros(groups, np.float32))], build.shapes[y])
    y = build.reshape(y, [width, height, across])
    style = build.reshape(build.linear(build.input((6,)), 3 * width), [3 * width, 1, 1])
    scale, shift, gate = build.split(style, [width] * 3)
    y = build.add(build.mul(y, build.act(scale, "Sigmoid")), shift)
    y = build.mul(build.conv(y, width, norm=False, act=None), build.act(gate, "Tanh"))
    build.output(build.conv(y, 3, norm=False, act=None))


def looped(build: Builder) -> None:
    """A layer run several times, its weight within the Loop, perhaps under the name of one outside."""
    x = build.conv(stem(build, image(build), 8), 8)
    outer = next(name for name in build.weights if build.weights[name].ndim == 4)
    weight = outer if build.chance(0.5) else "inner_weight"
    values = build.traits.weight(build.values, (8, 8, 3, 3), 72) / 4
    nodes = [
        helper.make_node("Conv", ["value", weight], ["made"], name="/looped", pads=[1] * 4, kernel_shape=[3, 3]),
        helper.make_node("Relu", ["made"], ["rest"]),
        helper.make_node("Add", ["value", "rest"], ["next"]),
        helper.make_node("Identity", ["go"], ["still"]),
    ]

    def stated(name: str, kind: int = TensorProto.FLOAT, shape: list[int] | None = None) -> object:
        return helper.make_tensor_value_info(name, kind, shape)

    inputs = [stated("turn", TensorProto.INT64, []), stated("go", TensorProto.BOOL, []), stated("value")]
    held = [numpy_helper.from_array(np.asarray(values, np.float32), weight)]
    body = helper.make_graph(nodes, "body", inputs, [stated("still", TensorProto.BOOL, []), stated("next")], held)
    y = build.node("Loop", [build.constant(build.rng.choice([1, 3])), "", x], build.shapes[x], body=body)
    classify(build, build.conv(y, 12))
