"""QONNX and back: the same numbers, bit for bit, also in the executor of the package qonnx where it is installed."""

import importlib.util
import pathlib
import warnings

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import dfmpc_onnx
from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.model.protos import put_in
from dfmpc_onnx.model.source import load
from dfmpc_onnx.qdq.qonnx_nodes import QONNX_DOMAIN, from_qonnx, holds_qonnx, loadable, to_qonnx
from tests import graphs
from tests.commands import assert_refused, dfmpc

MODELS = pathlib.Path(__file__).resolve().parents[2] / "models"
needs_qonnx = pytest.mark.skipif(importlib.util.find_spec("qonnx") is None, reason="the package qonnx is not there")


def by_nodes(model, x):
    """What onnxruntime makes of a model node by node, nothing fused."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


def tensors_by_nodes(model, names, feeds):
    """Tensors of a model that onnxruntime runs node by node."""
    import onnxruntime

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    outputs = {value.name for value in model.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(shown.SerializeToString(), options).run(names, feeds)


def executed(model, feeds):
    """Every tensor as the executor of the package qonnx makes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package and of what it imports
        from qonnx.core.modelwrapper import ModelWrapper
        from qonnx.core.onnx_exec import execute_onnx
        from qonnx.transformation.infer_shapes import InferShapes

        put_in(model.graph.value_info, [])
        return execute_onnx(ModelWrapper(model).transform(InferShapes()), feeds, return_full_exec_context=True)


def network():
    net = graphs.Net()
    x = net.block(net.block(net.block("x", 8), 8, group=8), 16)
    return net.model(net.tail(net.block(x, 8)))


def written(weights="8", activations="8", target="qonnx", recipe="per-channel"):
    """The QDQ model that a target's rules lead to, before it becomes QONNX."""
    from dfmpc_onnx.pipeline.manager import PassManager
    from dfmpc_onnx.pipeline.settings import Settings, WeightBits
    from dfmpc_onnx.pipeline.targets import parse_target

    space = graphs.workspace(network(), weights, activations)
    space.settings = Settings(WeightBits.parse(weights), activations, target=parse_target(target))
    PassManager(graphs.pipeline("pack_weights", recipe)).run(space)
    return graphs.to_model(space.graph)


def quants(model):
    return {n.output[0]: n for n in model.graph.node if n.domain == QONNX_DOMAIN}


def bits_of(model, name):
    node = quants(model)[name]
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return int(held[node.input[3]]), {a.name: helper.get_attribute_value(a) for a in node.attribute}


SETTINGS = [("8", "8"), ("2/6", "8"), ("4", "8"), ("3", "none"), ("ternary/6", "none"), ("7", "8")]


@pytest.mark.parametrize("target", ["qonnx", "cpu"])
@pytest.mark.parametrize(("weights", "activations"), SETTINGS)
def test_there_and_back(weights, activations, target):
    """Whatever zero points and storage the QDQ model has."""
    model = written(weights, activations, target)
    made = to_qonnx(model)
    onnx.checker.check_model(made, full_check=True)
    assert holds_qonnx(made) and not holds_qonnx(model)
    ops = {n.op_type for n in made.graph.node}
    assert not ops & {"QuantizeLinear", "Cast", "Gather"}
    x = graphs.input_of(model)
    assert np.array_equal(by_nodes(from_qonnx(made, "m"), x), by_nodes(model, x))
    assert model == written(weights, activations, target)  # what came in is as it was


