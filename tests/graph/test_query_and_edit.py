import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from dfmpc_onnx.errors import shown
from dfmpc_onnx.graph.edit import Namer, detached_weights, insert, remove, remove_unused, replace_reads
from dfmpc_onnx.graph.exchange import to_model
from dfmpc_onnx.graph.opset import ir_version_for
from dfmpc_onnx.graph.query import (
    constant,
    consumers,
    describe,
    has_input,
    input_constant,
    nodes_by_name,
    only_consumer,
    producer,
)
from tests import graphs


def residual():
    return graphs.workspace(graphs.residual()).graph


def named(graph, name):
    return nodes_by_name(graph)[name]


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("layer1/conv", "layer1/conv"),
        ("größe", "größe"),
        ("a\x1b[31mb\nc\u202ed", "a?[31mb?c?d"),
        ("x" * 200, "x" * 80 + "..." + "x" * 37),
    ],
)
def test_names_from_a_model_are_made_safe_to_show(name, safe):
    assert shown(name) == safe


def test_a_node_is_named_by_operator_and_name():
    assert describe(named(residual(), "conv2")) == "Conv 'conv2'"


def test_producers_and_consumers():
    graph = residual()
    relu = named(graph, "relu1")
    assert producer(relu.outputs[0]) is relu
    assert [n.name for n in consumers(relu.outputs[0])] == ["conv2", "add1"]
    assert producer(graph.inputs[0]) is None
    assert only_consumer(graph, named(graph, "conv2").outputs[0]).name == "norm2"


def test_a_node_that_reads_a_tensor_twice_is_one_consumer():
    net = graphs.Net()
    graph = graphs.workspace(net.model(net.node("Add", net.conv("x", 2), "conv1"))).graph
    assert [n.name for n in consumers(graph.nodes[0].outputs[0])] == ["add1"]


def test_why_there_is_not_one_consumer():
    graph = residual()
    assert only_consumer(graph, graph.outputs[0]) == "'gemm1' is an output of the model"
    assert "has 2 consumers (Conv 'conv2', Add 'add1')" in only_consumer(graph, named(graph, "relu1").outputs[0])
    assert only_consumer(graph, gs.Variable("alone")) == "nothing reads 'alone'"


def test_constants_are_read_and_computed_tensors_are_none():
    conv = named(residual(), "conv1")
    assert input_constant(conv, 1).shape == (8, 3, 3, 3)
    assert input_constant(conv, 0) is None and input_constant(conv, 2) is None
    assert has_input(conv, 1) and not has_input(conv, 2)


def test_a_namer_never_gives_a_name_twice_nor_one_that_is_there():
    names = Namer(residual())
    assert [names("conv1"), names("conv1"), names("fresh"), names("fresh")] == [
        "conv1_1",
        "conv1_2",
        "fresh",
        "fresh_1",
    ]


def test_inserting_keeps_the_order_of_the_rest():
    graph = residual()
    before = [n.name for n in graph.nodes]
    fresh = [gs.Node("Relu", name) for name in "abc"]
    at = id(named(graph, "conv2"))
    insert(graph, before={at: [fresh[0]]}, after={at: [fresh[1]]}, first=[fresh[2]])
    names = [n.name for n in graph.nodes]
    assert names[0] == "c"
    i = names.index("conv2")
    assert names[i - 1 : i + 2] == ["a", "conv2", "b"]
    assert [n for n in names if n not in "abc"] == before


def test_removing_disconnects():
    graph = residual()
    relu = named(graph, "relu2")
    source = relu.inputs[0]
    replace_reads(relu.outputs[0], source)
    remove(graph, [relu])
    assert [n.name for n in consumers(source)] == ["conv3"]
    assert "relu2" not in nodes_by_name(graph)


def test_reads_are_replaced_except_those_kept():
    graph = residual()
    old, keep = named(graph, "relu1").outputs[0], named(graph, "add1")
    replace_reads(old, graph.inputs[0], keep=[keep])
    assert named(graph, "conv2").inputs[0] is graph.inputs[0]
    assert keep.inputs[1] is old


def test_whole_chains_that_nothing_reads_are_taken_off():
    net = graphs.Net()
    x = net.conv("x", 2)
    net.relu(net.relu(net.relu(x)))
    graph = graphs.workspace(net.model(x)).graph
    assert remove_unused(graph) == 3
    assert graphs.ops(graph) == ["Conv"]


def big():
    net = graphs.Net()
    return graphs.workspace(net.model(net.conv(net.conv("x", 64), 32))).graph


def test_detached_weights_are_inputs_within_the_block_and_back_behind_it():
    graph = big()
    before = to_model(graph).SerializeToString()
    with detached_weights(graph) as names:
        assert names == ["conv1.w", "conv2.w"]
        assert [t.name for t in graph.inputs] == ["x", *names]
        skeleton = to_model(graph)
        assert len(skeleton.SerializeToString()) < 1000
        onnx.checker.check_model(skeleton)
    assert to_model(graph).SerializeToString() == before


def test_detached_weights_come_back_after_an_error():
    graph = big()
    with pytest.raises(ZeroDivisionError), detached_weights(graph):
        raise ZeroDivisionError
    assert [t.name for t in graph.inputs] == ["x"]
    assert isinstance(constant(graph.tensors()["conv1.w"]), np.ndarray)


@pytest.mark.parametrize(("opset", "ir"), [(9, 4), (13, 7), (21, 10), (25, 13)])
def test_the_ir_version_that_goes_with_an_opset(opset, ir):
    assert ir_version_for(opset) == ir


def test_many_nodes_of_one_name_are_numbered_without_counting_anew():
    class Taken(set):
        asked = 0

        def __contains__(self, name):
            Taken.asked += 1
            return super().__contains__(name)

    names = Namer(gs.Graph())
    names._taken = Taken()
    assert [names("a") for _ in range(100)] == ["a", *(f"a_{n}" for n in range(1, 100))]
    assert Taken.asked <= 300
