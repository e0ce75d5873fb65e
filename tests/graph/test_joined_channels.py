import pytest

from dfmpc_onnx.graph.joined_channels import joined_channels
from dfmpc_onnx.graph.operators import op_of
from tests import graphs


def groups_of(net, *outputs):
    graph = graphs.workspace(net.model(*outputs)).graph
    convs = {node.name for node in graph.nodes if op_of(node) == "Conv"}
    return [([n.name for n in g.makers], [n.name for n in g.readers]) for g in joined_channels(graph, convs)]


def test_channels_between_two_convs_are_a_group():
    net = graphs.Net()
    x = net.conv(net.relu(net.conv("x", 8)), 8, group=8)
    assert groups_of(net, net.tail(net.conv(x, 4))) == [(["conv1"], ["conv2"]), (["conv2"], ["conv3"])]


def test_a_sum_joins_its_branches():
    net = graphs.Net()
    x = net.relu(net.conv("x", 8))
    y = net.node("Add", net.conv(x, 8), x)
    assert groups_of(net, net.tail(net.conv(net.relu(y), 4))) == [(["conv1", "conv2"], ["conv2", "conv3"])]


@pytest.mark.parametrize("act", ["Sigmoid", "HardSwish", "Tanh"])
def test_what_keeps_no_factor_parts_nothing_from_its_neighbours_but_spoils_them(act):
    net = graphs.Net(opset=14)
    assert groups_of(net, net.tail(net.conv(net.node(act, net.conv("x", 8)), 4))) == []


def test_an_output_and_a_normalization_keep_their_channels():
    net = graphs.Net()
    x = net.conv("x", 8)
    assert groups_of(net, net.conv(x, 4), x) == []
    normed = graphs.Net()
    assert groups_of(normed, normed.tail(normed.conv(normed.block("x", 8), 4))) == []


def test_a_number_for_a_whole_map_added_to_it_keeps_its_channels():
    net = graphs.Net()
    x, y = net.conv("x", 8), net.conv("x", 1)
    assert groups_of(net, net.tail(net.conv(net.node("Add", x, y), 4))) == []
