"""Whole classifiers and maps, small: residual, dense, inverted, shuffled, modern convolutions, pyramids, U-Nets."""

from __future__ import annotations

import numpy as np

from tools.fuzz.builder import Builder


def image(build: Builder) -> str:
    """A picture, its channels in front or behind, perhaps in bytes or normalized within the graph."""
    side = build.rng.choice([8, 12, 16, 16, 24])
    channels = build.rng.choice([3, 3, 3, 1, 4])
    if build.chance(0.1):
        return build.transpose(build.input((side, side, channels)), [0, 3, 1, 2])
    x = build.input((channels, side, side))
    if build.chance(0.1):
        mean = build.held(build.values.uniform(0.3, 0.6, (1, channels, 1, 1)).astype(np.float32), "mean")
        x = build.node("Sub", [x, mean], build.shapes[x])
        x = build.node("Div", [x, build.constant(0.25, np.float32)], build.shapes[x])
    return x


def stem(build: Builder, x: str, out: int) -> str:
    return build.conv(x, out, build.rng.choice([3, 3, 4 if build.chance(0.3) else 5, 7]), build.rng.choice([1, 2]))


def classify(build: Builder, x: str) -> None:
    """Pool, one or two layers, perhaps a Softmax."""
    y = build.flatten(build.pooled(x))
    if build.chance(0.2):
        y = build.act(build.linear(y, 16), "Relu")
    y = build.linear(y, build.rng.choice([2, 5, 10]))
    build.output(build.softmax(y) if build.chance(0.3) else y)


