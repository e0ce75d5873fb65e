"""Layers with weights, and normalizations. Each returns without a trace where nothing live fits it."""

from __future__ import annotations

import numpy as np

from tools.fuzz.drawing import Drawing, Shape
from tools.fuzz.elementwise import activation

WIDEST = 1500  # of what a matrix reads: the second moments of its inputs take the square of that


def conv(draw: Drawing) -> None:
    found = draw.pick(lambda s: len(s) in (3, 4, 4, 5) and min(s) > 0)
    if found is None:
        return
    x, shape = found
    channels, sides = shape[1], shape[2:]
    divisors = [d for d in range(1, channels + 1) if channels % d == 0]
    group = draw.rng.choice([1, 1, 1, channels, draw.rng.choice(divisors)])
    out = group * draw.rng.choice([1, 1, 2, 3, 4]) if group > 1 else draw.rng.choice([1, 2, 4, 5, 8, 12])
    kernel = tuple(draw.rng.choice([1, 1, 2, 3, 3, 5]) for _ in sides)
    strides = tuple(draw.rng.choice([1, 1, 1, 2, 3]) for _ in sides)
    dilations = tuple(draw.rng.choice([1, 1, 1, 2]) for _ in sides)
    attrs: dict[str, object] = {"group": group} if group > 1 or draw.chance(0.5) else {}
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    mode = draw.rng.random()
    if mode < 0.15:
        attrs["auto_pad"] = draw.rng.choice(["SAME_UPPER", "SAME_LOWER"])
        dilations, spans = (1,) * len(sides), list(kernel)
        result = tuple(-(-size // s) for size, s in zip(sides, strides, strict=True))
    else:
        before = [s // 2 if mode < 0.7 else draw.rng.randrange(3) for s in spans]
        after = [(s - 1) // 2 if mode < 0.7 else draw.rng.randrange(3) for s in spans]
        if mode > 0.92:
            before = after = [0] * len(sides)
            attrs["auto_pad"] = "VALID"
        else:
            attrs["pads"] = before + after
        result = tuple(
            (size + a + b - span) // s + 1
            for size, a, b, span, s in zip(sides, before, after, spans, strides, strict=True)
        )
    if min(result) < 1:
        return
    if max(strides) > 1 or draw.chance(0.3):
        attrs["strides"] = strides
    if max(dilations) > 1:
        attrs["dilations"] = dilations
    fan = channels // group * int(np.prod(kernel))
    inputs = [x, draw.weight((out, channels // group, *kernel), fan)]
    if draw.chance(0.4):
        inputs.append(draw.weight((out,), 4))
    y = draw.add("Conv", inputs, (shape[0], out, *result), **attrs)
    if draw.chance(0.6):
        norm(draw, y, (shape[0], out, *result))
    if draw.chance(0.6):
        activation(draw)


def transposed(draw: Drawing) -> None:
    found = draw.pick(lambda s: len(s) in (3, 4) and min(s) > 0)
    if found is None:
        return
    x, shape = found
    out = draw.rng.choice([1, 2, 4])
    kernel = tuple(draw.rng.choice([2, 3]) for _ in shape[2:])
    weight = draw.weight((shape[1], out, *kernel), shape[1] * 4)
    sides = tuple((size - 1) * 2 + k for size, k in zip(shape[2:], kernel, strict=True))
    draw.add("ConvTranspose", [x, weight], (shape[0], out, *sides), strides=[2] * len(kernel))


def norm(draw: Drawing, x: str = "", shape: Shape = ()) -> None:
    if not x:
        found = draw.pick(lambda s: len(s) >= 2 and min(s) > 0)
        if found is None:
            return
        x, shape = found
    size = shape[1]
    values = [
        draw.values.uniform(0.3, 1.5, size) * draw.values.choice([-1, 1, 1, 1], size),
        draw.values.standard_normal(size) * 0.4,
        draw.values.standard_normal(size) * 0.3,
        draw.values.uniform(0.3, 2.0, size),
    ]
    names = []
    for index, value in enumerate(values):
        held = value.astype(np.float32)
        if draw.spoiled and draw.chance(0.04):
            held = draw.absurd(held)
            if index == 3 and draw.chance(0.5):
                held = -np.abs(held)
        names.append(draw.name("bn"))
        draw.weights[names[-1]] = held
    attrs: dict[str, object] = {}
    if draw.spoiled and draw.chance(0.1):
        draw.ordinary = False
        attrs["epsilon"] = draw.rng.choice([0.0, 1e-12, 1.0, 1e10])
    draw.add("BatchNormalization", [x, *names], shape, **attrs)


def dense(draw: Drawing) -> None:
    found = draw.pick(lambda s: len(s) == 2 and s[1] > 0)
    if found is None:
        found = draw.pick(lambda s: len(s) >= 3 and min(s) > 0)
        if found is None:
            return
        if draw.chance(0.5):
            x, shape = found
            out = draw.rng.choice([1, 3, 8])
            draw.add("MatMul", [x, draw.weight((shape[-1], out), shape[-1])], (*shape[:-1], out))
            return
        flat = (found[1][0], int(np.prod(found[1][1:])))
        if flat[1] > WIDEST:
            return
        found = (draw.add("Flatten", [found[0]], flat, axis=1), flat)
    x, (rows, width) = found
    if width > WIDEST:
        return
    out = draw.rng.choice([1, 2, 5, 10])
    if draw.chance(0.4):
        draw.add("MatMul", [x, draw.weight((width, out), width)], (rows, out))
        return
    attrs: dict[str, object] = {}
    trans = draw.chance(0.6)
    if trans:
        attrs["transB"] = 1
    if draw.chance(0.2):
        attrs["alpha"] = draw.rng.choice([0.5, 2.0])
    if draw.chance(0.2):
        attrs["beta"] = draw.rng.choice([0.5, 0.0])
    inputs = [x, draw.weight((out, width) if trans else (width, out), width)]
    if draw.chance(0.7) or draw.opset < 11:
        inputs.append(draw.weight(draw.rng.choice([(out,), (out,), (1, out), ()]), 4))
    draw.add("Gemm", inputs, (rows, out), **attrs)
