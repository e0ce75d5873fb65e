import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfmpc_onnx.graph.exchange import to_graph
from dfmpc_onnx.model.source import load
from dfmpc_onnx.statistics.gated_ranges import cap_gated
from tests import graphs


def gated(op="Sigmoid"):
    """conv1 -> u; y = u gate(u); z = y gate(conv2)."""
    net = graphs.Net()
    u = net.conv("x", 4)
    y = net.node("Mul", u, net.node(op, u))
    z = net.node("Mul", y, net.node(op, net.conv("x", 4)))
    return to_graph(load(net.model(net.conv(z, 4))))


def capped(graph, ranges, pinned=("conv1",)):
    found = dict(ranges)
    cap_gated(graph, found, pinned, 1.5)
    return found


@given(st.floats(-20, 0), st.floats(0.1, 20))
def test_a_gated_tensor_reaches_no_further_than_the_image_of_its_arguments_range(low, high):
    found = capped(gated(), {"conv1": (low, high), "mul1": (-50.0, 50.0)})
    u = np.linspace(low, high, 1001)
    values = u / (1 + np.exp(-u))
    assert found["mul1"][0] == pytest.approx(values.min(), abs=1e-3)
    assert found["mul1"][1] == pytest.approx(values.max())


def test_where_no_batch_norm_fixes_the_argument_a_multiple_of_the_image_is_left():
    found = capped(gated(), {"conv1": (-10.0, 12.0), "mul1": (-50.0, 50.0)}, pinned=())
    assert found["mul1"] == pytest.approx((1.5 * -0.2785, 1.5 * 12 / (1 + np.exp(-12.0))), rel=1e-3)
    assert capped(gated(), {"conv1": (-10.0, 12.0), "mul1": (-0.4, 13.0)}, pinned=())["mul1"] == (-0.4, 13.0)


def test_a_range_within_that_image_stays():
    ranges = {"conv1": (-10.0, 12.0), "mul1": (-0.2, 6.0), "mul2": (-0.15, 1.5)}
    assert capped(gated(), ranges) == ranges


@pytest.mark.parametrize("missing", ["conv1", "mul1"])
def test_what_is_not_known_changes_nothing(missing):
    ranges = {"conv1": (-1.0, 2.0), "mul1": (-0.3, 6.0), "mul2": (-0.15, 1.5)}
    del ranges[missing]
    found = capped(gated(), ranges)
    assert found.keys() == ranges.keys() and found["mul2"] == (-0.15, 1.5)


def test_a_product_without_a_gate_keeps_its_range():
    ranges = {"conv1": (-1.0, 2.0), "mul1": (-9.0, 9.0)}
    assert capped(gated("Tanh"), ranges) == ranges
