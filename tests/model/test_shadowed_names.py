"""A body that names a tensor as one outside is named reads its own, as onnxruntime does."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import dfmpc_onnx
from dfmpc_onnx.model.shadowed_names import shadows, unshadowed
from tests import graphs


def nested(inner: str, deepest: str) -> onnx.ModelProto:
    """A Conv, behind it a Loop that adds a constant, and in it an If that multiplies by another, so named."""
    net = graphs.Net()
    x = net.conv("x", 4)

    def constant(name: str, value: float) -> onnx.TensorProto:
        return numpy_helper.from_array(np.full((1, 4, 1, 1), value, np.float32), name)

    branches = {
        key: helper.make_graph(
            [helper.make_node("Mul", ["sum", deepest], [key])],
            key,
            [],
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, None)],
            [constant(deepest, factor)],
        )
        for key, factor in (("then_branch", 2.0), ("else_branch", 4.0))
    }
    body = helper.make_graph(
        [
            helper.make_node("Add", ["value", inner], ["sum"]),
            helper.make_node("If", ["go"], ["next"], **branches),
            helper.make_node("Identity", ["go"], ["still"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
        [constant(inner, 0.5)],
    )
    net.weight("outer", np.full((1, 4, 1, 1), -100, np.float32))
    net.weight("turns", np.array(2))
    x = net.node("Add", net.node("Loop", "turns", "", x, body=body), "outer")
    return net.model(x)


@pytest.mark.parametrize(("inner", "deepest"), [("outer", "k"), ("k", "outer"), ("outer", "outer"), ("k", "k")])
def test_an_inner_tensor_of_an_outer_name_gets_its_own(inner: str, deepest: str) -> None:
    model = nested(inner, deepest)
    before, x = model.SerializeToString(deterministic=True), graphs.input_of(nested("a", "b"))
    assert shadows(model)
    renamed = unshadowed(model)
    assert model.SerializeToString(deterministic=True) == before
    assert not shadows(renamed)
    assert np.array_equal(graphs.run(renamed, x)[0], graphs.run(nested("a", "b"), x)[0])


def test_branches_that_share_names_with_each_other_shadow_nothing() -> None:
    assert not shadows(nested("a", "b"))
    assert not shadows(graphs.chain())


def test_what_is_quantized_reads_the_inner_weight() -> None:
    made = dfmpc_onnx.quantize(nested("outer", "outer"), recipe="per-channel", weights="8")
    assert made.report.fidelity is not None
    assert made.report.fidelity.sqnr_db > 30
