import numpy as np
import pytest

from dfmpc_onnx.graph.exchange import to_graph
from dfmpc_onnx.model.source import load
from dfmpc_onnx.numerics.moments import ChannelMoments
from dfmpc_onnx.statistics.independent_moments import propagate
from dfmpc_onnx.statistics.normalized_sums import bounds_of_sums
from tests import graphs


def found(net, out, deviations=8.0):
    graph = to_graph(load(net.model(net.tail(out))))
    space = graphs.workspace(net.model(net.tail(out)), "8")
    known, _ = propagate(space.graph, space.inputs)
    return bounds_of_sums(graph, known, deviations)


def stream():
    """add2 = norm3 + add1, add1 = norm2 + norm1: sums without an activation between."""
    net = graphs.Net()
    first = net.norm(net.conv("x", 4), gamma=1.0, beta=0.5)
    second = net.node("Add", net.norm(net.conv(net.relu(first), 4), gamma=2.0, beta=-1.0), first)
    third = net.node("Add", net.norm(net.conv(second, 4), gamma=np.array([0.0, 0.0, 2.0, 0.0]), beta=0.0), second)
    return net, third


def test_variances_of_what_is_added_add():
    net, out = stream()
    bounds = found(net, out, deviations=3.0)
    assert bounds["add1"] == pytest.approx((-0.5 - 3 * np.sqrt(5), -0.5 + 3 * np.sqrt(5)), rel=1e-3)
    assert bounds["add2"] == pytest.approx((-0.5 - 3 * 3, -0.5 + 3 * 3), rel=1e-3)  # the widest channel


def test_half_as_many_deviations_are_covered_where_all_that_is_added_varies_together():
    net = graphs.Net()
    total = net.norm(net.conv("x", 4), gamma=1.0, beta=0.0)
    for _ in range(8):
        total = net.node("Add", net.norm(net.conv("x", 4), gamma=1.0, beta=0.0), total)
    bounds = found(net, total)
    assert bounds["add3"][1] == pytest.approx(8 * 2, rel=1e-3)  # of 4 tensors: sqrt(4) deviations, or 4 together
    assert bounds["add8"] == pytest.approx((-4 * 9, 4 * 9), rel=1e-3)  # of 9: sqrt(9), or 9 together


def test_what_follows_lies_between_the_bounds_and_0():
    net, out = stream()
    bounds = found(net, net.node("MaxPool", net.relu(out), kernel_shape=[2, 2]))
    top = -0.5 + 8 * 3
    assert bounds["relu2"] == bounds["maxpool1"] == pytest.approx((-0.5 - 8 * 3, top), rel=1e-3)


def test_behind_an_activation_nothing_is_said():
    net = graphs.Net()
    stem = net.block("x", 4)
    assert found(net, net.node("Add", net.norm(net.conv(stem, 4)), stem)) == {}


def test_a_tensor_added_to_itself_is_not_independent_of_itself():
    net = graphs.Net()
    norm = net.norm(net.conv("x", 4))
    assert found(net, net.node("Add", norm, norm)) == {}


def test_an_empty_sum_has_no_bounds():
    net, out = stream()
    graph = to_graph(load(net.model(net.tail(out))))
    nothing = ChannelMoments(*[np.zeros(0)] * 4)
    assert bounds_of_sums(graph, {"add1": nothing, "add2": nothing}, 8.0) == {}
