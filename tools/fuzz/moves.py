"""Operators that carry values elsewhere, and pooling. Each returns without a trace where nothing live fits it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from tools.fuzz.drawing import Drawing, Shape

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
    if found is not None:
        x, shape = found
        MOVERS[draw.rng.choice(MOVES)](draw, x, shape)


def _resize(draw: Drawing, x: str, shape: Shape) -> None:
    rank = len(shape)
    if rank < 3:
        return
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


def _transpose(draw: Drawing, x: str, shape: Shape) -> None:
    perm = [0, *draw.rng.sample(range(1, len(shape)), len(shape) - 1)]
    draw.add("Transpose", [x], tuple(shape[p] for p in perm), perm=perm)


def _channels_last(draw: Drawing, x: str, shape: Shape) -> None:
    """A Transpose to channels last; mostly a Relu there and the way back, too."""
    perm = [0, *range(2, len(shape)), 1]
    moved = tuple(shape[p] for p in perm)
    y = draw.add("Transpose", [x], moved, perm=perm)
    if draw.chance(0.6):
        back = [int(p) for p in np.argsort(perm)]
        draw.add("Transpose", [draw.add("Relu", [y], moved)], shape, perm=back)


def _reshape(draw: Drawing, x: str, shape: Shape) -> None:
    entries = int(np.prod(shape[1:]))
    target = [0, -1] if draw.chance(0.5) else [0, entries, 1, 1]
    result = (shape[0], entries, *([] if len(target) == 2 else [1, 1]))
    draw.add("Reshape", [x, draw.number(np.array(target))], result)


def _flatten(draw: Drawing, x: str, shape: Shape) -> None:
    draw.add("Flatten", [x], (shape[0], int(np.prod(shape[1:]))), axis=1)


def _pad(draw: Drawing, x: str, shape: Shape) -> None:
    rank = len(shape)
    pads = [0, 0] + [draw.rng.randrange(3) for _ in range(rank - 2)]
    pads += [0, 0] + [draw.rng.randrange(3) for _ in range(rank - 2)]
    result = tuple(n + pads[i] + pads[rank + i] for i, n in enumerate(shape))
    mode = draw.rng.choice(["constant", "constant", "edge"])
    if draw.opset < 11:
        draw.add("Pad", [x], result, pads=pads, mode=mode)
    else:
        draw.add("Pad", [x, draw.number(np.array(pads))], result, mode=mode)


def _slice(draw: Drawing, x: str, shape: Shape) -> None:
    """Leaves out the last entry of the last axis."""
    if shape[-1] <= 1:
        return
    ends = (0, shape[-1] - 1, len(shape) - 1)
    result = (*shape[:-1], shape[-1] - 1)
    if draw.opset < 10:
        draw.add("Slice", [x], result, starts=[ends[0]], ends=[ends[1]], axes=[ends[2]])
    else:
        draw.add("Slice", [x, *(draw.number(np.array([v])) for v in ends)], result)


def _split(draw: Drawing, x: str, shape: Shape) -> None:
    if shape[1] % 2:
        return
    half = (shape[0], shape[1] // 2, *shape[2:])
    attrs: dict[str, object] = {"num_outputs": 2} if draw.opset >= 18 else {}
    draw.add("Split", [x], half, outputs=2, axis=1, **attrs)
    draw.live.append((draw.nodes[-1].output[1], half))


def _dropout(draw: Drawing, x: str, shape: Shape) -> None:
    draw.add("Dropout", [x], shape)


def _identity(draw: Drawing, x: str, shape: Shape) -> None:
    for _ in range(draw.rng.choice([1, 1, 3])):
        x = draw.add("Identity", [x], shape)


def _squeeze(draw: Drawing, x: str, shape: Shape) -> None:
    rank = len(shape)
    if shape[-1] != 1 or rank == 2:
        return
    if draw.opset < 13:
        draw.add("Squeeze", [x], shape[:-1], axes=[rank - 1])
    else:
        draw.add("Squeeze", [x, draw.number(np.array([rank - 1]))], shape[:-1])


def _cast(draw: Drawing, x: str, shape: Shape) -> None:
    other = draw.rng.choice([TensorProto.FLOAT16, TensorProto.DOUBLE])
    y = draw.add("Cast", [x], shape, to=other)
    draw.live.pop()
    draw.add("Cast", [y], shape, to=TensorProto.FLOAT)


def _to_own_shape(draw: Drawing, x: str, shape: Shape) -> None:
    size = draw.add("Shape", [x], (len(shape),))
    draw.live.pop()
    draw.add("Reshape", [x, size], shape)


def _depth_to_space(draw: Drawing, x: str, shape: Shape) -> None:
    if len(shape) == 4 and shape[1] % 4 == 0:
        draw.add("DepthToSpace", [x], (shape[0], shape[1] // 4, 2 * shape[2], 2 * shape[3]), blocksize=2)


def _lrn(draw: Drawing, x: str, shape: Shape) -> None:
    if len(shape) == 4 and not draw.spoiled:  # onnxruntime makes NaN of large values
        draw.add("LRN", [x], shape, size=3)


def _tile(draw: Drawing, x: str, shape: Shape) -> None:
    repeats = np.array([1] * (len(shape) - 1) + [2])
    draw.add("Tile", [x, draw.number(repeats)], (*shape[:-1], 2 * shape[-1]))


MOVERS: dict[str, Callable[[Drawing, str, Shape], None]] = {
    "Resize": _resize,
    "Transpose": _transpose,
    "nhwc": _channels_last,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Pad": _pad,
    "Slice": _slice,
    "Split": _split,
    "Dropout": _dropout,
    "Identity": _identity,
    "Squeeze": _squeeze,
    "Cast": _cast,
    "Shape": _to_own_shape,
    "DepthToSpace": _depth_to_space,
    "LRN": _lrn,
    "Tile": _tile,
}
