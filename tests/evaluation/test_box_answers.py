"""How a detector's boxes are read is decided once, and for both networks alike."""

import numpy as np
import pytest

from dfmpc_onnx.evaluation.box_answers import BoxAnswers
from dfmpc_onnx.graph.output_branches import ScoreChannels

WEAK = [[x, y, 24, 20] for x in range(40, 640, 100) for y in range(40, 640, 100)]  # centre, width and height


def image(boxes, scores, background=WEAK):
    """``[1, places, 5]``: boxes with their scores, in front of weak ones."""
    places = np.array([*boxes, *background[len(boxes) :]], np.float64)
    padded = np.pad(scores, (0, len(places) - len(boxes)), constant_values=0.01)
    return np.concatenate([places, padded[:, None]], axis=1)[None]


def answers(*pairs):
    found = BoxAnswers(ScoreChannels(2, np.array([False] * 4 + [True])))
    for want, got in pairs:
        found.add(want, got)
    return found.result


@pytest.mark.parametrize(
    ("want", "got"),
    [
        ([[320, 320, 400, 400]], [[320, 320, 400, 400], [500, 500, 20, 20]]),
        ([[300, 300, 320, 320]], [[300, 300, 310, 310]]),
    ],
)
def test_a_box_that_could_be_corners_is_read_as_the_others_are(want, got):
    """One more weak box in the other network made it read its boxes in another way."""
    both = (image(boxes, np.linspace(0.9, 0.26, len(boxes))) for boxes in (want, got))
    assert answers(tuple(both)) == (1, 1)


def test_an_image_that_comes_later_decides_too():
    large = image([[320, 320, 400, 400]], [0.9], background=[])
    other = image([[300, 300, 420, 420]], [0.9], background=[])
    as_corners = answers((large, other))
    assert as_corners == (0, 1)
    assert answers((large, other), (image([], []), image([], []))) == (1, 1)


def test_a_few_corners_that_cross_do_not_make_them_centres():
    corners = [[x, y, x + 24, y + 20] for x, y, _, _ in WEAK]
    boxes = image([[10, 10, 300, 300], [400, 400, 380, 380]], [0.9, 0.8], corners)
    assert answers((boxes, image([[20, 20, 300, 300]], [0.9], corners))) == (1, 2)


def test_an_output_of_other_channels_than_the_graph_states_is_not_read():
    found = BoxAnswers(ScoreChannels(2, np.array([False] * 4 + [True] * 5)))
    found.add(image([], []), image([], []))
    assert found.result == (0, 0)