@needs_qonnx
@pytest.mark.parametrize("target", ["qonnx", "cpu"])
@pytest.mark.parametrize(("weights", "activations"), SETTINGS)
def test_the_numbers_of_qonnx(weights, activations, target):
    model = written(weights, activations, target)
    x = graphs.input_of(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package and of what it imports
        from qonnx.core.modelwrapper import ModelWrapper
        from qonnx.core.onnx_exec import execute_onnx
        from qonnx.transformation.infer_shapes import InferShapes

        wrapped = ModelWrapper(to_qonnx(model)).transform(InferShapes())
        (found,) = execute_onnx(wrapped, {"x": x}).values()
    assert np.array_equal(found, by_nodes(model, x))


@needs_qonnx
def test_all_that_a_trained_network_rounds_is_that_of_qonnx_bit_for_bit():
    """Sums of floats between may differ in the last bits: kernels and threads add in other orders."""
    model = dfmpc_onnx.quantize(
        MODELS / "resnet20_cifar10.onnx", None, "per-channel", target="qonnx", check=False
    ).model
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    x = graphs.input_of(model)
    found = executed(model, {"input": x})
    names = [node.output[0] for node in model.graph.node]
    got = dict(zip(names, tensors_by_nodes(from_qonnx(model, "m"), names, {"input": x}), strict=True))
    rounded = [name for name in names if name in quants(model)]
    assert len(rounded) > 40
    for name in rounded:
        np.testing.assert_array_equal(got[name], found[name], name)
    for name in names:
        np.testing.assert_allclose(got[name], found[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_convs_state_their_kernel():
    made = to_qonnx(written())
    shapes = {t.name: tuple(t.dims) for t in made.graph.initializer}
    for node in made.graph.node:
        if node.op_type == "Conv":
            given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            weight = shapes[quants(made)[node.input[1]].input[0]]
            assert tuple(given["kernel_shape"]) == weight[2:] and len(given["pads"]) == 4 and given["strides"] == [1, 1]


@pytest.mark.parametrize(("kind", "bits", "signed"), [("int8", 8, 1), ("uint8", 8, 0), ("int4", 4, 1), ("uint4", 4, 0)])
def test_an_activation_has_the_bits_of_its_codes(kind, bits, signed):
    zero = numpy_helper.from_array(np.zeros((), getattr(ml_dtypes, kind, kind)), "z")
    scale = numpy_helper.from_array(np.float32(0.25), "s")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [64]) for name in "xy")
    opsets = [helper.make_opsetid("", 21)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], [zero, scale]), opset_imports=opsets, ir_version=10
    )
    made = to_qonnx(model)
    width, attributes = bits_of(made, "y")
    assert (width, attributes["signed"], attributes["narrow"]) == (bits, signed, 0)
    values = {"x": np.linspace(-80, 80, 64, dtype=np.float32)}["x"]
    assert np.array_equal(by_nodes(from_qonnx(made, "m"), values), by_nodes(model, values))


def test_weights_have_no_zero_point_and_as_many_bits_as_codes_need():
    made = to_qonnx(written("2/6", "8"))
    held = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    weights = [n.input[1] for n in made.graph.node if n.op_type in ("Conv", "Gemm")]
    for name in weights:
        assert not np.any(held[quants(made)[name].input[2]])
        width, attributes = bits_of(made, name)
        codes = np.rint(held[quants(made)[name].input[0]] / held[quants(made)[name].input[1]])
        assert attributes["signed"] == attributes["narrow"] == 1
        assert 2 ** (width - 2) <= max(np.abs(codes).max(), 1) < 2 ** (width - 1)
    assert {bits_of(made, name)[0] for name in weights} >= {2, 6, 8}


def test_what_is_behind_a_relu_has_7_bits_without_sign():
    made = to_qonnx(written())
    made_by = {n.output[0]: n.op_type for n in made.graph.node}
    kinds = set()
    for name, node in quants(made).items():
        if made_by.get(node.input[0]) == "Relu":
            width, attributes = bits_of(made, name)
            kinds.add((width, attributes["signed"]))
    assert kinds == {(7, 0)}


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7])
def test_inner_layers_read_as_few_bits_as_asked_for(bits):
    options = {"recipe": "int8", "target": "qonnx", "preprocess": "unit", "check": False}
    made = dfmpc_onnx.quantize(network(), None, activations=str(bits), **options).model
    held = {t.name for t in made.graph.initializer}
    read = [name for name, node in quants(made).items() if node.input[0] not in held]
    widths = [bits_of(made, name)[0] for name in read]
    assert widths.count(bits) >= 2 and set(widths) == {bits, 8}
    if importlib.util.find_spec("qonnx") is not None:
        x = graphs.input_of(made)
        found, names = executed(made, {"x": x}), list(quants(made))
        for name, values in zip(names, tensors_by_nodes(from_qonnx(made, "m"), names, {"x": x}), strict=True):
            np.testing.assert_array_equal(values, found[name], name)


def one_node(op="Quant", bits=4.0, opset=13, **attributes):
    inputs = ["x", "scale", "zero", "bits"] if op != "BipolarQuant" else ["x", "scale"]
    node = helper.make_node(op, inputs, ["y"], name="q", domain=QONNX_DOMAIN, **attributes)
    held = {"scale": np.float32(0.3), "zero": np.float32(1), "bits": np.float32(bits)}
    value = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [64]) for n in "xy")
    first, last = ([v] for v in value)
    constants = [numpy_helper.from_array(np.asarray(v), k) for k, v in held.items() if k in inputs]
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(QONNX_DOMAIN, 1)]
    graph = helper.make_graph([node], "g", first, last, constants)
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("narrow", [0, 1])
@pytest.mark.parametrize("opset", [10, 13])  # Round, and Clip with its bounds as inputs, are of opset 11
@pytest.mark.parametrize(("mode", "rounds"), [("ROUND", np.rint), ("FLOOR", np.floor), ("CEIL", np.ceil)])
def test_any_quant_by_the_equation(signed, narrow, opset, mode, rounds):
    model = one_node(bits=3, opset=opset, signed=signed, narrow=narrow, rounding_mode=mode)
    x = np.linspace(-2, 3, 64, dtype=np.float32)
    low, high = (narrow - 4, 3) if signed else (0, 7 - narrow)
    want = (rounds(np.clip(x / np.float32(0.3) + 1, low, high)) - 1) * np.float32(0.3)
    assert np.array_equal(by_nodes(from_qonnx(model, "m"), x), want.astype(np.float32))


