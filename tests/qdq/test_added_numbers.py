import numpy as np
import pytest

from dfmpc_onnx.graph.exchange import to_graph
from dfmpc_onnx.model.source import load
from dfmpc_onnx.qdq.added_numbers import codes_fit, multiplies_by_codes
from tests import graphs


def multiplied(values, first=False):
    """A Mul of a map of three channels with a constant."""
    net = graphs.Net()
    factor = net.weight("k", np.asarray(values, np.float32))
    net.node("Mul", *((factor, "x") if first else ("x", factor)))
    graph = to_graph(load(net.model("mul1")))
    return next(node for node in graph.nodes if node.op == "Mul")


@pytest.mark.parametrize("codes", [[255, 1, 17], [255, 255, 254]])
@pytest.mark.parametrize("largest", [1.0, 0.3, 1e-4])
def test_whole_255ths_of_the_largest_are_codes(codes, largest):
    node = multiplied(largest * np.reshape(codes, (3, 1, 1)) / 255)
    assert multiplies_by_codes(node) and codes_fit(node)


@pytest.mark.parametrize("values", [[1, 0.5, 0.25], [1, -1, 1], [1, 0, 1], [1, np.inf, 1]])
def test_other_constants_are_not(values):
    assert not codes_fit(multiplied(np.reshape(values, (3, 1, 1))))


def test_one_number_and_a_constant_that_comes_first_are_left_to_others():
    assert not codes_fit(multiplied(1.0))
    assert not codes_fit(multiplied(np.ones((3, 1, 1)), first=True))
