"""Where a model's first BatchNormalizations stand, and the part in front of them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from dfmpc_onnx.model.leading_norms import MOST_LAYERS_AHEAD, FirstNorms, first_norms
from dfmpc_onnx.runtime.session import Session
from tests import graphs
from tests.graphs import Net


def names(found: FirstNorms | str) -> list[str]:
    assert isinstance(found, FirstNorms), found
    return [norm.name for norm in found.norms]


def test_only_what_the_first_one_depends_on_is_kept() -> None:
    found = first_norms(graphs.chain())
    assert names(found) == ["norm1"]
    assert isinstance(found, FirstNorms)
    assert [node.name for node in found.model.graph.node] == ["conv1", "norm1"]
    assert {t.name for t in found.model.graph.initializer} == {
        "conv1.w",
        *(f"norm1.{key}" for key in ("gamma", "beta", "mean", "variance")),
    }
    assert Session(found.model).outputs == ["norm1"]


def test_branches_that_begin_at_the_input_have_each_their_own() -> None:
    net = Net()
    joined = net.node("Add", net.norm(net.conv("x", 8)), net.norm(net.conv("x", 8)))
    found = first_norms(net.model(net.tail(net.block(joined, 8))))
    assert names(found) == ["norm1", "norm2"]


def test_activations_in_front_are_kept_and_a_norm_of_the_input_itself_is_found() -> None:
    net = Net()
    found = first_norms(net.model(net.norm(net.relu(net.conv("x", 8)))))
    assert isinstance(found, FirstNorms)
    assert [node.name for node in found.model.graph.node] == ["conv1", "relu1", "norm1"]
    net = Net()
    assert names(first_norms(net.model(net.tail(net.conv(net.norm("x"), 8))))) == ["norm1"]


def test_initializers_among_the_inputs_are_no_inputs() -> None:
    assert names(first_norms(graphs.old(listed=True)))


def test_constant_nodes_and_copies_become_initializers() -> None:
    model = graphs.chain()
    held = {t.name: t for t in model.graph.initializer}
    constant = onnx.helper.make_node("Constant", [], ["norm1.mean"], value=held["norm1.mean"])
    copy = onnx.helper.make_node("Identity", ["norm2.variance"], ["norm1.variance"])
    model.graph.initializer.remove(held["norm1.mean"])
    model.graph.initializer.remove(held["norm1.variance"])
    for node in (constant, copy):
        model.graph.node.insert(0, node)
    found = first_norms(model)
    assert isinstance(found, FirstNorms)
    assert [node.op_type for node in found.model.graph.node] == ["Conv", "BatchNormalization"]
    values = {t.name: onnx.numpy_helper.to_array(t) for t in found.model.graph.initializer}
    for key, origin in (("norm1.mean", "norm1.mean"), ("norm1.variance", "norm2.variance")):
        assert np.array_equal(values[key], onnx.numpy_helper.to_array(held[origin]))


def test_the_model_given_is_not_changed() -> None:
    model = graphs.chain()
    before = model.SerializeToString()
    first_norms(model)
    assert model.SerializeToString() == before


def far() -> onnx.ModelProto:
    net = Net()
    x = "x"
    for _ in range(MOST_LAYERS_AHEAD + 1):
        x = net.relu(net.conv(x, 4))
    return net.model(net.norm(x))


def computed() -> onnx.ModelProto:
    model = graphs.chain()
    held = next(t for t in model.graph.initializer if t.name == "norm1.mean")
    held.name = "half"
    model.graph.node.insert(0, onnx.helper.make_node("Add", ["half", "half"], ["norm1.mean"]))
    return model


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (graphs.folded(), "no BatchNormalization is left to judge by"),
        (far(), f"stands behind {MOST_LAYERS_AHEAD + 1} layers, too far"),
        (computed(), "the parameters of the first BatchNormalization are computed"),
    ],
)
def test_where_there_is_none_it_says_why(model: onnx.ModelProto, why: str) -> None:
    found = first_norms(model)
    assert isinstance(found, str) and why in found
