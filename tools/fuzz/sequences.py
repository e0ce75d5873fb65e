"""Networks over time or tokens: transformers behind a stem, readers, waveforms, spectrograms, two inputs."""

from __future__ import annotations

import math

import numpy as np

from tools.fuzz.backbones import classify, excited, image, stem
from tools.fuzz.builder import Builder


def attention(build: Builder, x: str, heads: int = 2) -> str:
    """Of each token to all: products of two computed tensors, Softmax over the last axis."""
    batch, tokens, width = build.shapes[x]
    part = width // heads

    def per_head(source: str, perm: list[int]) -> str:
        return build.transpose(build.reshape(source, [tokens, heads, part]), perm)

    if build.chance(0.5):
        three = build.split(build.linear(x, 3 * width), [width] * 3, axis=2)
    else:
        three = [build.linear(x, width) for _ in range(3)]
    q, k, v = (per_head(y, perm) for y, perm in zip(three, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True))
    scores = build.node("MatMul", [q, k], (batch, heads, tokens, tokens))
    scores = build.node("Mul", [scores, build.constant(1 / math.sqrt(part), np.float32)], build.shapes[scores])
    y = build.node("MatMul", [build.softmax(scores), v], (batch, heads, tokens, part))
    y = build.reshape(build.transpose(y, [0, 2, 1, 3]), [tokens, width])
    return build.linear(y, width)


def vit(build: Builder) -> None:
    """A transformer behind a stem of Convs, with places added and perhaps a token for the class."""
    x = build.conv(stem(build, image(build), 8), 8, 4, 2, norm=False, act=None)
    batch, width, height, across = build.shapes[x]
    x = build.transpose(build.reshape(x, [width, height * across]), [0, 2, 1])
    x = build.node(
        "Add", [x, build.held(build.values.normal(0, 0.3, (1, height * across, width)), "places")], build.shapes[x]
    )
    for _ in range(build.rng.choice([1, 2])):
        x = build.add(x, attention(build, build.layer_norm(x)))
        x = build.add(x, build.linear(build.act(build.linear(build.layer_norm(x), 2 * width), "Gelu"), width))
    x = build.layer_norm(x)
    if build.chance(0.5):
        y = build.mean(x, [1], keep=False)
    else:
        y = build.node("Gather", [x, build.constant(0)], (batch, width), axis=1)
    build.output(build.linear(y, 5))


def recurrent(build: Builder, x: str, hidden: int) -> str:
    """``[steps, n, size]`` to ``[steps, n, directions * hidden]`` by an LSTM or a GRU."""
    steps, batch, size = build.shapes[x]
    op, gates = build.rng.choice([("LSTM", 4), ("GRU", 3)])
    ways = build.rng.choice([1, 2])

    def drawn(*shape: int) -> str:
        return build.held(build.values.normal(0, 1 / math.sqrt(shape[-1]), shape), op.lower())

    weights = [drawn(ways, gates * hidden, size), drawn(ways, gates * hidden, hidden), drawn(ways, 2 * gates * hidden)]
    attrs: dict[str, object] = {"hidden_size": hidden, "direction": "bidirectional" if ways == 2 else "forward"}
    if op == "GRU":
        attrs["linear_before_reset"] = 1
    y = build.node(op, [x, *weights], (steps, ways, batch, hidden), **attrs)
    if ways == 1:
        return build.squeeze(y, 1)
    # onnx copies a dimension for 0, so the batch stays open where it stands in its own place
    joined = build.node("Transpose", [y], (steps, batch, ways, hidden), perm=[0, 2, 1, 3])
    shape = build.constant([0, 0, -1])
    return build.node("Reshape", [joined, shape], (steps, batch, ways * hidden))


