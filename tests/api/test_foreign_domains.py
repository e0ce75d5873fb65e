"""Operators of another domain with a standard name: no module takes one for the standard operator.

The measure is an operator of the same domain that nobody has heard of: whatever is asked of a network, the answer is
the same for ``my.ops.Relu`` as for ``my.ops.Unheard``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

import dfmpc_onnx
from dfmpc_onnx import catalog
from dfmpc_onnx.errors import ModelError, Unknown
from dfmpc_onnx.evaluation.kernel_census import is_quantized, take_census
from dfmpc_onnx.graph.channels import channel_count
from dfmpc_onnx.graph.constant_folding import origin
from dfmpc_onnx.graph.conv import planar
from dfmpc_onnx.model.leading_norms import FirstNorms, first_norms
from dfmpc_onnx.model.resource_limits import check_claims
from dfmpc_onnx.model.unbounded_loops import has_loop
from dfmpc_onnx.pipeline.facts import Layers, Ranges
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.qdq.placement import Placer, effective_output
from dfmpc_onnx.qdq.stored_bits import stored_layers
from dfmpc_onnx.statistics.error_at_next_layer import next_input
from dfmpc_onnx.statistics.gaussian_streams import GaussianStreams
from dfmpc_onnx.statistics.lag_windows import Windows
from dfmpc_onnx.statistics.walk import walk
from dfmpc_passes.estimate_ranges import pinned_tensors, vector_tensors
from dfmpc_passes.insert_qdq import quantized_before
from tests import graphs

Build = Callable[[str], Workspace]
UNHEARD = "Unheard"


def behind_a_norm(op: str) -> Workspace:
    """Two blocks, the first of which has an operator of another domain for its activation."""
    net = graphs.Net()
    x = net.node(op, net.norm(net.conv("x", 8)), stem="other", domain="my.ops")
    net.channels[x] = 8
    return graphs.workspace(net.model(net.tail(net.block(x, 8))))


def behind_a_conv(op: str) -> Workspace:
    net = graphs.Net()
    x = net.node(op, net.conv("x", 8), stem="other", domain="my.ops")
    net.channels[x] = 8
    return graphs.workspace(net.model(net.relu(net.conv(net.relu(x), 8))))


def named(space: Workspace, name: str) -> object:
    return next(node for node in space.graph.nodes if node.name == name)


def fused(space: Workspace) -> object:
    return effective_output(space.graph, named(space, "conv1")).name


def pinned(space: Workspace) -> object:
    return pinned_tensors(space.graph)


def vectors(space: Workspace) -> object:
    return vector_tensors(space.graph)


def windows(space: Workspace) -> object:
    found = Windows(space.graph)
    return [found.side(name, (64, 64), 256) for name in ("norm1", "conv1")]


def next_reader(space: Workspace) -> object:
    found = next_input(space.graph, named(space, "conv1"), np.zeros(8), np.ones(8), lambda tensor: None)
    return found.layer, found.error.tolist(), found.variance.tolist()


def width(space: Workspace) -> object:
    return channel_count(named(space, "other1").outputs[0])


def geometry(space: Workspace) -> object:
    return planar(named(space, "other1"))


def placed(space: Workspace) -> object:
    """Where activations would be quantized if every range were known."""
    graphs.PassManager(graphs.pipeline("pair_convolutions")).run(space)
    layers = {layer.name: layer for layer in space.get(Layers).all}
    known = Ranges(dict.fromkeys(space.graph.tensors(), (-1.0, 1.0))).tensors
    return Placer(space.graph, layers, known).place()


@pytest.mark.parametrize(
    ("ask", "build", "op"),
    [
        (fused, behind_a_conv, "Relu"),
        (fused, behind_a_conv, "Clip"),
        (pinned, behind_a_norm, "Relu"),
        (pinned, behind_a_norm, "MaxPool"),
        (pinned, behind_a_norm, "BatchNormalization"),
        (vectors, behind_a_norm, "Gemm"),
        (windows, behind_a_norm, "GlobalAveragePool"),
        (next_reader, behind_a_conv, "Conv"),
        (next_reader, behind_a_conv, "Relu"),
        (width, behind_a_norm, "Conv"),
        (geometry, behind_a_norm, "Conv"),
        (placed, behind_a_norm, "Relu"),
        (placed, behind_a_norm, "MaxPool"),
        (placed, behind_a_norm, "AveragePool"),
    ],
)
def test_nothing_is_asked_of_it_that_its_name_would_answer(ask: Callable, build: Build, op: str) -> None:
    assert ask(build(op)) == ask(build(UNHEARD))


@pytest.mark.parametrize("op", ["Relu", "BatchNormalization", "Conv", "MaxPool", "Identity", UNHEARD])
def test_covariances_have_no_rule_for_it(op: str) -> None:
    space = behind_a_norm(op)
    engine = GaussianStreams(space.graph, space.inputs)
    with pytest.raises(Unknown, match=f"no rule for my.ops::{op}"):
        walk(space.graph, engine, Silent(), frozenset())


class Silent:
    """A visitor that changes nothing."""

    def layer(self, *given: object) -> None: ...

    def after_layer(self, *given: object) -> None: ...

    def batch_norm(self, *given: object) -> None: ...

    def observe(self, *given: object) -> None: ...


# -- quantized files


def test_another_domains_codes_do_not_make_a_file_quantized() -> None:
    net = graphs.Net()
    x = net.node("DequantizeLinear", "x", net.weight("s", np.float32(1)), net.weight("z", np.uint8(0)), domain="my.ops")
    model = net.model(net.conv(x, 4) if net.channels.setdefault(x, 3) else x)
    assert not is_quantized(model)
    assert quantized_before(graphs.workspace(model).graph, np.dtype(np.uint8)) == {}
    own = net.node("QuantizeLinear", "x", "s", "z", domain="com.microsoft")
    assert own and is_quantized(net.model(own))  # onnxruntime's own does what the standard one does


def test_a_weight_from_another_domains_dequantizer_is_computed() -> None:
    net = graphs.Net()
    codes = net.weight("codes", np.ones((4, 3, 1, 1), np.int8))
    weight = net.node("DequantizeLinear", codes, net.weight("s", np.float32(1)), domain="my.ops")
    model = net.model(net.node("Conv", "x", weight))
    graph = graphs.workspace(model).graph
    assert (
        origin(graph.nodes[1].inputs[1]).text
        == "its weight is computed by my.ops::DequantizeLinear 'dequantizelinear1'"
    )
    assert stored_layers(model) == ()


def test_another_domains_layers_are_none_of_a_file() -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    held = [numpy_helper.from_array(np.ones((4, 4), np.float32), "w")]
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "m", domain="my.ops")
    model = helper.make_model(helper.make_graph([node], "g", [x], [y], held))
    assert stored_layers(model) == ()


FUNCTIONS = """
<ir_version: 8, opset_import: ["": 17, "my.ops": 1]>
net (float[1, 3, 8, 8] x) => (float[1, 3, 1, 1] y) <float[3, 3, 1, 1] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}>
{
    a = Conv (x, w)
    b = my.ops.Relu (a)
    c = GlobalAveragePool (b)
    y = Conv (c, w)
}
<domain: "my.ops", opset_import: ["": 17]>
Relu (i) => (o) {
    two = Constant <value = float {2}> ()
    one = Constant <value = float {1}> ()
    t = Mul (two, i)
    o = Sub (t, one)
}
"""


def test_a_census_names_it_with_its_domain() -> None:
    model = onnx.parser.parse_model(FUNCTIONS)
    found = take_census(model, model, "m")
    assert found.layers == {"Conv": 2}


# -- what is looked at before anything runs


def test_a_conv_of_another_domain_is_no_layer_in_front_of_a_norm() -> None:
    def nearest(op: str, domain: str) -> object:
        net = graphs.Net()
        x = "x"
        for _ in range(9):
            x = net.node(op, x, stem="far", domain=domain)
        net.channels[x] = 3
        found = first_norms(net.model(net.norm(x)))
        return len(found.norms) if isinstance(found, FirstNorms) else found

    assert nearest("Conv", "my.ops") == nearest(UNHEARD, "my.ops") == 1
    assert "behind 9 layers" in str(nearest("Conv", ""))


def test_a_loop_of_another_domain_need_not_end() -> None:
    node = helper.make_node("Loop", ["x"], ["y"], domain="my.ops")
    graph = helper.make_graph([node], "g", [], [])
    assert not has_loop(helper.make_model(graph))
    node.domain = "ai.onnx"
    assert has_loop(helper.make_model(helper.make_graph([node], "g", [], [])))


def test_the_second_input_of_another_domains_conv_is_no_window() -> None:
    def checked(domain: str) -> None:
        net = graphs.Net()
        model = net.model(net.node("Conv", "x", net.weight("w", np.zeros((0, 3, 1, 1), np.float32)), domain=domain))
        check_claims(model, {"x": (1, 3, 8, 8)}, "m")

    checked("my.ops")
    with pytest.raises(ModelError, match="holds nothing"):
        checked("")


# -- whole recipes: a Relu of the model's own that computes 2 x - 1


def with_function(op: str) -> onnx.ModelProto:
    net = graphs.Net(opset=17)
    x = net.node(op, net.norm(net.conv("x", 16)), stem="own", domain="my.ops")
    net.channels[x] = 16
    x = net.node(op, net.norm(net.conv(x, 16)), stem="own", domain="my.ops")
    net.channels[x] = 16
    model = net.model(net.block(x, 16))
    body = [
        helper.make_node("Constant", [], ["two"], value_float=2.0),
        helper.make_node("Constant", [], ["one"], value_float=1.0),
        helper.make_node("Mul", ["two", "i"], ["t"]),
        helper.make_node("Sub", ["t", "one"], ["o"]),
    ]
    model.functions.append(helper.make_function("my.ops", op, ["i"], ["o"], body, [helper.make_opsetid("", 17)]))
    return model


@pytest.mark.parametrize("recipe", sorted(catalog.recipes()))
def test_every_recipe_takes_it_for_what_it_computes(recipe: str) -> None:
    made = {
        op: dfmpc_onnx.quantize(with_function(op), None, recipe, weights="8", check=False).model
        for op in ("Relu", UNHEARD)
    }
    x = graphs.input_of(with_function("Relu"), 1)
    (got,), (want,) = graphs.run(made["Relu"], x), graphs.run(with_function("Relu"), x)
    assert np.square(got - want).mean() < 0.05 * want.var()  # a ReLU in its place loses more than half
    assert all(map(np.array_equal, graphs.run(made["Relu"], x), graphs.run(made[UNHEARD], x)))
