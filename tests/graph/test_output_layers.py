import numpy as np
from onnx import helper

from dfmpc_onnx.graph.exchange import to_graph
from dfmpc_onnx.graph.output_layers import multiply_adds, output_layers
from dfmpc_onnx.model.source import load
from tests import graphs


def found(model):
    graph = to_graph(load(model))
    return output_layers(graph, {node.name for node in graph.nodes})


def test_the_layers_behind_which_none_follows_and_whether_they_become_scores():
    net = graphs.Net()
    x = net.relu(net.conv("x", 8))
    score = net.node("Sigmoid", net.node("Transpose", net.conv(x, 1), perm=[0, 2, 3, 1]))
    assert found(net.model(score, net.conv(x, 4))) == {"conv2": True, "conv3": False}


def test_a_layer_that_only_they_read_linearly_is_one_with_them():
    net = graphs.Net()
    x = net.conv(net.relu(net.conv("x", 8)), 1)
    assert found(net.model(net.node("Sigmoid", net.conv(x, 1)))) == {"conv2": True, "conv3": True}


def test_a_layer_that_others_read_as_well_is_not():
    net = graphs.Net()
    x = net.conv("x", 8)
    assert found(net.model(net.conv(x, 1), net.conv(net.relu(x), 2))) == {"conv2": False, "conv3": False}


def test_a_gate_in_front_of_a_layer_is_none():
    net = graphs.Net()
    x = net.conv("x", 8)
    gated = net.node("Mul", x, net.node("Sigmoid", net.conv(x, 8)))
    assert found(net.model(net.conv(net.relu(gated), 2))) == {"conv3": False}


def test_costs_are_weights_times_positions_whatever_sizes_the_file_leaves_open():
    net = graphs.Net(("n", 3, "h", "w"))
    x = net.relu(net.conv("x", 8))
    x = net.node("Flatten", net.node("GlobalAveragePool", net.conv(x, 8, group=8)))
    graph = to_graph(load(net.model(net.gemm(x, 5))))
    costs = multiply_adds(graph, {"x": (1, 3, 10, 12)})
    assert costs == {"conv1": 8 * 27 * 120, "conv2": 8 * 9 * 120, "gemm1": 40}


def test_where_sizes_are_not_known_a_cost_is_0():
    net = graphs.Net()
    x = net.node("Resize", "x", "", "", net.weight("sizes", np.array([1, 3, 4, 4])))
    net.channels[x] = 3
    graph = to_graph(load(net.model(net.conv(x, 2))))
    assert multiply_adds(graph, {"x": (1, 3, 8, 8)}) == {"conv1": 2 * 27 * 16}
    graph.nodes[-1].inputs[0].shape = None
    graph.nodes[0].op, graph.nodes[0].domain = "Anything", "my.ops"
    assert multiply_adds(graph, {"x": (1, 3, 8, 8)}) == {"conv1": 0}


def test_scores_beside_a_distribution_that_a_layer_reads_out_are_of_the_head():
    """YOLOv8's: box edges are means under a Softmax, by a Conv of one output; scores lie beside them in one Concat."""
    net = graphs.Net((1, 3, 8, 8))
    x = net.relu(net.conv("x", 8))
    both = net.node("Concat", net.conv(x, 16), net.conv(x, 1), axis=1)
    parts = net.weight("parts", np.array([16, 1]))
    net.nodes.append(helper.make_node("Split", [both, parts], ["edges", "score"], axis=1))
    edges = net.node("Reshape", "edges", net.weight("shape", np.array([1, 1, 16, 64])))
    edges = net.node("Transpose", edges, perm=[0, 2, 1, 3])
    net.channels[likely := net.node("Softmax", edges, axis=1)] = 16
    box = net.conv(likely, 1, kernel=1)
    assert found(net.model(box, net.node("Sigmoid", "score"))) == {"conv2": True, "conv3": True, "conv4": False}


def test_a_layer_of_several_outputs_behind_a_softmax_is_one_and_hides_those_in_front():
    net = graphs.Net((1, 3, 8, 8))
    x = net.conv(net.relu(net.conv("x", 8)), 8)
    assert found(net.model(net.conv(net.node("Softmax", x, axis=1), 4))) == {"conv3": False}


def test_a_layer_of_which_only_the_size_is_read_leads_nowhere():
    net = graphs.Net((1, 3, 8, 8))
    x = net.relu(net.conv("x", 8))
    score = net.conv(x, 1)
    size = net.node("Slice", net.node("Shape", score), *(net.weight(f"s{n}", np.array([n])) for n in (2, 4)))
    size = net.node("Concat", net.weight("rows", np.array([1, 8])), size, axis=0)
    net.channels[resized := net.node("Resize", x, "", "", size)] = 8
    assert found(net.model(score, net.conv(resized, 4))) == {"conv2": False, "conv3": False}
