"""Boxes of a raw head: one for each object, and found again where another network has the same."""

import numpy as np

from dfmpc_onnx.numerics.boxes import Boxes, confident_boxes, crossed_corners, found_again, intersection_over_union

PLACES = np.array([[10, 10, 30, 30], [11, 10, 31, 30], [100, 100, 140, 120], [5, 5, 9, 9]], np.float64)
SCORES = np.array([[0.9, 0.1], [0.8, 0.0], [0.1, 0.6], [0.2, 0.1]])


def test_overlap_is_shared_area_over_all_of_it():
    a = np.array([[0.0, 0, 2, 2]])
    b = np.array([[1.0, 1, 3, 3], [0, 0, 2, 2], [5, 5, 6, 6], [2, 2, 1, 1]])
    assert intersection_over_union(a, b)[0].tolist() == [1 / 7, 1.0, 0.0, 0.0]


def test_the_weaker_box_of_an_object_and_those_of_low_score_are_dropped():
    found = confident_boxes(PLACES, SCORES, centred=False)
    assert found.corners.tolist() == PLACES[[0, 2]].tolist() and found.classes.tolist() == [0, 1]


def test_centre_and_size_become_corners():
    centre = np.array([[20, 20, 20, 20], [120, 110, 40, 20]], np.float64)
    assert confident_boxes(centre, SCORES[[0, 2]], centred=True).corners.tolist() == PLACES[[0, 2]].tolist()


def test_places_that_are_no_corners_are_counted():
    assert crossed_corners(PLACES) == 0
    assert crossed_corners(np.array([[20, 20, 20, 20], [120, 110, 40, 120], [0, 0, 0, 0], [9, 90, 9, 9]])) == 2


def test_a_box_is_found_again_by_one_of_its_class_that_stands_for_no_other():
    want = confident_boxes(PLACES, SCORES, centred=False)
    assert found_again(want, want) == 2
    assert found_again(want, Boxes(want.corners + 2, want.classes)) == 2
    assert found_again(want, Boxes(want.corners + 30, want.classes)) == 0
    assert found_again(want, Boxes(want.corners, want.classes[::-1])) == 0
    assert found_again(Boxes(want.corners[[0, 0]], want.classes[[0, 0]]), want) == 1
    assert found_again(want, Boxes(np.zeros((0, 4)), np.zeros(0, np.intp))) == 0
