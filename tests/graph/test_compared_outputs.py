import onnx_graphsurgeon as gs
import pytest

from dfmpc_onnx.graph.compared_outputs import compared_tensor
from tests import graphs


@pytest.mark.parametrize(("op", "found"), [("Softmax", "neg1"), ("Sigmoid", "neg1"), ("Relu", "relu1")])
def test_scores_stand_for_what_squeezes_them(op, found):
    net = graphs.Net()
    graph = graphs.workspace(net.model(net.node(op, net.node("Neg", "x")))).graph
    assert compared_tensor(graph.outputs[0]).name == found


def test_an_operator_of_another_domain_may_do_anything():
    net = graphs.Net()
    model = net.model(net.node("Sigmoid", net.node("Neg", "x"), domain="my.ops"))
    model.opset_import.append(graphs.helper.make_opsetid("my.ops", 1))
    graph = gs.import_onnx(model)
    assert compared_tensor(graph.outputs[0]) is graph.outputs[0]