def residual(build: Builder, x: str, out: int, stride: int = 1) -> str:
    """A basic block or a bottleneck."""
    if build.chance(0.5):
        y = build.conv(build.conv(x, out, 3, stride), out, 3, act=None)
    else:
        y = build.conv(build.conv(build.conv(x, max(out // 2, 2), 1), max(out // 2, 2), 3, stride), out, 1, act=None)
    shortcut = x
    if build.shapes[x] != build.shapes[y]:
        shortcut = build.conv(x, out, 1, stride, act=None)
    return build.act(build.add(y, shortcut))


def resnet(build: Builder) -> None:
    x = stem(build, image(build), 8)
    for out, stride in ((8, 1), (12, 2), (16, 1))[: build.rng.choice([2, 3])]:
        x = residual(build, x, out, stride)
    classify(build, x)


def densenet(build: Builder) -> None:
    """Normalizations in front of layers: what reads the concatenated maps."""
    x = stem(build, image(build), 8)
    for _ in range(2):
        for _ in range(build.rng.choice([2, 3])):
            y = build.act(build.norm(x))
            x = build.concat([x, build.conv(y, 4, 3, norm=False, act=None)])
        x = build.conv(build.act(build.norm(x)), 8, 1, norm=False, act=None)
        if build.shapes[x][2] > 3:
            x = build.pool(x, "AveragePool")
    classify(build, build.act(build.norm(x)))


def convnext(build: Builder) -> None:
    """Depthwise 7x7, LayerNormalization with channels last, Gelu, layer scale, residual."""
    x = build.conv(image(build), 8, 4, 2, norm=False, act=None)
    for _ in range(build.rng.choice([1, 2, 3])):
        width = build.shapes[x][1]
        y = build.transpose(build.conv(x, width, 7, 1, width, norm=False, act=None), [0, 2, 3, 1])
        y = build.linear(build.act(build.linear(build.layer_norm(y), 3 * width), "Gelu"), width)
        if build.chance(0.7):
            size = build.rng.choice([1e-6, 1e-2, 0.3])
            y = build.mul(y, build.held(build.values.normal(size, size / 3, width), "layer_scale"))
        x = build.add(x, build.transpose(y, [0, 3, 1, 2]))
    y = build.layer_norm(build.flatten(build.pooled(x)))
    build.output(build.linear(y, 5))


def excited(build: Builder, x: str) -> str:
    """Squeeze-and-excitation: by Convs on a map of one pixel, or by matrices."""
    _, width, *_ = build.shapes[x]
    gate = build.rng.choice(["Sigmoid", "HardSigmoid"])
    y, few = build.pooled(x), max(width // 4, 2)
    if build.chance(0.7):
        y = build.conv(
            build.conv(y, few, 1, norm=False, act=build.rng.choice(["Relu", "SiLU"])), width, 1, norm=False, act=None
        )
        return build.mul(x, build.act(y, gate))
    y = build.act(build.linear(build.act(build.linear(build.flatten(y), few), "Relu"), width), gate)
    return build.mul(x, build.reshape(y, [width, 1, 1]))


def inverted(build: Builder) -> None:
    """MobileNet and EfficientNet: widen, depthwise, squeeze and excite, narrow without an activation."""
    x = stem(build, image(build), 8)
    for _ in range(build.rng.choice([2, 3, 4])):
        width = build.shapes[x][1]
        out, stride, wide = (
            build.rng.choice([width, 8, 12]),
            build.rng.choice([1, 1, 2]),
            width * build.rng.choice([2, 4]),
        )
        y = build.conv(build.conv(x, wide, 1), wide, build.rng.choice([3, 5]), stride, wide)
        if build.chance(0.5):
            y = excited(build, y)
        y = build.conv(y, out, 1, act=None)
        x = build.add(x, y) if build.shapes[x] == build.shapes[y] else y
    classify(build, build.conv(x, 24, 1))


def shuffle(build: Builder) -> None:
    """ShuffleNet: half of the channels go through, then both halves are interleaved."""
    x = stem(build, image(build), 8)
    for _ in range(build.rng.choice([1, 2, 3])):
        _, width, height, across = build.shapes[x]
        left, right = build.split(x, [width // 2, width // 2])
        right = build.conv(build.conv(right, width // 2, 1), width // 2, 3, 1, width // 2, act=None)
        x = build.concat([left, build.conv(right, width // 2, 1)])
        x = build.transpose(build.reshape(x, [2, width // 2, height, across]), [0, 2, 1, 3, 4])
        x = build.reshape(x, [width, height, across] if build.chance(0.5) else [-1, height, across])
    classify(build, x)


def pyramid(build: Builder) -> list[str]:
    """Three levels of one width, each with what the coarser ones know."""
    levels = [stem(build, image(build), 8)]
    for out in (12, 16):
        levels.append(build.conv(levels[-1], out, 3, 2))
    width, results = 8, []
    above = ""
    for level in reversed(levels):
        y = build.conv(level, width, 1, norm=False, act=None)
        if above:
            y = build.add(y, build.resize(above, like=y))
        above = y
        results.append(build.conv(y, width, 3, act=None if build.chance(0.5) else ""))
    return results[::-1]


def fpn(build: Builder) -> None:
    """Levels as outputs, or joined at the size of the finest."""
    levels = pyramid(build)
    if build.chance(0.4):
        for level in levels:
            build.output(level)
        return
    joined = build.concat([levels[0], *(build.resize(level, like=levels[0]) for level in levels[1:])])
    y = build.conv(build.conv(joined, 8), build.rng.choice([1, 4]), 1, norm=False, act=None)
    build.output(build.act(y, "Sigmoid") if build.chance(0.5) else y)


def unet(build: Builder) -> None:
    """Down and up again, with what was there beside what comes back."""
    x = image(build)
    skips = []
    for width in (6, 8):
        x = build.conv(build.conv(x, width), width)
        skips.append(x)
        x = build.pool(x) if build.chance(0.5) else build.conv(x, width, 3, 2)
    x = build.conv(x, 12)
    for skip in reversed(skips):
        width = build.shapes[skip][1]
        y = build.up(x, width)
        x = build.conv(build.concat([y, skip]) if build.chance(0.7) else build.add(y, skip), width)
    y = build.conv(x, build.rng.choice([1, 3]), 1, norm=False, act=None)
    if build.chance(0.3) and build.shapes[y][1] > 1:
        axis = {"axis": 1}
        build.output(build.node("ArgMax", [y], (), keepdims=0, **axis))
        return
    build.output(build.act(y, build.rng.choice(["Sigmoid", "Tanh"])) if build.chance(0.6) else y)


def siamese(build: Builder) -> None:
    """One network on two pictures, and how far apart they are."""
    x = image(build)
    shape = build.shapes[x]
    other = build.input(build.inputs and tuple(d.dim_value for d in build.inputs[0].type.tensor_type.shape.dim)[1:])
    if build.shapes[other] != shape:  # channels last in front, or normalized
        other = build.transpose(other, [0, 3, 1, 2])
    ends = []
    for source in (x, other):
        y = build.conv(build.conv(source, 8, key="a"), 12, 3, 2, key="b")
        y = build.conv(y, 12, 3, 1, 12, key="c")
        ends.append(
            build.linear(
                build.node(
                    "Flatten", [build.node("GlobalAveragePool", [y], (shape[0], 12, 1, 1))], (shape[0], 12), axis=1
                ),
                8,
                key="d",
            )
        )
    if build.chance(0.5):
        gap = build.node("Abs", [build.node("Sub", ends, (shape[0], 8))], (shape[0], 8))
        build.output(build.act(build.linear(gap, 1), "Sigmoid"))
        return
    for end in ends:
        length = build.mean(end, [1], op="ReduceL2")
        build.output(build.node("Div", [end, length], (shape[0], 8)))
