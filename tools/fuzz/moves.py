"""Operators that carry values elsewhere, and pooling. Each returns without a trace where nothing live fits it."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from tools.fuzz.drawing import Drawing

MOVES = (
    *("Resize", "Transpose", "nhwc", "Reshape", "Flatten", "Flatten", "Pad", "Slice", "Split", "Dropout", "Identity"),
    *("Identity", "Squeeze", "Cast", "Shape", "DepthToSpace", "LRN", "Tile"),
)


def pool(draw: Drawing) -> None:
    found = draw.pick(lambda s: len(s) >= 3 and min(s) > 0)
    if found is None:
        return
    x, shape = found
    ones = (1,) * (len(shape) - 2)
    kind = draw.rng.choice(["MaxPool", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"])
    if kind.startswith("Global"):
        draw.add(kind, [x], (*shape[:2], *ones))
    elif kind == "ReduceMean":
        keep = draw.rng.randrange(2)
        axes = list(range(2, len(shape)))
        result = (*shape[:2], *(ones if keep else ()))
        if draw.opset < 18:
            draw.add(kind, [x], result, axes=axes, keepdims=keep)
        else:
            draw.add(kind, [x, draw.number(np.array(axes))], result, keepdims=keep)
    else:
        kernel = [draw.rng.choice([1, 2, 2, 3]) for _ in ones]
        strides = [draw.rng.choice([1, 2, 2]) for _ in ones]
        pads = [draw.rng.randrange(k) if draw.chance(0.4) else 0 for k in kernel + kernel]
        half = len(ones)
        sides = tuple((n + pads[i] + pads[half + i] - kernel[i]) // strides[i] + 1 for i, n in enumerate(shape[2:]))
        if min(sides) < 1:
            return
        attrs: dict[str, object] = {"count_include_pad": 1} if kind == "AveragePool" and draw.chance(0.4) else {}
        draw.add(kind, [x], (*shape[:2], *sides), kernel_shape=kernel, strides=strides, pads=pads, **attrs)


def move(draw: Drawing) -> None:
    """Operators that carry values elsewhere."""
    found = draw.pick(lambda s: len(s) >= 2 and min(s) > 0)
    if found is None:
        return
    x, shape = found
    rank = len(shape)
    kind = draw.rng.choice(MOVES)
    if kind == "Resize" and rank >= 3:
        scales = draw.number(np.array([1, 1] + [2] * (rank - 2), np.float32))
        result = (*shape[:2], *(2 * n for n in shape[2:]))
        mode = draw.rng.choice(["nearest", "nearest", "linear" if rank == 4 else "nearest"])
        if draw.opset == 9:
            draw.add("Upsample", [x, scales], result, mode=mode)
        elif draw.opset == 10:
            draw.add("Resize", [x, scales], result, mode=mode)
        else:
            roi = draw.number(np.zeros(0, np.float32)) if draw.opset < 13 or draw.chance(0.5) else ""
            draw.add("Resize", [x, roi, scales], result, mode=mode)
    elif kind in ("Transpose", "nhwc"):
        perm = [0, *range(2, rank), 1] if kind == "nhwc" else [0, *draw.rng.sample(range(1, rank), rank - 1)]
        moved = tuple(shape[p] for p in perm)
        y = draw.add("Transpose", [x], moved, perm=perm)
        if kind == "nhwc" and draw.chance(0.6):
            back = [int(p) for p in np.argsort(perm)]
            draw.add("Transpose", [draw.add("Relu", [y], moved)], shape, perm=back)
    elif kind == "Reshape":
        target = [0, -1] if draw.chance(0.5) else [0, int(np.prod(shape[1:])), 1, 1]
        result = (shape[0], int(np.prod(shape[1:])), *([] if len(target) == 2 else [1, 1]))
        draw.add("Reshape", [x, draw.number(np.array(target))], result)
    elif kind == "Flatten":
        draw.add("Flatten", [x], (shape[0], int(np.prod(shape[1:]))), axis=1)
    elif kind == "Pad":
        pads = [0, 0] + [draw.rng.randrange(3) for _ in range(rank - 2)]
        pads += [0, 0] + [draw.rng.randrange(3) for _ in range(rank - 2)]
        result = tuple(n + pads[i] + pads[rank + i] for i, n in enumerate(shape))
        mode = draw.rng.choice(["constant", "constant", "edge"])
        if draw.opset < 11:
            draw.add("Pad", [x], result, pads=pads, mode=mode)
        else:
            draw.add("Pad", [x, draw.number(np.array(pads))], result, mode=mode)
    elif kind == "Slice" and shape[-1] > 1:
        ends = (0, shape[-1] - 1, rank - 1)
        result = (*shape[:-1], shape[-1] - 1)
        if draw.opset < 10:
            draw.add("Slice", [x], result, starts=[ends[0]], ends=[ends[1]], axes=[ends[2]])
        else:
            draw.add("Slice", [x, *(draw.number(np.array([v])) for v in ends)], result)
    elif kind == "Split" and shape[1] % 2 == 0:
        half = (shape[0], shape[1] // 2, *shape[2:])
        attrs: dict[str, object] = {"num_outputs": 2} if draw.opset >= 18 else {}
        draw.add("Split", [x], half, outputs=2, axis=1, **attrs)
        draw.live.append((draw.nodes[-1].output[1], half))
    elif kind == "Dropout":
        draw.add("Dropout", [x], shape)
    elif kind == "Identity":
        for _ in range(draw.rng.choice([1, 1, 3])):
            x = draw.add("Identity", [x], shape)
    elif kind == "Squeeze" and shape[-1] == 1 and rank > 2:
        if draw.opset < 13:
            draw.add("Squeeze", [x], shape[:-1], axes=[rank - 1])
        else:
            draw.add("Squeeze", [x, draw.number(np.array([rank - 1]))], shape[:-1])
    elif kind == "Cast":
        other = draw.rng.choice([TensorProto.FLOAT16, TensorProto.DOUBLE])
        y = draw.add("Cast", [x], shape, to=other)
        draw.live.pop()
        draw.add("Cast", [y], shape, to=TensorProto.FLOAT)
    elif kind == "Shape":
        size = draw.add("Shape", [x], (rank,))
        draw.live.pop()
        draw.add("Reshape", [x, size], shape)
    elif kind == "DepthToSpace" and rank == 4 and shape[1] % 4 == 0:
        draw.add(kind, [x], (shape[0], shape[1] // 4, 2 * shape[2], 2 * shape[3]), blocksize=2)
    elif kind == "LRN" and rank == 4 and not draw.spoiled:  # onnxruntime makes NaN of large values
        draw.add(kind, [x], shape, size=3)
    elif kind == "Tile":
        draw.add("Tile", [x, draw.number(np.array([1] * (rank - 1) + [2]))], (*shape[:-1], 2 * shape[-1]))
