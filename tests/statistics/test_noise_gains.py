"""Noise gains against the sum of squares of the Jacobian, one input value at a time, in networks without activation."""

import numpy as np
import pytest

from dfmpc_onnx.numerics.moments import ChannelMoments
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.statistics.independent_moments import propagate
from dfmpc_onnx.statistics.noise_gains import noise_gains, passing, signal_growth
from tests import graphs


def gains_of(model):
    space: Workspace = graphs.workspace(model, "8")
    known, _ = propagate(space.graph, space.inputs)
    return noise_gains(space.graph, known), known


def slow(model, known, place):
    """Sum over the outputs (at one place of a map) of squared derivatives by the values of each input channel."""
    zero = np.zeros((1, 3, 5, 5), np.float32)
    base = graphs.run(model, zero)[0]
    found = []
    for channel in range(3):
        total = 0.0
        for y in range(5):
            for x in range(5):
                moved = zero.copy()
                moved[0, channel, y, x] = 1
                total += float(np.square((graphs.run(model, moved)[0] - base)[place]).sum())
        found.append(total)
    return np.array(found) / known[model.graph.output[0].name].variance.mean()


def test_through_a_conv_and_batch_norms():
    net = graphs.Net((1, 3, 5, 5))
    model = net.model(net.norm(net.norm(net.conv(net.norm("x"), 6, 3))))
    gains, known = gains_of(model)
    np.testing.assert_allclose(gains["x"], slow(model, known, (0, slice(None), 2, 2)), rtol=1e-3)


def test_through_groups_and_both_branches_of_a_sum():
    net = graphs.Net((1, 3, 5, 5))
    model = net.model(net.conv("x", 6, 3, group=3))
    gains, known = gains_of(model)
    np.testing.assert_allclose(gains["x"], slow(model, known, (0, slice(None), 2, 2)), rtol=1e-3)
    net = graphs.Net((1, 3, 5, 5))
    x = net.conv("x", 6, 1)
    one, other = net.conv(x, 6, 1), net.conv(x, 6, 1)
    gains, _ = gains_of(net.model(net.node("Add", one, other)))
    sides = [np.square(net.weights[f"{name}.w"].astype(np.float64)).sum((0, 2, 3)) for name in (one, other)]
    np.testing.assert_allclose(gains[x], (sides[0] + sides[1]) * gains[one], rtol=1e-6)


@pytest.mark.parametrize("trans_b", [0, 1])
def test_through_a_flattened_map_and_a_classifier(trans_b):
    net = graphs.Net((1, 3, 5, 5))
    x = net.node("Flatten", "x")
    net.channels[x] = 75
    model = net.model(net.gemm(x, 7, trans_b))
    gains, known = gains_of(model)
    np.testing.assert_allclose(gains["x"], slow(model, known, slice(None)), rtol=1e-3)


def test_an_activation_passes_noise_on_where_it_is_not_flat():
    net = graphs.Net()
    x = net.norm(net.conv("x", 4), gamma=1.0, beta=np.array([0.0, -99.0, 99.0, 3.0]))
    gains, _ = gains_of(net.model(net.conv(net.clip(x), 2, 1)))
    np.testing.assert_allclose(gains[x], gains["clip1"] * [0.5, 0.0, 0.0, 0.9973], atol=2e-4 * gains["clip1"].max())


def test_a_product_multiplies_by_the_other_operand():
    net = graphs.Net()
    x = net.norm(net.conv("x", 4))
    scaled = net.node("Div", net.node("Mul", x, net.weight("half", np.float32(0.5))), net.weight("two", np.float32(2)))
    gate = net.node("Sigmoid", net.conv(net.node("GlobalAveragePool", scaled), 4, 1))
    gains, known = gains_of(net.model(net.node("Mul", scaled, gate)))
    np.testing.assert_allclose(gains[x], gains[scaled] / 16, rtol=1e-6)
    square = known[gate].variance + known[gate].mean ** 2
    assert (gains[scaled] >= square * gains["mul2"]).all()


def test_what_is_not_known_still_gives_a_number():
    net = graphs.Net()
    x = net.node("Erf", net.conv("x", 4))
    x = net.node("Concat", x, net.conv("x", 3), axis=1)
    gains, _ = gains_of(net.model(net.conv(net.relu(x), 2)))
    assert set(gains) >= {"x", "conv1", "conv2", "erf1"}
    assert all(np.isfinite(g).all() and (g > 0).all() for g in gains.values())


def test_how_often_a_channel_passes_is_not_known_without_moments_or_bounds():
    net = graphs.Net()
    x = net.relu(net.norm(net.conv("x", 2)))
    space = graphs.workspace(net.model(x), "8")
    node = space.graph.nodes[-1]
    assert passing(node, {}) is None
    moments = ChannelMoments(np.zeros(2), np.zeros(2), np.zeros(2), np.zeros(2))
    assert passing(node, {node.inputs[0].name: moments}) is not None


def test_errors_like_the_signal_grow_as_the_batch_norm_measured():
    net = graphs.Net()
    model = net.model(net.norm(net.conv(net.norm("x"), 4)))
    space = graphs.workspace(model, "8")
    known, _ = propagate(space.graph, space.inputs)
    conv = next(node for node in space.graph.nodes if node.op == "Conv")
    weight = conv.inputs[1].values.astype(np.float64)
    white = np.square(weight).sum(axis=(2, 3)) @ known[conv.inputs[0].name].variance
    measured = conv.outputs[0].outputs[0].inputs[4].values + 1e-5
    np.testing.assert_allclose(signal_growth(conv, known), measured / white, rtol=1e-3)
    conv.outputs[0].outputs[0].inputs[4].values = (4 * white).astype(np.float32)
    plain = noise_gains(space.graph, known)["x"]
    for likeness in (0.5, 1.0):
        np.testing.assert_allclose(noise_gains(space.graph, known, likeness)["x"], 4**likeness * plain, rtol=1e-3)


def test_growth_is_known_in_front_of_a_batch_norm_alone():
    net = graphs.Net()
    space = graphs.workspace(net.model(net.relu(net.conv(net.norm("x"), 4))), "8")
    known, _ = propagate(space.graph, space.inputs)
    assert [signal_growth(node, known) for node in space.graph.nodes] == [None] * 3
