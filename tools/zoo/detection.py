"""What detectors found: boxes out of the raw outputs of the usual heads, and how many of them two networks share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
CONFIDENCE = {"yolo": 0.25, "ssd": 0.7, "text": 0.3, "yunet": 0.6}  # what each head's own authors take, or near it
OVERLAP = 0.45  # above which the weaker of two boxes of one class is dropped


@dataclasses.dataclass(frozen=True)
class Boxes:
    """What was found on one image, best first. corners: ``[n, 4]`` x1, y1, x2, y2; scores, classes: ``[n]``."""

    corners: Float
    scores: Float
    classes: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)


def overlaps(a: Float, b: Float) -> Float:
    """Intersection over union of every box of ``[n, 4]`` with every one of ``[m, 4]``: ``[n, m]``."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(np.maximum(c[:, 2:] - c[:, :2], 0), axis=1) for c in (a, b)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    result: Float = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return result


def suppressed(found: Boxes) -> Boxes:
    """Without those that overlap a better one of the same class."""
    order = np.argsort(-found.scores, kind="stable")
    corners, classes = found.corners[order], found.classes[order]
    table = overlaps(corners, corners)
    kept: list[int] = []
    for index in range(len(order)):
        if not any(classes[index] == classes[k] and table[index, k] > OVERLAP for k in kept):
            kept.append(index)
    return Boxes(corners[kept], found.scores[order][kept], classes[kept])


def yolo(output: Float) -> Boxes:
    """YOLOv8's ``[4 + classes, anchors]``: centre, size, and a score for each class."""
    scores = output[4:].max(axis=0)
    sure = scores >= CONFIDENCE["yolo"]
    centre, half = output[:2, sure].T, output[2:4, sure].T / 2
    classes = output[4:, sure].argmax(axis=0)
    return suppressed(Boxes(np.hstack([centre - half, centre + half]), scores[sure], classes))


def ssd(scores: Float, corners: Float) -> Boxes:
    """An SSD head: scores ``[anchors, classes]`` whose first class is the background, corners ``[anchors, 4]``."""
    best = scores[:, 1:].max(axis=1)
    sure = best >= CONFIDENCE["ssd"]
    return suppressed(Boxes(corners[sure], best[sure], scores[sure, 1:].argmax(axis=1)))


def yunet(scores: Sequence[Float], objectness: Sequence[Float], deltas: Sequence[Float]) -> Boxes:
    """YuNet's heads, one of each for the strides 8, 16 and 32: ``[anchors, 1]``, ``[anchors, 1]``, ``[anchors, 4]``.

    A square map has an anchor a cell; delta is the centre's way from its corner, and the logarithm of the size.
    """
    corners, sure = [], []
    for stride, score, thing, delta in zip((8, 16, 32), scores, objectness, deltas, strict=True):
        side = math.isqrt(len(delta))
        down, across = np.divmod(np.arange(len(delta)), side)
        centre = (np.stack([across, down], axis=1) + delta[:, :2]) * stride
        half = np.exp(delta[:, 2:]) * stride / 2
        corners.append(np.hstack([centre - half, centre + half]))
        sure.append(np.sqrt(score[:, 0] * thing[:, 0]))
    found, best = np.concatenate(corners), np.concatenate(sure)
    kept = best >= CONFIDENCE["yunet"]
    return suppressed(Boxes(found[kept], best[kept], np.zeros(int(kept.sum()), np.int64)))


def text(probability: Float) -> Boxes:
    """A map of how likely each pixel is text, ``[height, width]``: a box around each patch of at least ten pixels."""
    from scipy import ndimage

    labels, _ = ndimage.label(probability > CONFIDENCE["text"])
    rows = []
    for number, (down, across) in enumerate(ndimage.find_objects(labels), 1):
        inside = labels[down, across] == number
        if inside.sum() >= 10:
            rows.append((across.start, down.start, across.stop, down.stop, probability[down, across][inside].mean()))
    table = np.array(rows, np.float64).reshape(-1, 5)
    order = np.argsort(-table[:, 4], kind="stable")
    return Boxes(table[order, :4], table[order, 4], np.zeros(len(table), np.int64))


def detections(head: str, outputs: Sequence[npt.NDArray[np.generic]]) -> list[Boxes]:
    """The boxes on each image. head: yolo, ssd, yunet or text; outputs: those of the network, batch first."""
    first = np.asarray(outputs[0], np.float64)
    if head == "yunet":
        parts = [np.asarray(output, np.float64) for output in outputs[:9]]
        each = [[part[image] for part in parts] for image in range(len(first))]
        return [yunet(heads[:3], heads[3:6], heads[6:]) for heads in each]
    if head == "ssd":
        return [ssd(s, c) for s, c in zip(first, np.asarray(outputs[1], np.float64), strict=True)]
    if head == "yolo":
        return [yolo(x) for x in first]
    return [text(x[0]) for x in first]


def matched(want: Boxes, got: Boxes, least: float = 0.5) -> int:
    """How many boxes of one network another found too: of the same class, one to one, the best first."""
    if not len(want) or not len(got):
        return 0
    table = overlaps(want.corners, got.corners) * (want.classes[:, None] == got.classes[None, :])
    free = np.ones(len(got), bool)
    count = 0
    for row in table:
        best = int(np.argmax(np.where(free, row, -1.0)))
        if free[best] and row[best] >= least:
            free[best] = False
            count += 1
    return count
