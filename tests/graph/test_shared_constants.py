import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.shared_constants import merge, unshare


def two_products() -> gs.Graph:
    weight = gs.Constant("w", np.eye(2, dtype=np.float32))
    x, a, y = (gs.Variable(name, np.float32, [1, 2]) for name in "xay")
    nodes = [gs.Node("MatMul", "one", {}, [x, weight], [a]), gs.Node("MatMul", "two", {}, [a, weight], [y])]
    return gs.Graph(nodes, [x], [y], opset=13)


def test_each_layer_is_given_a_constant_of_its_own_over_the_same_array():
    graph = two_products()
    copied, shared = unshare(graph)
    first, second = (node.inputs[1] for node in graph.nodes)
    assert first is not second and first.name != second.name and first.values is second.values
    assert (copied, shared) == (["one"], {"one": "w", "two": "w"})


def test_what_is_still_the_same_array_is_one_constant_again():
    graph = two_products()
    unshare(graph)
    assert merge(graph) == 1
    assert graph.nodes[0].inputs[1] is graph.nodes[1].inputs[1]
    unshare(graph)
    graph.nodes[0].inputs[1].values = np.ones((2, 2), np.float32)
    assert merge(graph) == 0


def test_a_layer_whose_weight_another_operator_reads_is_known_to_share_it():
    graph = two_products()
    graph.nodes[1].op = "Add"
    assert unshare(graph) == (["one"], {"one": "w"})


def test_a_weight_that_is_an_output_as_well_is_stored_once_where_it_stays_float():
    graph = two_products()
    weight = graph.nodes[0].inputs[1]
    graph.outputs.append(weight)
    unshare(graph)
    assert all(node.inputs[1] is not weight for node in graph.nodes)
    assert merge(graph) == 2
    assert all(node.inputs[1] is weight for node in graph.nodes)
