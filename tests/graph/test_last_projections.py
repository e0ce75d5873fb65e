"""Wide MatMuls at the end of a network."""

import numpy as np
import pytest

from dfmpc_onnx.graph.compared_outputs import compared_tensors
from dfmpc_onnx.graph.last_projections import last_projections, nodes_in_front
from tests import graphs


def weight(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def found(build):
    """What is found in a network whose input is [1, 7, 4]. build: of a `Net`; returns its outputs' names."""
    net = graphs.Net((1, 7, 4))
    names = build(net)
    graph = graphs.workspace(net.model(*names)).graph
    return graph, last_projections(graph, compared_tensors(graph).tensors)


def scores(net, *, out=20, bias=(20,)):
    x = net.node("MatMul", net.relu("x"), net.weight("w", weight(4, out)))
    return net.node("Add", x, net.weight("b", weight(*bias)))


def test_errors_in_front_are_as_long_as_behind_in_a_basis_of_few():
    graph, (last,) = found(lambda net: [net.node("Softmax", scores(net), axis=2)])
    assert last.node.op == "MatMul" and last.read.name == "relu1" and last.output == "add1"
    error = weight(3, 4)
    assert last.basis().shape == (4, 4)
    assert np.linalg.norm(error @ last.basis(), axis=1) == pytest.approx(np.linalg.norm(error @ last.weight, axis=1))
    behind = [node.op for node in graph.nodes if id(node) not in nodes_in_front(graph, [last.node.outputs[0]])]
    assert behind == ["Add", "Softmax"]


def read_twice(net):
    x = net.node("MatMul", net.relu("x"), net.weight("w", weight(4, 20)))
    return [net.node("Add", x, net.weight("b", weight(20))), net.relu(x)]


@pytest.mark.parametrize(
    "build",
    [
        lambda net: [scores(net, out=3, bias=(3,))],  # no wider than what it reads
        lambda net: [scores(net, bias=(2, 7, 20))],  # the shape becomes another
        lambda net: [net.relu(scores(net))],
        read_twice,
        lambda net: [net.node("MatMul", net.relu("x"), net.node("Transpose", net.relu("x"), perm=[0, 2, 1]))],
    ],
    ids=["narrow", "broadcast", "not linear", "two readers", "computed weight"],
)
def test_what_is_no_wide_linear_map_is_run(build):
    assert not found(build)[1]