def reader(build: Builder) -> None:
    """CRNN: Convs, a recurrent layer along the width, scores of characters for CTC."""
    height, across = 8, build.rng.choice([16, 24, 32])
    x = build.pool(build.conv(build.input((build.rng.choice([1, 3]), height, across)), 8))
    x = build.conv(x, 12)
    if build.chance(0.5):
        x = build.mean(x, [2], keep=False)
    else:
        size = build.shapes[x]
        kernel = build.shapes[x][2]
        attrs: dict[str, object] = {"kernel_shape": [kernel, 1], "strides": [1, 1]}
        x = build.squeeze(build.node("MaxPool", [x], (*size[:2], 1, size[3]), **attrs), 2)
    x = recurrent(build, build.transpose(x, [2, 0, 1]), 8)
    y = build.linear(x, 7)
    if build.chance(0.5):
        y = build.transpose(y, [1, 0, 2])
    if build.chance(0.5):
        op = build.rng.choice(["Softmax", "LogSoftmax"])
        y = build.node(op, [y], build.shapes[y], axis=2 if build.opset < 11 else -1)
    build.output(y)


def waveform(build: Builder) -> None:
    """A 1-D network on samples of sound: dilated gates, depthwise layers, or down and up again."""
    length = build.rng.choice([64, 128, 160])
    x = build.unsqueeze(build.input((length,)), 1) if build.chance(0.3) else build.input((1, length))
    kind = build.rng.choice(["gated", "depthwise", "hourglass"])
    x = build.conv(x, 8, 9, 4)
    if kind == "gated":
        skips = []
        for dilation in (1, 2, 4):
            y = build.conv(x, 16, 3, dilation=dilation, norm=False, act=None)
            left, right = build.split(y, [8, 8])
            y = build.mul(build.act(left, "Tanh"), build.act(right, "Sigmoid"))
            skips.append(build.conv(y, 8, 1, norm=False, act=None))
            x = build.add(x, skips[-1])
        y = build.act(build.add(build.add(skips[0], skips[1]), skips[2]), "Relu")
        build.output(build.conv(y, 4, 1, norm=False, act=None))
    elif kind == "depthwise":
        for _ in range(3):
            x = build.conv(build.conv(x, build.shapes[x][1], 5, 1, build.shapes[x][1]), 12, 1)
        classify(build, x)
    else:
        first = build.conv(x, 8, 3)
        y = build.conv(first, 12, 3, 2)
        y = build.up(y, 8)
        y = build.conv(build.concat([y, build.slice(first, 0, build.shapes[y][2], 2)]), 8, 3)
        build.output(build.act(build.conv(y, 1, 1, norm=False, act=None), "Tanh"))


def spectrogram(build: Builder) -> None:
    """Frames by a Conv with the cosines and sines of a Fourier transform, their power, its logarithm, a 2-D network."""
    bands, width, hop = 12, 32, 8
    x = build.input((1, build.rng.choice([128, 192])))
    phase = 2 * np.pi * np.outer(np.arange(bands), np.arange(width)) / width
    window = np.hanning(width) * np.concatenate([np.cos(phase), -np.sin(phase)])
    batch, _, length = build.shapes[x]
    frames = (length - width) // hop + 1
    y = build.node("Conv", [x, build.held(window[:, None], "dft")], (batch, 2 * bands, frames), strides=[hop])
    real, imaginary = build.split(build.mul(y, y), [bands, bands])
    power = build.add(real, imaginary)
    small = build.constant(build.rng.choice([1e-10, 1e-5, 1.0]), np.float32)
    y = build.node("Log", [build.node("Add", [power, small], build.shapes[power])], build.shapes[power])
    y = build.unsqueeze(y, 1)
    y = build.conv(build.conv(y, 8, 3, 2), 12)
    classify(build, excited(build, y) if build.chance(0.4) else y)


def two_inputs(build: Builder) -> None:
    """A picture and a vector of facts, or a picture and another of half its size."""
    x = build.conv(image(build), 8, 3, 2)
    _, width, height, across = build.shapes[x]
    if build.chance(0.5):
        facts = build.act(build.linear(build.input((6,)), 8), "Relu")
        if build.chance(0.5):
            x = build.mul(x, build.reshape(build.act(facts, "Sigmoid"), [width, 1, 1]))
            classify(build, build.conv(x, 12))
            return
        rows = build.flatten(build.pooled(build.conv(x, 12)))
        build.output(build.linear(build.concat([rows, facts]), 4))
        return
    other = build.conv(build.input((1, height, across)), 8)
    y = build.concat([x, other]) if build.chance(0.5) else build.add(x, other)
    build.output(build.conv(build.conv(y, 8), 2, 1, norm=False, act=None))
