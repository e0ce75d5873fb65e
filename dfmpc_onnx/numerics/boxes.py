"""Boxes of a detector's raw output: those it is confident of, one for each object, and which of them another finds."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.arrays import Float

CONFIDENT = 0.25  # score of the best class, from which a box counts
SAME_OBJECT = 0.45  # intersection over union, above which the weaker of two boxes of a class is dropped
FOUND_AGAIN = 0.5  # intersection over union, from which a box of another network is the same
MOST_BOXES = 300  # of one image, the most confident


@dataclasses.dataclass(frozen=True)
class Boxes:
    """corners: ``[k, 4]``, left, top, right, bottom. classes: ``[k]``."""

    corners: Float
    classes: npt.NDArray[np.intp]


def crossed_corners(places: Float) -> int:
    """Of how many places ``[n, 4]``, taken as corners, the right edge lies left of the left one, or bottom over top."""
    return int(np.count_nonzero(np.any(places[:, 2:] < places[:, :2], axis=1)))


def confident_boxes(places: Float, scores: Float, *, centred: bool) -> Boxes:
    """The boxes of one image, the weaker ones of an object dropped.

    places: ``[n, 4]``, corners, or centre, width and height where `centred`; scores: ``[n, classes]`` from 0 to 1.
    """
    best = scores.max(axis=1)
    order = np.argsort(-best, kind="stable")
    order = order[best[order] >= CONFIDENT][:MOST_BOXES]
    corners = places[order].astype(np.float64)
    if centred:
        half = corners[:, 2:] / 2
        corners = np.concatenate([corners[:, :2] - half, corners[:, :2] + half], axis=1)
    classes = scores[order].argmax(axis=1)
    overlap = intersection_over_union(corners, corners) * (classes[:, None] == classes)
    kept: list[int] = []
    for index in range(len(order)):
        if not kept or overlap[index, kept].max() <= SAME_OBJECT:
            kept.append(index)
    return Boxes(corners[kept], classes[kept])


def found_again(want: Boxes, got: Boxes) -> int:
    """How many boxes have one of the other network's of their class, each of which stands for one."""
    overlap = intersection_over_union(want.corners, got.corners) * (want.classes[:, None] == got.classes)
    count = 0
    while overlap.size and overlap.max() >= FOUND_AGAIN:
        row, column = np.unravel_index(int(overlap.argmax()), overlap.shape)
        overlap[row, :] = overlap[:, column] = 0
        count += 1
    return count


def intersection_over_union(a: Float, b: Float) -> Float:
    """``[k, m]`` of corners ``[k, 4]`` and ``[m, 4]``."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(np.clip(c[:, 2:] - c[:, :2], 0, None), axis=1) for c in (a, b)]
    union: Float = areas[0][:, None] + areas[1][None, :] - common
    shared: Float = common / np.maximum(union, 1e-12)
    return shared
