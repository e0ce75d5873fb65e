import numpy as np
import pytest

from tools.zoo.detection import Boxes, detections, matched, overlaps, suppressed


def boxes(*rows):
    """rows: x1, y1, x2, y2, score, class."""
    table = np.array(rows, float).reshape(-1, 6)
    return Boxes(table[:, :4], table[:, 4], table[:, 5].astype(int))


def overlap(a, b):
    """Intersection over union of two boxes of whole numbers, by counting cells."""
    cells = [{(x, y) for x in range(c[0], c[2]) for y in range(c[1], c[3])} for c in (a, b)]
    union = len(cells[0] | cells[1])
    return len(cells[0] & cells[1]) / union if union else 0.0


def test_overlaps_are_those_of_the_cells():
    random = np.random.default_rng(0)
    a, b = (random.integers(0, 8, (9, 4)) for _ in range(2))
    for table in (a, b):
        table[:, 2:] += table[:, :2]
    want = [[overlap(p, q) for q in b.tolist()] for p in a.tolist()]
    assert overlaps(a.astype(float), b.astype(float)) == pytest.approx(np.array(want))


def test_the_weaker_of_two_boxes_of_a_class_goes():
    found = suppressed(
        boxes((0, 0, 9, 10, 0.5, 1), (0, 0, 10, 10, 0.9, 1), (0, 0, 10, 10, 0.4, 2), (50, 0, 60, 9, 0.3, 1))
    )
    assert found.scores.tolist() == [0.9, 0.4, 0.3]


def test_matches_are_one_to_one_and_of_one_class():
    want = boxes((0, 0, 10, 10, 0.9, 0), (1, 0, 11, 10, 0.8, 0), (50, 50, 60, 60, 0.7, 1))
    assert matched(want, want) == 3
    assert matched(want, boxes((0, 0, 10, 10, 0.9, 0))) == 1
    assert matched(want, boxes((50, 50, 60, 60, 0.7, 0))) == 0
    assert matched(want, boxes((50, 50, 60, 65, 0.7, 1))) == 1
    assert matched(want, boxes((50, 50, 60, 75, 0.7, 1))) == 0
    assert matched(want, boxes()) == matched(boxes(), want) == 0


def test_heads():
    yolo = np.zeros((1, 6, 3))
    yolo[0, :, 1] = [20, 30, 4, 6, 0.1, 0.8]
    (found,) = detections("yolo", [yolo])
    assert (found.corners.tolist(), found.scores.tolist(), found.classes.tolist()) == ([[18, 27, 22, 33]], [0.8], [1])

    scores = np.array([[[0.1, 0.9], [0.8, 0.2]]])
    corners = np.array([[[0.1, 0.1, 0.2, 0.2], [0.3, 0.3, 0.4, 0.4]]])
    (found,) = detections("ssd", [scores, corners])
    assert (found.corners.tolist(), found.classes.tolist()) == ([[0.1, 0.1, 0.2, 0.2]], [0])

    heads = [np.zeros((1, n * n, k)) for k in (1, 1, 4) for n in (4, 2, 1)]  # a picture of 32x32
    heads[1][0, 3], heads[4][0, 3] = 0.9, 0.4  # the last cell of stride 16
    heads[7][0, 3] = [0.5, 0.5, 0.0, np.log(2)]
    (found,) = detections("yunet", heads)
    assert found.corners == pytest.approx(np.array([[16, 8, 32, 40]])) and found.scores == pytest.approx([0.6])

    page = np.zeros((1, 1, 20, 20))
    page[0, 0, 2:6, 3:13] = 0.9
    page[0, 0, 10:12, 0:2] = 0.9  # too small to be a word
    (found,) = detections("text", [page])
    assert found.corners.tolist() == [[3, 2, 13, 6]]
    assert found.scores.tolist() == pytest.approx([0.9])
