"""Learning itself, on a network that takes a moment; skipped without PyTorch."""

import numpy as np
import pytest

from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.graph.exchange import to_graph
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.inputs.spec import InputSpec
from dfmpc_onnx.learning.objectives import OBJECTIVES, balanced_labels
from dfmpc_onnx.learning.starting_images import starting_images
from dfmpc_onnx.model.source import load
from tests.graphs import chain

torch = pytest.importorskip("torch")
learn = pytest.importorskip("dfmpc_onnx.learning.learn")
match = pytest.importorskip("dfmpc_onnx.learning.batch_norm_match")
network = pytest.importorskip("dfmpc_onnx.learning.network")

SHAPE = (1, 3, 8, 8)
SPEC = InputSpec("x", SHAPE, np.dtype(np.float32), Preprocess.parse("imagenet"), resolved=SHAPE)


def learned(objective="zeroq", count=6, steps=20, rate=0.1, at_once=6, seed=0, tell=None):
    """Images of a chain, where they start, and how learning went."""
    graph = to_graph(load(chain()))
    layers = match.measured_layers(graph, "cpu")
    net = network.TorchNetwork(graph, {layer.tensor for layer in layers} | {"gemm1"}, "cpu", "net")
    chosen = OBJECTIVES[objective]
    start = starting_images(SPEC, count, at_once, seed)
    labels = balanced_labels(count, 5, seed) if chosen.labels else None
    learner = learn.Learner(net, layers, "gemm1", chosen, learn.Schedule(steps, rate, at_once), "cpu")
    return start, learner.learn(start, labels, (lambda step, loss: None) if tell is None else tell)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_loss_falls_and_images_change(objective):
    start, found = learned(objective)
    assert len(found.losses) == 20 and found.losses[-1] < found.losses[0]
    assert found.x.shape == start.x.shape and not np.array_equal(found.x, start.x)


@pytest.mark.parametrize("objective", ["zeroq", "labelled"])
def test_every_layer_sees_statistics_nearer_to_training_than_at_the_start(objective):
    _, found = learned(objective, steps=40)
    assert len(found.before) == 3
    assert all(after < before for before, after in zip(found.before, found.after, strict=True))


def test_dsg_lets_statistics_be_off_by_its_slack():
    _, plain = learned("zeroq", steps=40)
    _, slack = learned("dsg", steps=40)
    assert np.mean(slack.after) > np.mean(plain.after)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_same_seed_gives_the_same_images_and_another_others(objective):
    assert np.array_equal(learned(objective, steps=3)[1].x, learned(objective, steps=3)[1].x)
    assert not np.array_equal(learned(objective, steps=3)[1].x, learned(objective, steps=3, seed=1)[1].x)


def test_pixels_stay_within_what_bytes_become():
    start, found = learned(rate=5.0)
    assert (found.x >= start.low).all() and (found.x <= start.high).all()
    assert (found.x == start.high).any()


def test_images_come_nearer_to_their_classes_than_those_without_labels():
    labels = torch.from_numpy(balanced_labels(6, 5, 0))
    net = network.TorchNetwork(to_graph(load(chain())), {"gemm1"}, "cpu", "net")

    def label_loss(objective):
        _, found = learned(objective, steps=40)
        return float(learn.label_loss(net(torch.from_numpy(found.x))["gemm1"], labels))

    assert label_loss("labelled") < label_loss("zeroq")
    assert label_loss("dsg-labelled") < label_loss("dsg")


def test_batches_are_of_about_one_size_and_steps_are_counted_over_all_of_them():
    said = []
    _, found = learned(count=7, steps=2, at_once=3, tell=lambda step, loss: said.append((step, np.isnan(loss))))
    assert said == [(0, True), (1, False), (2, True), (3, False), (4, True), (5, False)]
    assert len(found.x) == 7 and len(found.losses) == 2


def test_a_loss_that_is_no_number_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(learn, "matching_loss", lambda *given, **more: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(ModelError, match="the loss is no number at step 0; lower --learning-rate"):
        learned()


def test_a_map_cannot_be_labelled():
    graph = to_graph(load(chain()))
    net = network.TorchNetwork(graph, {"relu3", "gemm1"}, "cpu", "net")
    assert learn.class_count(net, "gemm1", np.zeros((2, 3, 8, 8), np.float32), "cpu") == 5
    with pytest.raises(ModelError, match=r"'relu3' of shape \[2, 8, 8, 8\] holds no scores of classes.*zeroq or dsg"):
        learn.class_count(net, "relu3", np.zeros((2, 3, 8, 8), np.float32), "cpu")
