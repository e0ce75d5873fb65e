"""How far images are from what BatchNormalizations measured; skipped without PyTorch."""

import numpy as np
import pytest

from dfmpc_onnx.graph.exchange import to_graph
from dfmpc_onnx.model.source import load
from tests.graphs import ALL, Net

torch = pytest.importorskip("torch")
match = pytest.importorskip("dfmpc_onnx.learning.batch_norm_match")

MEAN, STD = torch.tensor([0.5, -1.0]), torch.tensor([1.0, 2.0])
LAYER = match.MeasuredLayer("norm", "t", MEAN, STD, 0.0)
ONES = torch.ones(6, 1)


def exact(images: int = 6) -> torch.Tensor:
    """A map whose channels have exactly what the layer measured, in every image."""
    x = torch.randn(images, 2, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (x - x.mean(dim=(2, 3), keepdim=True)) / x.std(dim=(2, 3), keepdim=True, correction=0)
    return (x * STD.reshape(1, 2, 1, 1) + MEAN.reshape(1, 2, 1, 1)).float()


def loss(x, slack=None, weights=ONES, each_image=False):
    slacks = [slack or match.SlackWidths()]
    return float(match.matching_loss({"t": x}, [LAYER], slacks, weights, each_image=each_image))


def test_mean_and_deviation_are_those_of_numpy():
    x = exact() + 0.3
    mean, std = LAYER.of(x, each_image=False)
    assert np.allclose(mean, x.numpy().mean(axis=(0, 2, 3)), atol=1e-5)
    assert np.allclose(std, x.numpy().std(axis=(0, 2, 3)), atol=1e-5)
    mean, std = LAYER.of(x, each_image=True)
    assert np.allclose(mean, x.numpy().mean(axis=(2, 3)), atol=1e-5) and mean.shape == (6, 2)
    assert np.allclose(std, x.numpy().std(axis=(2, 3)), atol=1e-5)


@pytest.mark.parametrize("each_image", [False, True])
def test_images_of_what_was_measured_cost_nothing(each_image):
    assert loss(exact(), each_image=each_image) == pytest.approx(0.0, abs=1e-9)


def test_the_loss_is_the_sum_over_channels_of_squares():
    assert loss(exact() + 0.5) == pytest.approx(2 * 0.25, rel=1e-4)
    assert loss(exact() + 0.5, each_image=True) == pytest.approx(2 * 0.25, rel=1e-4)


def test_over_a_batch_images_may_differ_and_image_by_image_they_may_not():
    x = exact()
    moved = x + torch.tensor([1.0, -1.0] * 3).reshape(6, 1, 1, 1)
    assert loss(moved, match.SlackWidths(0.0, 9.0)) == pytest.approx(0.0, abs=1e-9)
    assert loss(moved, match.SlackWidths(0.0, 9.0), each_image=True) == pytest.approx(2.0, rel=1e-4)


def test_within_the_slack_there_is_no_penalty_and_beyond_it_that_of_the_rest():
    wide = match.SlackWidths(mean=0.5, std=9.0)
    assert loss(exact() + 0.49, wide, each_image=True) == 0.0
    assert loss(exact() + 0.8, wide, each_image=True) == pytest.approx(2 * 0.3**2, rel=1e-3)
    x = (exact() + 0.49).requires_grad_(True)
    match.matching_loss({"t": x}, [LAYER], [wide], ONES, each_image=True).backward()
    assert not x.grad.any()


def test_an_enhanced_layer_costs_its_image_twice():
    weights = torch.ones(6, 1)
    weights[2] = 2.0
    x = exact()
    x[2] += 0.5
    assert loss(x, weights=weights, each_image=True) == pytest.approx(2 * loss(x, each_image=True), rel=1e-4)


def test_slack_is_what_a_share_of_gaussian_gaps_does_not_exceed():
    x = torch.randn(50, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    (found,) = match.slack_of({"t": x}, [LAYER], 0.9)
    mean, std = x.numpy().mean(axis=(2, 3)), x.numpy().std(axis=(2, 3))
    assert found.mean == pytest.approx(np.quantile(np.abs(mean - MEAN.numpy()), 0.9), rel=1e-4)
    assert found.std == pytest.approx(np.quantile(np.abs(std - STD.numpy()), 0.9), rel=1e-4)
    assert (np.abs(mean - MEAN.numpy()) <= found.mean).mean() == pytest.approx(0.9, abs=0.02)


def test_a_map_of_one_pixel_has_no_deviation_image_by_image():
    x = MEAN.reshape(1, 2, 1, 1).expand(6, 2, 1, 1)
    assert loss(x, each_image=True) == 0.0
    assert loss(x, each_image=False) > 0.0
    assert loss(MEAN.reshape(1, 2).expand(6, 2), each_image=True) == 0.0


def test_the_distance_is_in_deviations_of_the_layer():
    assert match.distance({"t": exact()}, [LAYER]) == pytest.approx((0.0,), abs=1e-5)
    assert match.distance({"t": exact() + 0.5}, [LAYER]) == pytest.approx(((0.5 / 1 + 0.5 / 2) / 2,), rel=1e-4)


def test_layers_are_found_with_what_they_measured_and_folded_networks_have_none():
    graph = to_graph(load(ALL["chain"]()))
    found = match.measured_layers(graph, "cpu")
    assert [layer.name for layer in found] == ["norm1", "norm2", "norm3"]
    assert [layer.tensor for layer in found] == ["conv1", "conv2", "conv3"]
    variance = graph.tensors()["norm1.variance"].values
    assert np.allclose(found[0].std, np.sqrt(variance + 1e-5), rtol=1e-6)
    assert match.measured_layers(to_graph(load(ALL["folded"]())), "cpu") == ()


def test_a_batch_normalization_in_training_mode_measured_nothing_that_counts():
    net = Net()
    model = net.model(net.tail(net.relu(net.norm(net.conv("x", 4)))))
    graph = to_graph(load(model))
    next(node for node in graph.nodes if node.op == "BatchNormalization").attrs["training_mode"] = 1
    assert match.measured_layers(graph, "cpu") == ()
