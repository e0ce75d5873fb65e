import numpy as np
import pytest

from dfmpc_onnx.graph.channels import (
    MOST_PATHS,
    channel_count,
    channel_readings,
    channel_sources,
    keeps_factors,
    nothing,
    pools_without_zeros,
)
from tests import graphs


def graph_of(net, *outputs):
    return graphs.workspace(net.model(*outputs)).graph


def readings(graph, tensor):
    found = channel_readings(graph, graph.tensors()[tensor])
    return found if isinstance(found, str) else [(reading.node.name, reading.offset) for reading in found]


def sources(graph, tensor):
    found = channel_sources(graph.tensors()[tensor], pools_without_zeros)
    return sorted((node.name if node else "", first) for node, first in found)


def test_each_reader_sees_the_channels_at_its_own_offset():
    graph = graphs.workspace(graphs.dense()).graph
    assert readings(graph, "conv1") == [("norm1", 0), ("norm3", 0), ("norm5", 0)]
    assert readings(graph, "conv3") == [("norm3", 8), ("norm5", 8)]
    assert readings(graph, "conv5") == [("norm5", 12)]


def test_the_sources_are_the_readings_turned_round():
    graph = graphs.workspace(graphs.dense()).graph
    assert sources(graph, "concat2") == [("conv1", 0), ("conv3", 8), ("conv5", 12)]
    assert sources(graph, "concat1") == [("conv1", 0), ("conv3", 8)]
    assert sources(graph, "conv5") == [("conv5", 0)]


def test_what_is_joined_to_itself_is_read_twice():
    net = graphs.Net()
    y = net.conv("x", 4)
    graph = graph_of(net, net.relu(net.concat(y, net.conv("x", 2), y)))
    assert readings(graph, "conv1") == [("relu1", 0), ("relu1", 6)]


def test_the_channels_of_the_readings_are_those_of_the_tensor():
    """Slow reference: run the network, and look for the tensor's values in what each node reads."""
    model = graphs.dense()
    tensors = ("conv3", "concat1", "concat2")
    for name in tensors:
        model.graph.output.append(graphs.onnx.ValueInfoProto(name=name))
    _, conv3, concat1, concat2 = graphs.run(model)
    graph = graphs.workspace(graphs.dense()).graph
    read = {"concat1": concat1, "concat2": concat2}
    for reading in channel_readings(graph, graph.tensors()["conv3"]):
        whole = read[reading.node.inputs[0].name]
        assert np.array_equal(whole[:, reading.offset : reading.offset + 4], conv3)


@pytest.mark.parametrize("axis", [1, -3])
def test_channels_may_be_counted_from_the_end(axis):
    net = graphs.Net()
    parts = net.conv("x", 4), net.conv("x", 4)
    graph = graph_of(net, net.relu(net.node("Concat", *parts, axis=axis)))
    assert readings(graph, "conv2") == [("relu1", 4)]


def test_a_concat_along_another_axis_is_a_reader_like_any_other():
    net = graphs.Net()
    parts = net.conv("x", 4), net.conv("x", 4)
    graph = graph_of(net, net.relu(net.node("Concat", *parts, axis=2)))
    assert readings(graph, "conv2") == [("concat1", 0)]
    assert sources(graph, "concat1") == [("concat1", 0)]


def test_refused_where_it_leaves_the_model_on_the_way():
    net = graphs.Net()
    joined = net.concat(net.conv("x", 4), net.conv("x", 4))
    graph = graph_of(net, net.relu(joined), joined)
    assert readings(graph, "conv1") == "'concat1' is an output of the model"


def test_refused_where_nothing_reads_it():
    net = graphs.Net()
    joined = net.concat(net.conv("x", 4), net.conv("x", 4))
    assert readings(graph_of(net, net.relu("conv1")), "conv2") == f"nothing reads '{joined}'"


def test_refused_where_the_channels_in_front_are_not_known():
    net = graphs.Net()
    net.node("Relu", "x")
    graph = graph_of(net, net.relu(net.node("Concat", "relu1", net.conv("x", 4), axis=1)))
    graph.tensors()["relu1"].shape = None
    assert readings(graph, "conv1") == "Concat 'concat1': the number of channels of 'relu1' is not known"
    assert sources(graph, "concat1") == []


def test_a_conv_tells_its_channels_by_its_weight():
    net = graphs.Net()
    graph = graph_of(net, net.relu(net.conv("x", 4)))
    graph.tensors()["conv1"].shape = None
    assert channel_count(graph.tensors()["conv1"]) == 4
    assert channel_count(graph.tensors()["x"]) == 3


def test_doubling_without_end_is_refused():
    net = graphs.Net((1, 1, 1, 1))
    y = net.conv("x", 1, 1)
    for _ in range(60):
        y = net.node("Concat", y, y, axis=1)
    graph = graphs.to_graph(graphs.load(net.model(y)))
    graph.outputs = []
    assert readings(graph, "conv1") == f"it is read in more than {MOST_PATHS} ways"
    assert len(channel_sources(graph.tensors()[y], nothing)) <= MOST_PATHS


@pytest.mark.parametrize(
    ("pool", "attributes", "through"),
    [
        ("MaxPool", {"kernel_shape": [2, 2], "pads": [1] * 4}, True),
        ("AveragePool", {"kernel_shape": [2, 2]}, True),
        ("AveragePool", {"kernel_shape": [2, 2], "pads": [1] * 4}, True),
        ("AveragePool", {"kernel_shape": [2, 2], "pads": [1] * 4, "count_include_pad": 1}, False),
        ("GlobalAveragePool", {}, True),
    ],
)
def test_pooling_that_adds_no_zeros_is_looked_through(pool, attributes, through):
    net = graphs.Net()
    y = net.node(pool, net.conv("x", 4), **attributes)
    assert sources(graph_of(net, net.relu(y)), y) == [("conv1" if through else y, 0)]


def test_what_keeps_a_factor_is_looked_through_where_asked():
    net = graphs.Net()
    y = net.node("MaxPool", net.relu(net.conv("x", 4)), kernel_shape=[2, 2], strides=[2, 2])
    graph = graph_of(net, net.conv(net.clip(net.norm(net.concat(y, y))), 4))
    found = channel_readings(graph, graph.tensors()["conv1"], keeps_factors)
    assert [(reading.node.name, reading.offset) for reading in found] == [("norm1", 0), ("norm1", 4)]
    assert [(node.name, at) for node, at in channel_sources(graph.tensors()["concat1"], keeps_factors)] == [
        ("conv1", 0),
        ("conv1", 4),
    ]
    assert readings(graph, "norm1") == [("clip1", 0)]


def test_an_input_of_the_model_is_a_source_too():
    net = graphs.Net()
    graph = graph_of(net, net.conv(net.norm(net.concat(net.conv("x", 4), "x")), 4))
    assert sources(graph, "concat1") == [("", 4), ("conv1", 0)]
