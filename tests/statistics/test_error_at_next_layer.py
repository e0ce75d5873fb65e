"""What is read next, against samples that are pushed through the same nodes."""

import numpy as np
import pytest

from dfmpc_onnx.statistics.error_at_next_layer import next_input, read_next
from tests import graphs

CHANNELS = 6
SAMPLES = 200_000
LOST = 0.004  # of each channel's variance


def moments(seed=1):
    generator = np.random.default_rng(seed)
    return generator.uniform(-1, 1, CHANNELS), generator.uniform(0.2, 2, CHANNELS)


def found(net, *outputs, known=lambda tensor: None):
    graph = graphs.workspace(net.model(*outputs), "8").graph
    node = next(node for node in graph.nodes if node.name == "conv1")
    return next_input(graph, node, *moments(), known)


def sampled(function):
    """Error and variance per channel behind a function of ``[samples, channels]``, by samples."""
    generator = np.random.default_rng(0)
    mean, variance = moments()
    y = mean + np.sqrt(variance) * generator.standard_normal((SAMPLES, CHANNELS))
    wrong = y + np.sqrt(LOST * variance) * generator.standard_normal(y.shape)
    exact = function(y)
    return np.square(function(wrong) - exact).mean(axis=0), exact.var(axis=0)


def norm_of(net):
    """The BatchNormalization norm1 on a batch of the given moments."""
    gamma, beta = (net.weights[f"norm1.{key}"].astype(np.float64) for key in ("gamma", "beta"))
    mean, variance = moments()
    return lambda y: gamma * (y - mean) / np.sqrt(variance) + beta


def check(ahead, function):
    error, variance = sampled(function)
    np.testing.assert_allclose(LOST * ahead.error, error, rtol=0.05)
    np.testing.assert_allclose(ahead.variance, variance, rtol=0.06)
    whole = error.sum() / variance.sum() if ahead.layer else (error / variance).mean()
    assert ahead.share(np.full(CHANNELS, LOST)) == pytest.approx(whole, rel=0.03)


def start():
    net = graphs.Net()
    return net, net.conv("x", CHANNELS)


@pytest.mark.parametrize("act", ["Relu", "Clip", "LeakyRelu", "PRelu", "HardSwish", "Sigmoid", "Gate"])
def test_behind_a_norm_and_an_activation(act):
    net, x = start()
    net.opset = 14
    norm, x = norm_of, net.norm(x)
    slopes = np.linspace(0.1, 0.6, CHANNELS)
    if act == "Clip":
        x = net.clip(x, 0.0, 1.0)
    elif act == "PRelu":
        x = net.node("PRelu", x, net.weight("slopes", slopes.astype(np.float32).reshape(-1, 1, 1)))
    elif act == "Gate":
        x = net.node("Mul", x, net.node("Sigmoid", x))
    else:
        x = net.node(act, x)
    ahead = found(net, net.conv(x, 4))
    before = norm(net)
    functions = {
        "Relu": lambda z: np.maximum(z, 0),
        "Clip": lambda z: np.clip(z, 0, 1),
        "LeakyRelu": lambda z: np.where(z > 0, z, 0.01 * z),
        "PRelu": lambda z: np.where(z > 0, z, slopes * z),
        "HardSwish": lambda z: z * np.clip(z / 6 + 0.5, 0, 1),
        "Sigmoid": lambda z: 1 / (1 + np.exp(-z)),
        "Gate": lambda z: z / (1 + np.exp(-z)),
    }
    assert ahead.layer
    check(ahead, lambda y: functions[act](before(y)))


def test_a_norm_behind_the_activation_gives_each_channel_its_scale():
    net, x = start()
    ahead = found(net, net.conv(net.norm(net.relu(x)), 4))
    gamma = net.weights["norm1.gamma"].astype(np.float64)

    def function(y):
        rectified = np.maximum(y, 0)
        return gamma * (rectified - rectified[:1000].mean(axis=0)) / sampled(lambda y: np.maximum(y, 0))[1] ** 0.5

    check(ahead, function)