def test_without_round_many_bits_are_one_line():
    with pytest.raises(ModelError, match="that cannot be run here"):
        from_qonnx(one_node(bits=24, opset=10), "m")
    assert from_qonnx(one_node(bits=24), "m")


def test_two_levels():
    x = np.linspace(-1, 1, 64, dtype=np.float32)
    got = by_nodes(from_qonnx(one_node("BipolarQuant"), "m"), x)
    assert np.array_equal(got, np.where(x >= 0, np.float32(0.3), -np.float32(0.3)))


@pytest.mark.parametrize("model", [one_node("Trunc"), one_node(rounding_mode="HALF_UP"), one_node("FloatQuant")])
def test_what_has_no_form_in_onnx_is_one_line(model):
    with pytest.raises(ModelError, match=r"'q' is a .* that cannot be run here"):
        from_qonnx(model, "m")


@pytest.mark.parametrize("bits", [np.nan, np.inf, 1e9, 0.0, -3.0, 4.5, (4.0, 5.0), ()], ids=str)
def test_bits_that_are_none_are_one_line(bits):
    with pytest.raises(ModelError, match=r"'q' is a Quant that cannot be run here; Quant of 1 to 32 constant bits"):
        from_qonnx(one_node(bits=bits), "m")


@pytest.mark.parametrize("left", ["input", "output"])
@pytest.mark.parametrize("count", [0, 1])
def test_a_node_with_too_few_ends_is_one_line(left, count):
    model = one_node()
    del getattr(model.graph.node[0], left)[count:]
    if (left, count) == ("output", 1):
        model.graph.node[0].output.append("z")
    with pytest.raises(ModelError, match="is a Quant that cannot be run here"):
        from_qonnx(model, "m")


@pytest.mark.parametrize("mode", [3, b"\xff\xfe", 0.5])
def test_a_rounding_that_is_no_word_is_one_line(mode):
    with pytest.raises(ModelError, match="is a Quant that cannot be run here"):
        from_qonnx(one_node(rounding_mode=mode), "m")


def test_nodes_of_one_name_or_none_differ_by_what_they_make():
    for name in ("same", ""):
        model = one_node()
        model.graph.node[0].output[0] = "between"
        model.graph.node.append(
            helper.make_node("Quant", ["between", "scale", "zero", "bits"], ["y"], domain=QONNX_DOMAIN)
        )
        for node in model.graph.node:
            node.name = name
        x = np.linspace(-2, 3, 64, dtype=np.float32)
        assert np.array_equal(by_nodes(from_qonnx(model, "m"), x), by_nodes(from_qonnx(one_node(), "m"), x))


def test_quantize_and_verify(tmp_path: pathlib.Path) -> None:
    float_file, out = tmp_path / "float.onnx", tmp_path / "out.onnx"
    onnx.save(network(), float_file)
    made = dfmpc_onnx.quantize(float_file, out, "per-channel", weights="8", target="qonnx")
    assert made.report.fidelity is not None and made.report.fidelity.sqnr_db > 20
    assert holds_qonnx(onnx.load(out)) and holds_qonnx(made.model)
    found = dfmpc_onnx.verify(float_file, out).providers[0]
    assert found.fidelity.sqnr_db == pytest.approx(made.report.fidelity.sqnr_db, abs=0.5)
    assert isinstance(loadable(load(out)), onnx.ModelProto)
    onnx.save(one_node("Trunc"), out)
    assert_refused(dfmpc("verify", float_file, out), "'q' is a Trunc that cannot be run here")


def test_weights_that_were_quantized_before_count_in_the_mean(tmp_path: pathlib.Path) -> None:
    """They have codes in this file too, and as many weights as their shape says."""
    before = dfmpc_onnx.quantize(
        graphs.residual(), weights="8", activations="none", layers=["conv1=float"], check=False
    )
    out = tmp_path / "out.onnx"
    report = dfmpc_onnx.quantize(before.model, out, "int8", target="qonnx", check=False).report
    assert any(layer.refused == "its weight is already quantized" for layer in report.layers)
    assert report.mean_weight_bits == pytest.approx(dfmpc_onnx.inspect(out).mean_weight_bits, abs=0.01)
