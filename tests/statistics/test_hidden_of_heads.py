from dfmpc_onnx.graph.exchange import to_graph
from dfmpc_onnx.model.source import load
from dfmpc_onnx.statistics.hidden_of_heads import hidden_of_heads
from tests import graphs


def found(model):
    return hidden_of_heads(to_graph(load(model)))


def test_what_score_and_box_convs_read_and_the_argument_of_its_gate():
    net = graphs.Net()
    trunk = net.relu(net.conv("x", 8))
    inner = net.conv(trunk, 8)
    gated = net.node("Mul", inner, net.node("Sigmoid", inner))
    score = net.node("Sigmoid", net.conv(gated, 1, kernel=1))
    box = net.conv(net.relu(net.conv(trunk, 8)), 4, kernel=1)
    assert found(net.model(score, box)) == {"conv2", "mul1", "conv4", "relu2"}


def test_a_classifier_by_a_conv_whose_maps_are_averaged_has_none():
    net = graphs.Net()
    scores = net.relu(net.conv(net.relu(net.conv("x", 8)), 5, kernel=1))
    assert found(net.model(net.node("GlobalAveragePool", scores))) == set()


def test_a_vector_for_a_gemm_is_none():
    net = graphs.Net()
    assert found(net.model(net.gemm(net.tail(net.block("x", 8), 6), 4))) == set()


def test_what_one_layer_of_a_head_gives_the_next_is_none():
    net = graphs.Net()
    x = net.conv(net.relu(net.conv("x", 8)), 4, kernel=1)
    assert found(net.model(net.conv(x, 4, group=4))) == {"conv1", "relu1"}
