import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from dfmpc_onnx.graph.compared_outputs import chosen_outputs, compared_tensor, compared_tensors
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


def detector(tail, **constants):
    """A layer with an output y [1, 4, 6, 6] behind it, and what is written behind that."""
    more = "".join(f", {kind} {name} = {{{values}}}" for name, (kind, values) in constants.items())
    weight = ", ".join(["1.0"] * 16)
    return onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 13]> net (float[1, 4, 6, 6] x) => (float[n, k] out) '
        f"<float[4,4,1,1] w = {{{weight}}}{more}> {{ y = Conv(x, w) {tail} }}"
    )


ONE = {"one": ("int64[1]", "1")}


@pytest.mark.parametrize(
    ("tail", "constants", "found"),
    [
        ("i = NonZero(y) out = Cast<to = 1>(i)", {}, ["y"]),
        ("s = Sigmoid(y) out, i = TopK(s, one)", ONE, ["y"]),
        ("r = Relu(y) i = NonZero(r) out = GatherND(y, i)", {}, ["y", "r"]),
        ("out = ArgMax(y)", {}, ["y"]),
        # what does not depend on a layer is the same in both networks
        ("i = NonZero(x) out = GatherND(y, i)", {}, ["out"]),
        ("s = Shape(y) i = NonZero(s) out = Gather(y, i)", {}, ["out"]),
        ("i = ArgMax<axis = 1>(y) f = Cast<to = 1>(i) out = Add(y, f)", {}, ["out"]),
    ],
)
def test_what_lies_in_front_of_a_choice_by_values_stands_for_what_is_chosen(tail, constants, found):
    graph = gs.import_onnx(detector(tail, **constants))
    compared = compared_tensors(graph)
    assert {tensor.name for tensor in compared.tensors} == set(found)
    assert compared.replaced == (() if found == ["out"] else ("out",))
    assert bool(compared.notes) == bool(compared.replaced)


def test_each_output_beside_a_choice_stands_for_itself_once():
    model = detector("r = Relu(y) i = NonZero(r) out = Cast<to = 1>(i)")
    model.graph.output.extend(graphs.helper.make_empty_tensor_value_info(name) for name in ("y", "r"))
    compared = compared_tensors(gs.import_onnx(model))
    assert [tensor.name for tensor in compared.tensors] == ["r", "y"] and compared.replaced == ("out",)


def test_outputs_whose_rows_are_chosen_by_values():
    """By those of the input, not by its size or by constants."""
    net = graphs.Net()
    x = net.node("Relu", "x")
    chosen = net.node("Transpose", net.node("NonZero", x), perm=[1, 0])
    size = net.node("NonZero", net.node("Shape", x))
    table = net.node("NonZero", net.weight("table", np.array([0, 1], np.int64)))
    model = net.model(x, chosen, size, table)
    assert chosen_outputs(model) == {chosen}
