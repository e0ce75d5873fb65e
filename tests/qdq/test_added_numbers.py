import numpy as np
import onnx
import pytest

import dfmpc_onnx
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


def test_a_layer_that_is_to_stay_float_keeps_its_weight_for_every_target():
    net = graphs.Net()
    x = net.node("Flatten", net.node("GlobalAveragePool", net.block("x", 8)))
    net.channels[x] = 8
    x = net.relu(net.matmul(x, 8))
    net.channels[x] = 8
    model = net.model(net.relu(net.matmul(x, 4)))
    options = {"weights": "8", "activations": "8", "target": "qnn", "layers": ("*=float",), "check": False}
    made = dfmpc_onnx.quantize(model, None, "per-channel", preprocess="raw", **options).model
    held = {t.name: t.data_type for t in made.graph.initializer}
    assert all(held.get(n.input[1]) == onnx.TensorProto.FLOAT for n in made.graph.node if n.op_type == "MatMul")
