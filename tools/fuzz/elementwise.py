"""Activations and arithmetic. Each returns without a trace where nothing live fits it."""

from __future__ import annotations

import numpy as np

from tools.fuzz.drawing import Drawing


def activation(draw: Drawing) -> None:
    found = draw.pick(lambda s: len(s) >= 2)
    if found is None:
        return
    x, shape = found
    plain = ["Relu", "Relu", "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "HardSigmoid", "Softplus", "Abs", "Neg"]
    plain += ["Erf", "ThresholdedRelu", "Sqrt", "Exp"] + (["HardSwish"] if draw.opset >= 14 else [])
    plain += ["Mish"] if draw.opset >= 18 else []
    kind = draw.rng.choice([*plain, "Clip", "Clip", "Clip", "PRelu", "gate", "gate", "gated", "Softmax", "domain"])
    if kind in ("ThresholdedRelu", "Exp"):
        draw.ordinary = False  # one jumps, one grows without bound: the smallest error can be the whole output
    if kind == "Clip":
        low, high = draw.rng.choice([(0.0, 6.0), (0.0, 6.0), (-1.0, 1.0), (0.0, 1e30), (2.0, 1.0)])
        if draw.opset < 11:
            draw.add("Clip", [x], shape, min=low, max=high)
        else:
            limits = [draw.number(np.array(v, np.float32)) for v in (low, high)]
            limits = draw.rng.choice([limits, limits, limits[:1], ["", limits[1]]])
            draw.add("Clip", [x, *limits], shape)
    elif kind == "PRelu":
        size = (shape[1],) + (1,) * (len(shape) - 2) if draw.chance(0.7) else (1,)
        draw.add("PRelu", [x, draw.weight(size, 4)], shape)
    elif kind == "gate":
        gate = draw.rng.choice(["Sigmoid", "HardSigmoid", "Tanh"])
        draw.add("Mul", [x, draw.add(gate, [x], shape)], shape)
    elif kind == "gated" and len(shape) == 4 and min(shape) > 0:
        pooled = draw.add("GlobalAveragePool", [x], (*shape[:2], 1, 1))
        inner = draw.add(
            "Relu",
            [draw.add("Conv", [pooled, draw.weight((2, shape[1], 1, 1), shape[1])], (shape[0], 2, 1, 1))],
            (shape[0], 2, 1, 1),
        )
        wide = draw.add("Conv", [inner, draw.weight((shape[1], 2, 1, 1), 2)], (*shape[:2], 1, 1))
        draw.add("Mul", [x, draw.add("Sigmoid", [wide], (*shape[:2], 1, 1))], shape)
    elif kind == "Softmax":
        draw.add("Softmax", [x], shape, axis=1)
    elif kind == "domain":
        draw.add("Gelu", [x], shape, domain="com.microsoft")
    elif kind == "Sqrt":
        draw.add("Sqrt", [draw.add("Abs", [x], shape)], shape)
    elif kind != "gated":
        draw.add(kind, [x], shape)


def combine(draw: Drawing) -> None:
    found = draw.pick(lambda s: len(s) >= 2)
    if found is None:
        return
    x, shape = found
    op = draw.rng.choice(["Add", "Add", "Add", "Mul", "Sub", "Concat", "Concat", "constant", "Max"])
    if op == "constant":
        size = draw.rng.choice([(), (1,), (shape[1],) + (1,) * (len(shape) - 2), (1,) * len(shape), shape[-1:]])
        operand = draw.weight(size, 4)
        pair = [x, operand] if draw.chance(0.7) else [operand, x]
        draw.add(draw.rng.choice(["Add", "Mul", "Sub"]), pair, shape)
        return
    fits = [item for item in draw.live if len(item[1]) == len(shape) and item[1][2:] == shape[2:]]
    fits = [item for item in fits if item[1][0] == shape[0] and (op == "Concat" or item[1] == shape)]
    other, theirs = draw.rng.choice(fits)
    if op == "Concat":
        draw.add("Concat", [x, other], (shape[0], shape[1] + theirs[1], *shape[2:]), axis=1)
    else:
        draw.add(op, [x, other], shape)
