"""Networks in float16 and bfloat16: widened by normalize, and given their types back by pack_weights."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import dfmpc_onnx
from dfmpc_onnx.graph.half_precision import restore
from dfmpc_onnx.pipeline.facts import Normalized
from dfmpc_passes import Normalize
from tests import graphs

TYPES = {"float16": (np.float16, TensorProto.FLOAT16), "bfloat16": (ml_dtypes.bfloat16, TensorProto.BFLOAT16)}


def narrowed(model, kind="float16", inner=False):
    """The network with every float tensor in half precision. inner: its input and output stay float32, by Casts."""
    numpy_type, onnx_type = TYPES[kind]
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(numpy_type), tensor.name))
    del model.graph.value_info[:]
    ends = [model.graph.input[0], model.graph.output[0]]
    if inner:
        names = [value.name for value in ends]
        for node in model.graph.node:
            node.input[:] = [f"{name}.half" if name == names[0] else name for name in node.input]
            node.output[:] = [f"{name}.half" if name == names[1] else name for name in node.output]
        model.graph.node.insert(0, helper.make_node("Cast", [names[0]], [f"{names[0]}.half"], "in", to=onnx_type))
        model.graph.node.append(helper.make_node("Cast", [f"{names[1]}.half"], [names[1]], "out", to=1))
        return model
    for value in ends:
        value.type.tensor_type.elem_type = onnx_type
    return model


def types(model):
    return [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]


def normalized(model):
    space = graphs.workspace(model)
    return space, Normalize().run(space)


@pytest.mark.parametrize("kind", TYPES)
def test_the_network_is_float32_until_it_is_restored(kind):
    model = narrowed(graphs.residual(), kind)
    space, result = normalized(model)
    half = space.get(Normalized).half
    assert half.stored == kind and half.inputs == {"x": kind} and half.outputs == {"gemm1": kind}
    wide = graphs.to_model(space.graph)
    assert types(wide) == [TensorProto.FLOAT] * 2
    assert {t.data_type for t in wide.graph.initializer} == {TensorProto.FLOAT}
    assert result.warnings == (
        f"the network is {kind}: it computes in float32; its inputs and outputs stay as they are",
    )

    restore(space.graph, half)
    narrow = graphs.to_model(space.graph)
    onnx.checker.check_model(narrow, full_check=True)
    assert types(narrow) == [TYPES[kind][1]] * 2
    assert [narrow.graph.node[0].op_type, narrow.graph.node[-1].op_type] == ["Cast", "Cast"]
    assert (narrow.graph.input[0].name, narrow.graph.output[0].name) == ("x", "gemm1")


@pytest.mark.parametrize("kind", TYPES)
def test_the_workspace_knows_that_its_inputs_are_float32_meanwhile(kind):
    space = graphs.workspace(narrowed(graphs.residual(), kind))
    assert space.inputs["x"].dtype == TYPES[kind][0]
    Normalize().run(space)
    assert space.inputs["x"].dtype == np.float32 and space.inputs["x"].is_normalized


def test_widening_changes_nothing_but_roundings():
    model = narrowed(graphs.chain())
    x = graphs.input_of(model).astype(np.float16)
    (want,) = graphs.run(model, x)
    (got,) = graphs.run(normalized(model)[0].graph, x.astype(np.float32))
    assert graphs.relative([got], [want.astype(np.float32)]) < 5e-3


def test_casts_into_half_precision_are_taken_off():
    space, _ = normalized(narrowed(graphs.chain(), inner=True))
    assert graphs.ops(space.graph) == [*graphs.ops(normalized(graphs.chain())[0].graph), "Cast"]  # it names the output
    half = space.get(Normalized).half
    assert not half.inputs and not half.outputs


def test_large_constants_that_half_precision_holds_are_stored_in_it():
    table = np.linspace(-1, 1, 400).reshape(4, 1, 10, 10).astype(np.float16)
    net = graphs.Net(shape=(1, 3, 10, 10))
    x = net.conv("x", 4)
    y = net.node(
        "Mul", net.node("Add", x, net.weight("exact", table)), net.weight("third", np.full((1, 4, 10, 10), 1 / 3))
    )
    net.weights["third"] = net.weights["third"].astype(np.float32)
    model = net.model(y)
    model = narrowed(model)
    space, _ = normalized(model)
    graph = space.graph
    for node in graph.nodes:  # as if a pass had changed one of them
        if node.op == "Mul":
            node.inputs[1].values = np.full((1, 4, 10, 10), 1 / 3, np.float32)
    before = graphs.run(graph)
    restore(graph, space.get(Normalized).half)
    written = graphs.to_model(graph)
    kinds = {t.name: t.data_type for t in written.graph.initializer}
    assert kinds["exact.half"] == TensorProto.FLOAT16 and kinds["third"] == TensorProto.FLOAT
    x = graphs.input_of(model).astype(np.float16)
    assert graphs.relative([graphs.run(graph, x)[0].astype(np.float32)], before) < 2e-2


@pytest.mark.parametrize("recipe", ["mixed", "int8", "closed-form", "paper"])
@pytest.mark.parametrize("inner", [True, False])
def test_every_recipe_keeps_the_types_of_inputs_and_outputs(recipe, inner):
    model = narrowed(graphs.residual(), inner=inner)
    made = dfmpc_onnx.quantize(model, recipe=recipe)
    assert types(made.model) == types(model)
    assert all(layer.refused is None for layer in made.report.layers)
    assert made.report.fidelity.sqnr_db > 15


def test_bfloat16_that_onnxruntime_cannot_run_is_compared_as_normalized():
    made = dfmpc_onnx.quantize(narrowed(graphs.chain(), "bfloat16", inner=True), recipe="int8")
    assert made.report.fidelity.sqnr_db > 25
    assert any(
        w.startswith("compared with the model as normalized: the given model: onnxruntime")
        for w in made.report.warnings
    )


def test_an_operator_of_another_domain_that_may_want_half_precision_keeps_it():
    net = graphs.Net()
    model = narrowed(net.model(net.node("Gelu", net.conv("x", 4), domain="com.microsoft")))
    space, result = normalized(model)
    assert space.get(Normalized).half is None
    assert graphs.reasons(result)["model"] == (
        "half precision kept: Gelu 'gelu1' of domain 'com.microsoft' may want half precision"
    )
    assert types(graphs.to_model(space.graph)) == [TensorProto.FLOAT16] * 2


def test_control_flow_in_half_precision_keeps_it():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 13]> net (float16[1,2,4,4] x, bool c) => (float16[1,2,4,4] y) '
        "<float16[2,2,1,1] w = {1, 2, 3, 4}> { a = Conv(x, w) y = If (c) "
        "<then_branch = t () => (float16[1,2,4,4] p) { p = Relu(a) }, "
        "else_branch = e () => (float16[1,2,4,4] q) { q = Neg(a) }> }"
    )
    space, result = normalized(model)
    assert space.get(Normalized).half is None
    assert "control flow" in graphs.reasons(result)["model"]


def test_images_are_given_in_half_precision_and_verified(tmp_path):
    model, out = tmp_path / "half.onnx", tmp_path / "out.onnx"
    onnx.save(narrowed(graphs.chain()), model)
    np.savez(tmp_path / "own.npz", x=np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), np.uint8))
    made = dfmpc_onnx.quantize(model, out, recipe="int8", images=tmp_path / "own.npz")
    assert made.report.fidelity.origin == "2 images of yours that statistics did not see"
    (row,) = dfmpc_onnx.verify(model, out, images=tmp_path / "own.npz").providers
    assert row.fidelity.images == 8 and row.fidelity.sqnr_db > 20
