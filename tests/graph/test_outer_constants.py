import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from dfmpc_onnx.graph.outer_constants import hoist


def branches(first: float, second: float, outside: bool = False) -> onnx.ModelProto:
    """An If whose branches each hold an initializer 'w'."""

    def body(value: float) -> onnx.GraphProto:
        weight = numpy_helper.from_array(np.full(3, value, np.float32), "w")
        output = helper.make_tensor_value_info("o", onnx.TensorProto.FLOAT, [3])
        return helper.make_graph([helper.make_node("Add", ["x", "w"], ["o"])], "body", [], [output], [weight])

    node = helper.make_node("If", ["flag"], ["y"], then_branch=body(first), else_branch=body(second))
    inputs = [
        helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [3]),
        helper.make_tensor_value_info("flag", onnx.TensorProto.BOOL, []),
    ]
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [3])
    stored = [numpy_helper.from_array(np.full(3, first, np.float32), "w")] if outside else []
    graph = helper.make_graph([node], "g", inputs, [output], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)


def held(model: onnx.ModelProto) -> list[int]:
    """Initializers outside, and in the two bodies."""
    bodies = [attribute.g for attribute in model.graph.node[0].attribute]
    return [len(graph.initializer) for graph in (model.graph, *bodies)]


@pytest.mark.parametrize("outside", [True, False])
def test_what_both_bodies_read_is_stored_once(outside):
    model = branches(1, 1, outside)
    hoist(model)
    assert held(model) == [1, 0, 0]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {"x": np.zeros(3, np.float32), "flag": np.array(True)})
    assert made.tolist() == [1, 1, 1]


def test_other_values_of_the_same_name_stay_where_they_are():
    model = branches(1, 2)
    hoist(model)
    assert held(model) == [0, 1, 1]
