"""Where a network holds its scores of classes; none of it needs PyTorch."""

from dfmpc_onnx.graph.exchange import to_graph
from dfmpc_onnx.learning.class_scores import scores_tensor
from dfmpc_onnx.model.source import load
from tests.graphs import Net, chain


def test_scores_are_the_output_where_nothing_stands_behind_them():
    assert scores_tensor(to_graph(load(chain())), frozenset()) == "gemm1"


def test_scores_are_read_in_front_of_a_softmax_and_of_what_moves_values():
    net = Net()
    model = net.model(net.node("Identity", net.node("Softmax", net.tail(net.block("x", 8)), axis=-1)))
    assert scores_tensor(to_graph(load(model)), frozenset()) == "gemm1"


def test_a_network_whose_outputs_hold_no_classes_has_none():
    assert scores_tensor(to_graph(load(chain())), frozenset({"gemm1"})) is None