def test_a_sum_sets_the_error_beside_the_other_branch():
    net, x = start()
    total = net.node("Add", net.norm(x), net.relu("branch"))
    net.channels["branch"] = CHANNELS
    net.nodes.insert(0, graphs.helper.make_node("Conv", ["x", "conv1.w"], ["branch"], name="branch", pads=[1] * 4))
    other = np.linspace(0.1, 0.4, CHANNELS), np.linspace(0.5, 3, CHANNELS)
    ahead = found(net, net.conv(net.relu(total), 4), known=lambda t: other if t.name == "relu1" else None)
    generator = np.random.default_rng(5)
    added = other[0] + np.sqrt(other[1]) * generator.standard_normal((SAMPLES, CHANNELS))
    before = norm_of(net)
    check(ahead, lambda y: np.maximum(before(y) + added, 0))
    unknown = found(net, "conv2", known=lambda t: None)
    assert not unknown.layer  # the sum reads it, and of that nothing is known
    np.testing.assert_allclose(unknown.variance, net.weights["norm1.gamma"].astype(np.float64) ** 2)


def test_a_constant_that_is_added_moves_the_mean():
    net, x = start()
    shift = np.linspace(-2, 2, CHANNELS).astype(np.float32)
    ahead = found(net, net.conv(net.relu(net.node("Add", x, net.weight("shift", shift.reshape(1, -1, 1, 1)))), 4))
    check(ahead, lambda y: np.maximum(y + shift, 0))


def test_at_an_output_and_between_branches_each_channel_counts_alike():
    net, x = start()
    assert not found(net, x).layer
    net, x = start()
    y = net.norm(x)
    ahead = found(net, net.node("Mul", net.conv(y, CHANNELS), net.node("Sigmoid", net.relu(y))))
    assert ahead.layer  # one of two readers is a layer
    np.testing.assert_allclose(ahead.variance, net.weights["norm1.gamma"].astype(np.float64) ** 2)


def test_what_is_added_must_have_one_value_for_each_channel():
    """Eight columns of a map with eight rows and columns are no eight channels."""
    net = graphs.Net(("n", 3, 6, 6))
    x = net.conv("x", CHANNELS)
    row = net.weight("row", np.arange(CHANNELS, dtype=np.float32))
    stopped = found(net, net.conv(net.relu(net.node("Add", x, row)), 4))
    assert not stopped.layer
    np.testing.assert_array_equal(stopped.variance, moments()[1])


def test_where_no_gaussian_gets_through_the_layers_own_output_counts():
    net, x = start()
    ahead = found(net, net.conv(net.relu(net.norm(x, beta=-50.0)), 4))
    assert ahead.share(np.full(CHANNELS, LOST)) == pytest.approx(LOST)
    assert ahead.share(np.full(CHANNELS, np.nan)) == 1.0


def test_channels_that_are_never_seen_count_nothing():
    net, x = start()
    net.norm(x, beta=np.array([-50.0] * 3 + [0.0] * 3))
    ahead = found(net, net.conv(net.relu("norm1"), 4))
    assert ahead.share(np.array([1.0] * 3 + [0.0] * 3)) == 0
    net, x = start()
    net.norm(x, gamma=0.0)
    ahead = found(net, net.conv("norm1", 4))
    assert ahead.share(np.zeros(CHANNELS)) == 0 and ahead.share(np.ones(CHANNELS)) == 1


@pytest.mark.parametrize(("layer", "read"), [("conv1", "relu1"), ("conv2", "relu2"), ("conv3", "relu3")])
def test_errors_in_a_residual_block_are_read_behind_the_activation_and_the_sum(layer, read):
    graph = graphs.workspace(graphs.residual(), "8").graph
    node = next(node for node in graph.nodes if node.name == layer)
    assert read_next(graph, node).name == read


def test_errors_in_front_of_a_gate_are_read_behind_its_product():
    net = graphs.Net()
    x = net.norm(net.conv("x", 4))
    y = net.node("Mul", x, net.node("Sigmoid", x))
    graph = graphs.workspace(net.model(net.conv(y, 2)), "8").graph
    assert read_next(graph, graph.nodes[0]).name == y
