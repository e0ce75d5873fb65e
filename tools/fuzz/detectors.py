"""Detectors with decoded boxes, selections and regions in the graph, and a network that straightens its input."""

from __future__ import annotations

import numpy as np

from tools.fuzz.backbones import classify, image, pyramid, stem
from tools.fuzz.builder import Builder


def decoded(build: Builder) -> tuple[str, str]:
    """Boxes ``[n, 4, anchors]`` in pixels and scores ``[n, classes, anchors]`` of a head over a pyramid, with DFL."""
    levels = pyramid(build)
    bins, classes = build.rng.choice([1, 4, 8]), build.rng.choice([1, 3, 5])
    shared = build.chance(0.3)
    flat, points, strides = [], [], []
    for index, level in enumerate(levels):
        _, width, height, across = build.shapes[level]
        key = "head" if shared else f"head{index}"
        box = build.conv(build.conv(level, width, key=f"{key}/box"), 4 * bins, 1, norm=False, act=None, key=f"{key}/b")
        score = build.conv(build.conv(level, width, key=f"{key}/cls"), classes, 1, norm=False, act=None, key=f"{key}/s")
        flat.append(build.reshape(build.concat([box, score]), [4 * bins + classes, -1]))
        step = 2.0 ** (index + 3)
        grid = np.stack(np.meshgrid(np.arange(across) + 0.5, np.arange(height) + 0.5)).reshape(2, -1)
        points.append(grid)
        strides.append(np.full((1, height * across), step))
    joined = build.concat(flat, 2)
    box, score = build.split(joined, [4 * bins, classes])
    if bins > 1:
        box = _expected(build, box, bins)
    anchors = build.held(np.concatenate(points, 1)[None], "anchors")
    low, high = build.slice(box, 0, 2, 1), build.slice(box, 2, 4, 1)
    shape = build.shapes[low]
    near, far = build.node("Sub", [anchors, low], shape), build.node("Add", [anchors, high], shape)
    if build.chance(0.6):  # centre and size
        centre = build.node("Div", [build.add(near, far), build.constant(2.0, np.float32)], shape)
        near, far = centre, build.node("Sub", [far, near], shape)
    box = build.mul(build.concat([near, far]), build.held(np.concatenate(strides, 1), "strides"))
    return box, build.act(score, "Sigmoid")


def _expected(build: Builder, box: str, bins: int) -> str:
    """The mean of a distribution over bins: Softmax and a 1x1 Conv whose weights are 0, 1, 2, ..."""
    count = build.shapes[box][2]
    spread = build.softmax(build.transpose(build.reshape(box, [4, bins, count]), [0, 1, 3, 2]))
    numbers = np.arange(bins, dtype=np.float32)
    batch = build.shapes[box][0]
    if build.chance(0.7):
        weight = build.held(numbers.reshape(1, bins, 1, 1), "dfl")
        mean = build.node("Conv", [build.transpose(spread, [0, 3, 1, 2]), weight], (batch, 1, 4, count))
        return build.reshape(mean, [4, count])
    mean = build.node("MatMul", [spread, build.held(numbers.reshape(bins, 1), "dfl")], (batch, 4, count, 1))
    return build.squeeze(mean, 3)


def yolo(build: Builder) -> None:
    """Boxes and scores in one output, or each by itself."""
    box, score = decoded(build)
    if build.chance(0.7):
        y = build.concat([box, score])
        build.output(build.transpose(y, [0, 2, 1]) if build.chance(0.3) else y)
    else:
        build.output(box)
        build.output(score)


def selecting(build: Builder) -> None:
    """A detector that ends in NonMaxSuppression, its indices or the boxes that they name."""
    box, score = decoded(build)
    boxes = build.transpose(box, [0, 2, 1])
    most = build.constant([build.rng.choice([3, 50])])
    limits = [
        build.constant([0.5], np.float32),
        build.constant([build.rng.choice([0.05, 0.3, 0.6, 0.999])], np.float32),
    ]
    if build.opset < 10:
        build.output(build.concat([box, score]))
        return
    chosen = build.node("NonMaxSuppression", [boxes, score, most, *limits], (1, 3))
    if build.chance(0.4):
        build.output(chosen, varying=True)
        if build.chance(0.5):
            build.output(boxes)
        return
    which = build.squeeze(build.slice(chosen, 2, 3, 1), 1)
    build.output(build.node("Gather", [boxes, which], build.shapes[boxes], axis=1), varying=True)
    build.output(build.node("Gather", [score, which], build.shapes[score], axis=2), varying=True)


