from dfmpc_onnx.graph.exchange import to_graph
from dfmpc_onnx.graph.known_scale import tensors_of_known_scale
from dfmpc_onnx.model.source import load
from tests import graphs


def test_a_scale_is_known_behind_known_inputs_normalizations_and_squashing_functions():
    net = graphs.Net()
    raw = net.conv("x", 4)
    squashed = net.node("Sigmoid", raw)
    normed = net.norm(raw)
    mixed = net.node("Add", raw, normed)
    graph = to_graph(load(net.model(net.relu(normed), mixed, net.node("Mul", normed, squashed))))
    unknown = {"x", "conv1", "add1"}
    names = {t.name for node in graph.nodes for t in node.outputs} | {"x"}
    assert names - tensors_of_known_scale(graph, ()) == unknown
    assert names == tensors_of_known_scale(graph, {"x"}) & names
