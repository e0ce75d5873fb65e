"""The one traversal of ModelProtos."""

from __future__ import annotations

import ast
import pathlib

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper

import dfmpc_onnx
import dfmpc_passes
from dfmpc_onnx.model import protos

NESTED = """
<ir_version: 8, opset_import: ["": 17, "my.ops": 3]>
net (float[2] x, bool flag) => (float[2] y) <float[2] outside = {1, 2}>
{
    near = Neg (x)
    y = If (flag) <
        then_branch = yes () => (float[2] a) <float[2] inside = {3, 4}> {
            deep = If (flag) <
                then_branch = deeper () => (float[2] b) { b = Add (near, outside) },
                else_branch = handed () => (float[2] near) { }
            >
            a = Mul (deep, inside)
        },
        else_branch = no () => (float[2] c) { c = my.ops.Relu (x) }
    >
}
"""


@pytest.fixture
def nested() -> onnx.ModelProto:
    return onnx.parser.parse_model(NESTED)


def test_the_standard_domain_has_two_names_and_no_other() -> None:
    named = {domain: helper.make_node("Relu", ["x"], ["y"], domain=domain) for domain in ("", "ai.onnx", "my.ops")}
    assert [protos.op_of(node) for node in named.values()] == ["Relu", "Relu", "my.ops::Relu"]
    fused = helper.make_node("FusedConv", ["x"], ["y"], domain="com.microsoft")
    assert protos.op_of(fused) == "com.microsoft::FusedConv"
    assert protos.op_of(fused, protos.RUNTIME_DOMAINS) == "FusedConv"
    assert protos.op_name(None, "Relu") == "Relu"  # as graphsurgeon has it


def test_the_opset_is_that_of_the_standard_domain(nested: onnx.ModelProto) -> None:
    assert protos.standard_opset(nested) == 17
    assert protos.standard_opset(onnx.FunctionProto()) == 1
    other_name = helper.make_model(nested.graph, opset_imports=[helper.make_opsetid("ai.onnx", 15)])
    assert protos.standard_opset(other_name) == 15


def test_every_node_stands_in_bodies_and_functions_too(nested: onnx.ModelProto) -> None:
    nested.functions.append(
        helper.make_function(
            "my.ops", "Relu", ["i"], ["o"], [helper.make_node("Max", ["i"], ["o"])], [helper.make_opsetid("", 17)]
        )
    )
    found = [protos.op_of(node) for node in protos.all_nodes(nested)]
    assert found == ["Neg", "If", "If", "Add", "Mul", "my.ops::Relu", "Max"]
    assert [body.name for body in protos.bodies(nested.graph.node[1])] == ["yes", "no"]


def test_a_node_reads_what_its_bodies_capture_and_not_what_they_make(nested: onnx.ModelProto) -> None:
    outer = nested.graph.node[1]
    # `near` also where a body hands it through as its own output.
    assert sorted(set(protos.names_read(outer))) == ["flag", "near", "outside", "x"]


def test_what_an_outer_name_hides_is_no_capture() -> None:
    body = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "body",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
    )
    assert not list(protos.captured_names(body))


def test_an_input_that_is_left_out_is_not_read() -> None:
    assert list(protos.names_read(helper.make_node("Clip", ["x", "", "high"], ["y"]))) == ["x", "high"]


def test_needed_keeps_order_and_leaves_out_what_nothing_depends_on(nested: onnx.ModelProto) -> None:
    nested.graph.node.insert(1, helper.make_node("Exp", ["x"], ["unread"]))
    kept, names = protos.nodes_behind(nested.graph.node, ["y"])
    assert [node.op_type for node in kept] == ["Neg", "If"]
    assert names == {"y", "flag", "near", "outside", "x"}


def test_a_chain_as_long_as_a_file_is_no_matter_of_depth() -> None:
    nodes = [helper.make_node("Neg", [f"t{i}"], [f"t{i + 1}"]) for i in range(20_000)]
    kept, _ = protos.nodes_behind(nodes, ["t20000"])
    assert len(kept) == 20_000 and protos.makers(nodes)["t7"] is nodes[6]


def test_who_makes_and_who_reads_a_tensor() -> None:
    square = helper.make_node("Mul", ["x", "x"], ["y"])
    assert protos.makers([square]) == {"y": square}
    assert protos.readers([square]) == {"x": [square, square]}


def test_tensors_are_found_wherever_they_stand(nested: onnx.ModelProto) -> None:
    value = numpy_helper.from_array(np.float32([5]), "held")
    nested.graph.node.append(helper.make_node("Constant", [], ["five"], value=value))
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.float32([6]), "rare"), numpy_helper.from_array(np.int64([0]), "where"), [4]
    )
    nested.graph.sparse_initializer.append(sparse)
    assert {tensor.name for tensor in protos.all_tensors(nested)} == {"outside", "inside", "held", "rare", "where"}
    assert [tensor.values.name for tensor in protos.sparse_tensors(nested)] == ["rare"]
    assert protos.initializer_names(nested.graph) == {"outside", "rare"}
    assert set(protos.initializers(nested.graph)) == {"outside"}


def test_an_input_with_an_initializer_is_not_fed(nested: onnx.ModelProto) -> None:
    nested.graph.input.append(helper.make_tensor_value_info("outside", onnx.TensorProto.FLOAT, [2]))
    assert protos.fed_names(nested.graph) == ["x", "flag"]


def test_the_value_of_a_constant_node() -> None:
    one = protos.stored_value(helper.make_node("Constant", [], ["c"], value_int=7))
    assert one is not None and numpy_helper.to_array(one).tolist() == 7 and not one.dims
    tensor = protos.stored_value(helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.ones(2))))
    assert tensor is not None and list(tensor.dims) == [2]
    assert protos.stored_value(helper.make_node("Constant", [], ["c"], value_string="word")) is None
    foreign = helper.make_node("Constant", [], ["c"], value_int=7, domain="my.ops")
    assert protos.stored_value(foreign) is None


def test_a_field_may_be_filled_from_itself(nested: onnx.ModelProto) -> None:
    protos.put_in(nested.graph.node, [nested.graph.node[1], nested.graph.node[0]])
    assert [node.op_type for node in nested.graph.node] == ["If", "Neg"]


def test_nobody_else_spells_out_the_standard_domain() -> None:
    files = [path for at in (dfmpc_onnx, dfmpc_passes) for path in pathlib.Path(at.__path__[0]).rglob("*.py")]
    spelled = [
        f"{path.name}:{node.lineno}"
        for path in files
        if path.name != "protos.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value == "ai.onnx"
    ]
    assert len(files) > 100 and not spelled