def regions(build: Builder) -> None:
    """Two stages: proposals, RoiAlign on the best of them or on those above a threshold, a head on each region."""
    features = build.conv(stem(build, image(build), 8), 8)
    _, width, height, across = build.shapes[features]
    count = height * across
    hidden = build.conv(features, 8, norm=False, act="Relu")
    score = build.reshape(build.conv(hidden, 1, 1, norm=False, act="Sigmoid"), [count])
    delta = build.conv(hidden, 4, 1, norm=False, act=None)
    delta = build.transpose(build.reshape(delta, [4, count]), [0, 2, 1])
    near = np.stack(np.meshgrid(np.arange(across), np.arange(height)), -1).reshape(1, count, 2) * 1.0
    boxes = build.add(build.add(delta, delta), build.held(np.concatenate([near - 1, near + 1], 2), "anchors"))
    boxes, score = build.slice(boxes, 0, 1, 0), build.slice(score, 0, 1, 0)  # those of the first picture
    boxes, score = build.squeeze(boxes, 0), build.squeeze(score, 0)
    found = build.chance(0.5)
    if found:
        limit = build.constant(build.rng.choice([0.3, 0.5, 0.7, 1.5]), np.float32)
        which = build.node("NonZero", [build.node("Greater", [score, limit], (count,))], (1, count))
        which, few = build.squeeze(which, 0), count
    else:
        few = min(5, count)
        if build.opset < 10:
            build.node("TopK", [score], (few,), outputs=2, axis=0, k=few)
        else:
            build.node("TopK", [score, build.constant([few])], (few,), outputs=2, axis=0)
        which = build.more(1, (few,))
    rois = build.node("Gather", [boxes, which], (few, 4), axis=0)
    if build.opset < 10:
        build.output(rois, varying=found)
        return
    zero = build.node("Mul", [which, build.constant(0)], (few,))
    attrs: dict[str, object] = {"output_height": 3, "output_width": 3, "spatial_scale": 1.0, "sampling_ratio": 2}
    cut = build.node("RoiAlign", [features, rois, zero], (few, width, 3, 3), **attrs)
    head = build.flatten(build.conv(cut, 8, norm=False, act="Relu"))
    head = build.act(build.linear(head, 16), "Relu")
    build.output(build.softmax(build.linear(head, 3)), varying=found)
    build.output(build.linear(head, 4), varying=found)


def straightened(build: Builder) -> None:
    """A spatial transformer: six numbers from the picture turn it before it is classified."""
    x = image(build)
    batch, channels, height, across = build.shapes[x]
    y = build.pool(build.conv(x, 6, norm=False, act="Relu"))
    theta = build.linear(build.act(build.linear(build.flatten(y), 8), "Relu"), 6)
    theta = build.node("Mul", [theta, build.constant(0.05, np.float32)], (batch, 6))
    theta = build.node("Add", [theta, build.held(np.array([1, 0, 0, 0, 1, 0]), "identity")], (batch, 6))
    theta = build.reshape(theta, [2, 3])
    if build.opset < 16:  # nothing samples there: the numbers themselves, and their picture
        build.output(theta)
        classify(build, build.conv(x, 8))
        return
    steps = [np.linspace(-1, 1, n) for n in (across, height)]
    grid = np.stack([*np.meshgrid(*steps), np.ones((height, across))], -1).reshape(1, height * across, 3)
    turned = build.transpose(theta, [0, 2, 1])
    places = build.node("MatMul", [build.held(grid, "grid"), turned], (batch, height * across, 2))
    places = build.reshape(places, [height, across, 2])
    mode = "bilinear" if build.opset < 20 else "linear"
    attrs: dict[str, object] = {"mode": mode, "padding_mode": "zeros", "align_corners": int(build.chance(0.5))}
    x = build.node("GridSample", [x, places], (batch, channels, height, across), **attrs)
    classify(build, build.conv(build.conv(x, 8), 12, 3, 2))
