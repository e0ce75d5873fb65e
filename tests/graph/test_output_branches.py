"""Scores beside boxes of the same scale are told by what stands in front of them."""

import numpy as np
import pytest

from dfmpc_onnx.evaluation.fidelity import compare
from dfmpc_onnx.evaluation.rounding_switches import ToggledRounding
from dfmpc_onnx.graph.compared_outputs import compared_tensors
from dfmpc_onnx.graph.output_branches import score_channels
from dfmpc_onnx.inputs.files import Images
from dfmpc_onnx.runtime.session import Session
from tests import graphs


def detector(turned: bool, noise: float = 0.0):
    """Boxes of 0 to 1 by arithmetic, and scores by a Sigmoid that are small; noise: what is added to the scores."""
    net = graphs.Net((2, 3, 8, 8))
    box = net.node("Clip", net.conv("x", 4), net.weight("lo", np.float32(0)), net.weight("hi", np.float32(1)))
    score = net.node("Sigmoid", net.node("Sub", net.conv("x", 2), net.weight("far", np.float32(4 - noise))))
    out = net.concat(box, score)
    return net.model(net.node("Transpose", out, perm=[0, 2, 3, 1]) if turned else out)


@pytest.mark.parametrize(("turned", "axis"), [(False, 1), (True, 3)])
def test_scores_and_boxes_of_one_scale_are_judged_apart(turned, axis):
    model, other = detector(turned), detector(turned, 0.7)
    found = score_channels(model)
    ((_, kinds),) = found.items()
    assert kinds.axis == axis and kinds.scores.tolist() == [False] * 4 + [True] * 2
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    pooled, apart = (compare(Session(model), Session(other), Images(x, None, ""), (), s) for s in ({}, found))
    assert pooled.sqnr_db > 20 and apart.sqnr_db < 8
    boxes, scores = apart.outputs[0].groups
    assert boxes.channels == ((0, 3),) and scores.channels == ((4, 5),) and boxes.sqnr_db == 200


@pytest.mark.parametrize("turned", [False, True])
def test_budgets_count_scores_and_boxes_apart(turned):
    """Pooled, an error that scores drown in is a small part of what boxes and scores together vary by."""
    graph = graphs.workspace(detector(turned)).graph
    boxes, scores = compared_tensors(graph).tensors
    assert (boxes.inputs[0].op, scores.inputs[0].op) == ("Clip", "Sigmoid")


def test_a_budget_counts_what_joined_scores_lose():
    """8 bits that are too coarse for the scores alone: less than the budget of 1 % of both, far more of theirs."""
    net = graphs.Net((4, 3, 8, 8))
    score = net.node("Sigmoid", net.node("Mul", "x", net.weight("tiny", np.float32(0.02))))
    model = net.model(
        net.concat(net.node("Clip", "x", net.weight("lo", np.float32(0)), net.weight("hi", np.float32(1))), score)
    )
    feeds = {"x": np.random.default_rng(0).random((4, 3, 8, 8), np.float32)}
    toggled = ToggledRounding(graphs.workspace(model, "8"), {"sigmoid1": np.float32(0.05)}, [["sigmoid1"]], feeds)
    boxes, scores = toggled.losses([0])
    assert boxes.share_of_variance == 0 and scores.share_of_variance > 0.5


def test_one_kind_alone_says_nothing():
    net = graphs.Net()
    alike = net.concat(net.node("Sigmoid", net.conv("x", 4)), net.node("Sigmoid", net.conv("x", 2)))
    assert score_channels(net.model(alike)) == {}
    assert len(compared_tensors(graphs.workspace(net.model(alike)).graph).tensors) == 1
