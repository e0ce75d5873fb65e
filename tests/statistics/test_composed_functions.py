import numpy as np
import pytest

from dfmpc_onnx.graph.exchange import to_graph
from dfmpc_onnx.model.source import load
from dfmpc_onnx.statistics.composed_functions import compose
from tests import graphs


def gate(factor):
    """``u sigmoid(factor u)`` of a map u of three channels, as what it is a function of."""
    net = graphs.Net()
    u = net.conv("x", 3)
    net.node("Mul", u, net.node("Sigmoid", net.node("Mul", u, net.weight("k", np.asarray(factor, np.float32)))))
    found = {}
    for node in to_graph(load(net.model("mul2"))).nodes:
        if (function := compose(node, found)) is not None:
            found[node.outputs[0].name] = function
    return found.get("mul2")


def test_a_gate_with_a_factor_a_channel_is_a_function_of_each_channel():
    factor = np.array([1.0, 0.5, 0.1])
    found = gate(factor.reshape(3, 1, 1))
    x = np.array([[-2.0, 0.0, 3.0]])
    want = x / (1 + np.exp(-factor[:, None] * x))
    assert found.source == "conv1"
    np.testing.assert_allclose(found.function(x), want, rtol=1e-6)
    np.testing.assert_allclose(found.function(np.repeat(x, 3, axis=0)), want, rtol=1e-6)


@pytest.mark.parametrize("factor", [np.ones((1, 3, 8, 1)), np.ones((1, 1, 1, 8))])
def test_a_constant_of_another_shape_is_no_function(factor):
    assert gate(factor) is None
