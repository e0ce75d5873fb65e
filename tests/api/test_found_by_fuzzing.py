"""What `python -m tools.fuzz` found and was mended: the smallest network of each, through the whole of `quantize`.

Every case once ended in a defect, in a warning of numpy's (warnings are errors here), or in a network that was wrong.
"""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import dfmpc_onnx
from dfmpc_onnx.errors import ModelError
from tests import graphs
from tests.commands import assert_refused, dfmpc
from tests.graphs import Net


def quantized(model: onnx.ModelProto, recipe: str, **options: object) -> dfmpc_onnx.Quantized:
    """The model's quantized form, which has been loaded and run beside it."""
    found = dfmpc_onnx.quantize(model, recipe=recipe, **options)
    assert found.report.fidelity is not None, found.report.warnings
    return found


def refused(model: onnx.ModelProto, recipe: str = "mixed", **options: object) -> str:
    with pytest.raises(ModelError) as caught:
        dfmpc_onnx.quantize(model, recipe=recipe, **options)
    return str(caught.value)


def sqnr(model: onnx.ModelProto, recipe: str, **options: object) -> float:
    found = quantized(model, recipe, **options)
    assert found.report.fidelity is not None
    return found.report.fidelity.sqnr_db


# Numbers that no training leaves


@pytest.mark.parametrize("recipe", ["mixed", "paper", "per-channel", "closed-form"])
@pytest.mark.parametrize("size", [1e13, 3e38, np.inf, np.nan])
def test_absurd_weights(recipe, size):
    net = Net()
    x = net.conv("x", 4, weight=np.full((4, 3, 3, 3), size, np.float32))
    said = refused(net.model(net.conv(x, 4)), recipe)
    assert "'conv1.w' of Conv 'conv1' holds " in said and "not trained or exported properly" in said


@pytest.mark.parametrize("recipe", ["mixed", "paper", "closed-form"])
@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 1e-30])
def test_weights_of_nothing_or_next_to_it(recipe, size):
    net = Net()
    x = net.relu(net.norm(net.conv("x", 4, weight=np.full((4, 3, 3, 3), size, np.float32))))
    quantized(net.model(net.conv(x, 4, weight=np.full((4, 4, 3, 3), size, np.float32))), recipe)


@pytest.mark.parametrize(("variance", "epsilon"), [(0.0, 0.0), (-1.0, 1e-5), (0.0, 1e-30), (1.0, float("nan"))])
def test_a_normalization_that_divides_by_nothing(variance, epsilon):
    net = Net()
    y = net.norm(net.conv("x", 4), variance=variance)
    net.nodes[-1].attribute.append(onnx.helper.make_attribute("epsilon", epsilon))
    assert "BatchNormalization 'norm1' multiplies by " in refused(net.model(y), "paper")


@pytest.mark.parametrize("recipe", ["mixed", "closed-form"])
def test_a_normalization_without_epsilon_of_a_map_that_does_not_vary(recipe):
    net = Net()
    still = net.conv("x", 4, weight=np.zeros((4, 3, 3, 3), np.float32))
    y = net.norm(still, variance=1.0)
    net.nodes[-1].attribute.append(onnx.helper.make_attribute("epsilon", 0.0))
    quantized(net.model(net.conv(net.relu(y), 4)), recipe)


@pytest.mark.parametrize(("size", "said"), [(1e17, "values up to "), (3e38, "NaN or infinity")])
def test_values_that_overflow_on_the_way(size, said):
    net = Net()
    x = net.node("Mul", net.conv("x", 4), net.weight("large", np.float32(size)))
    x = net.node("Mul", x, "large") if size > 1e30 else x
    assert f"Conv 'conv2': its input holds {said}" in refused(net.model(net.conv(x, 4)))


@pytest.mark.parametrize("recipe", ["closed-form", "per-channel"])
@pytest.mark.parametrize("preprocess", ["auto", "imagenet"])
def test_covariances_that_overflow(recipe, preprocess):
    """Each weight could be one, but squares of their products are more than float32 holds."""
    net = Net()
    x = "x"
    for _ in range(2):
        x = net.conv(x, 4, weight=np.full((4, net.channels[x], 3, 3), 9e11, np.float32))
    y = net.norm(net.conv(x, 4), variance=9e11, mean=0.0)
    model = net.model(y)
    if (recipe, preprocess) == ("closed-form", "imagenet"):  # else it is fed what the BatchNormalization measured
        found = dfmpc_onnx.quantize(model, recipe=recipe, preprocess=preprocess)
        assert any("covariances that are no numbers in float32" in said for said in found.report.warnings)
    else:
        dfmpc_onnx.quantize(model, recipe=recipe, preprocess=preprocess)


@pytest.mark.parametrize("name", ["strides", "dilations", "pads"])
def test_attributes_of_fewer_dimensions_than_the_kernel(name):
    """A recipe that runs nothing says that there was nothing to compare with; where something runs, it is refused."""
    net = Net()
    model = net.model(net.conv(net.relu(net.norm(net.conv("x", 4))), 4))
    node = model.graph.node[0]
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, [1])])
    assert "onnxruntime" in refused(model, "mixed", preprocess="auto")
    for recipe in ("paper", "closed-form"):
        assert said_of(model, recipe).startswith(("not compared: ", "the given model: onnxruntime"))


def said_of(model, recipe):
    """The error, or where there is none the warning that nothing was compared."""
    with contextlib.suppress(StopIteration):
        try:
            found = dfmpc_onnx.quantize(model, recipe=recipe, preprocess="auto")
        except ModelError as error:
            return str(error)
        return next(said for said in found.report.warnings if said.startswith("not compared: "))
    return ""


@pytest.mark.parametrize("recipe", ["paper", "mixed"])
def test_infinity_in_what_the_preprocess_is_judged_by(recipe):
    net = Net()
    net.norm(net.conv("x", 4, weight=np.full((4, 3, 3, 3), np.inf, np.float32)))
    assert "'conv1.w' of Conv 'conv1' holds NaN or infinity" in refused(
        net.model(net.conv("norm1", 4)), recipe, preprocess="auto"
    )


def test_a_range_of_infinite_values_is_no_range():
    net = Net()
    x = net.conv("x", 4)
    y = net.node("Div", net.node("Abs", x), net.weight("none", np.float32(0)))
    quantized(net.model(x, y), "int8")


def test_a_slope_of_infinity():
    net = Net()
    slope = net.weight("slope", np.array([np.inf, 1, 1, 1], np.float32).reshape(4, 1, 1))
    quantized(net.model(net.node("PRelu", net.conv("x", 4), slope)), "per-channel")


# Shapes


def test_a_scalar_bias_of_gemm_under_a_factor():
    net = Net()
    x = net.node("Flatten", net.node("GlobalAveragePool", net.conv("x", 4)))
    weight, bias = net.weight("w", np.ones((4, 2), np.float32)), net.weight("b", np.float32(0.5))
    assert sqnr(net.model(net.node("Gemm", x, weight, bias, beta=0.5)), "int8") > 20


def test_a_scalar_bias_under_one_scale_for_the_whole_weight():
    net = Net()
    x = net.node("Flatten", net.node("GlobalAveragePool", net.conv("x", 4)))
    weight = net.weight("w", np.array([[1, 0]] * 4, np.float32))
    y = net.node("Gemm", x, weight, net.weight("b", np.array([0.5], np.float32)))
    quantized(net.model(y), "paper", weights="8", activations="8")


@pytest.mark.parametrize("recipe", ["per-channel", "closed-form", "mixed"])
def test_a_product_along_the_width_of_a_map(recipe):
    net = Net((1, 2, 8, 3))
    x = net.norm(net.conv("x", 2))
    x = net.node("MatMul", x, net.weight("w", np.eye(3, 5, dtype=np.float32)))
    x = net.node("Concat", x, x, axis=1)
    net.channels[x] = 4
    net.node("Relu", net.norm(net.conv(x, 4)))
    quantized(net.model(net.conv("relu1", 4)), recipe, weights="2/6")


def test_a_matrix_without_columns():
    net = Net()
    x = net.node("Flatten", net.node("GlobalAveragePool", net.conv("x", 4)))
    empty = net.node("MatMul", x, net.weight("w", np.zeros((4, 0), np.float32)))
    quantized(net.model("conv1", empty), "per-channel", activations="none")


def test_a_weight_that_is_its_own_input():
    net = Net()
    weight = net.weight("w", np.ones((4, 3, 3, 3), np.float32))
    still = net.node("Conv", weight, weight)
    found = quantized(net.model(net.conv("x", 4), still), "mixed")
    assert {layer.name: layer.refused for layer in found.report.layers} == {
        "conv2": None,
        "conv1": "its input is a constant; nothing flows through it",
    }


def test_a_normalization_of_a_constant():
    net = Net()
    net.channels["k"] = 4
    still = net.norm(net.weight("k", np.ones((1, 4, 8, 8), np.float32)))
    quantized(net.model(net.node("Add", net.conv("x", 4), still)), "mixed")


def test_a_bound_that_is_an_output_of_the_model():
    net = Net()
    low = net.node("Constant", value=onnx.numpy_helper.from_array(np.float32(0)))
    x = net.node("Clip", net.norm(net.conv("x", 4)), low)
    quantized(net.model(net.conv(x, 4), low), "closed-form")


@pytest.mark.parametrize(
    ("op", "attribute", "value"),
    [
        ("ConvTranspose", "group", 0),
        ("Conv", "group", -1),
        ("Conv", "strides", [0, 1]),
        ("Conv", "dilations", [1, -(2**63)]),
        ("MaxPool", "kernel_shape", [0, 0]),
        ("DepthToSpace", "blocksize", 0),
    ],
)
def test_a_count_below_one_is_refused_before_a_runtime_divides_by_it(op, attribute, value):
    """With a group of 0 ConvTranspose takes the process with it."""
    net = Net()
    inputs = [net.conv("x", 4)]
    if op.startswith("Conv"):
        inputs.append(net.weight("w", np.ones((4, 4, 3, 3), np.float32)))
    model = net.model(inputs[0])
    model.graph.node.append(onnx.helper.make_node(op, inputs, ["y"], name="damaged", **{attribute: value}))
    model.graph.output[0].name = "y"
    said = f"{op} 'damaged' has {attribute} below 1"
    assert said in refused(model, "paper")
    with pytest.raises(ModelError, match=said):
        dfmpc_onnx.verify(model, model)


@pytest.mark.parametrize("computed", [False, True])
def test_a_window_that_holds_nothing_is_refused_before_a_runtime_loops_over_it(computed):
    net = Net((1, 3, 1, 5))
    weight = net.weight("w", np.zeros((8, 3, 0, 1), np.float16 if computed else np.float32))
    if computed:
        weight = net.node("Cast", weight, to=onnx.TensorProto.FLOAT)
    x = net.node("Conv", "x", weight, dilations=[2, 1], pads=[4, 0, 4, 0], strides=[1, 2])
    model = net.model(x)
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(x, onnx.TensorProto.FLOAT, [1, 8, 12, 3]))
    assert "the weight of Conv 'conv1' has shape [8, 3, 0, 1] and holds nothing" in refused(model, "int8")


def test_an_output_that_states_another_rank_than_it_has():
    """The float model runs; onnxruntime moved the dimensions of the quantized one by what was stated."""
    net = Net((2, 3, 6, 6))
    model = net.model(net.conv("x", 4))
    model.graph.output[0].type.tensor_type.shape.dim.pop()
    quantized(model, "int8")


def test_a_type_that_is_none():
    net = Net()
    x = net.node("Flatten", net.node("GlobalAveragePool", net.conv("x", 4)))
    weight = net.node("Cast", net.weight("half", np.ones((4, 2), np.float16)), to=-(2**63))
    found = dfmpc_onnx.quantize(net.model(net.node("MatMul", x, weight)), recipe="paper")
    assert any(said.startswith("not compared: ") for said in found.report.warnings)


# Few samples


def test_a_gate_that_is_seen_once_keeps_its_weights():
    """The batch is 1 and not free, so the layers of the gate are seen in one patch: nothing can be fitted to that."""
    net = Net((1, 3, 8, 8))
    x = net.relu(net.conv("x", 12))
    pooled = net.node("GlobalAveragePool", x)
    gate = net.conv(net.relu(net.conv(pooled, 4, 1)), 12, 1)
    x = net.node("Mul", x, net.node("Sigmoid", gate))
    fixed = net.node("Reshape", x, net.weight("shape", np.array([1, 12, 64])))
    assert sqnr(net.model(fixed), "int8", activations="none") > 35


def test_a_channel_that_stands_still_on_the_images_is_not_blown_up():
    """What rounding shifts its mean by was once counted in deviations of training, of which it has none here."""
    net = Net()
    x = net.node("Clip", net.conv("x", 4), net.weight("low", np.float32(1)), net.weight("high", np.float32(1)))
    y = net.norm(net.conv(x, 4, 1))
    assert sqnr(net.model(y), "int8", activations="none") > 35


# Names and terminals


def test_the_bytes_of_a_name_that_is_not_utf_8(tmp_path):
    net = Net()
    model = net.model(net.conv("x", 4))
    model.graph.initializer[0].raw_data = b"1234"
    data = model.SerializeToString().replace(b"conv1.w", b"conv1\xff\xfe")
    (tmp_path / "model.onnx").write_bytes(data)
    result = dfmpc("quantize", tmp_path / "model.onnx", "-o", tmp_path / "out.onnx")
    assert_refused(result, "the data of 'conv1\ufffd\ufffd' holds 4 of 432 bytes")


@pytest.mark.parametrize("recipe", ["mixed", "int8"])
def test_an_average_of_what_averages_to_zero(recipe):
    """Fields that stand for inputs that are no pictures have mean 0: steps of that are too fine for the kernel."""
    net = Net(shape=("n", 8, 6, 5))
    y = net.node("ReduceMean", "x", axes=[2, 3], keepdims=1)
    quantized(net.model(net.node("Add", net.conv(y, 4, 1), net.conv("x", 4))), recipe)


@pytest.mark.parametrize("shape", [(2, 1), ()])
def test_axes_that_are_no_list(shape):
    net = Net(opset=18)
    y = net.node("ReduceMean", net.conv("x", 4), net.weight("axes", np.full(shape, 2)), keepdims=1)
    with contextlib.suppress(dfmpc_onnx.UserError):  # of a matrix onnxruntime makes what it pleases
        dfmpc_onnx.quantize(net.model(net.conv(y, 4, 1)), recipe="paper")


@pytest.mark.parametrize("opset", [2, 3, 4])
def test_an_opset_that_onnx_never_released(opset):
    """Between those of ONNX 1.0 and 1.1: no IR version is paired with it."""
    net = Net(opset=9, ir_version=3)
    model = net.model(net.conv(net.conv("x", 4), 4), listed=True)
    model.opset_import[0].version = opset
    quantized(model, "per-channel")


# Seeds 2 and 3


@pytest.mark.parametrize("maker", ["Abs", "Identity"])
@pytest.mark.parametrize("recipe", ["mixed", "per-channel", "paper"])
def test_a_grouped_weight_that_is_an_output_of_the_model(recipe, maker):
    """What is computed stays as it is, and has no shape to ask whether it is depthwise; a copy is a weight."""
    net = Net()
    weight = net.node(maker, net.weight("w", np.ones((3, 1, 3, 3), np.float32)))
    x = net.conv(net.node("Conv", "x", weight, group=3), 4)
    found = quantized(net.model(x, weight), recipe)
    layer = next(layer for layer in found.report.layers if layer.name == "conv1")
    assert bool(layer.refused) == (maker == "Abs") and layer.weights == (1 if maker == "Abs" else 27)


@pytest.mark.parametrize("recipe", ["per-channel", "int8"])
def test_a_kernel_wider_than_its_map(recipe):
    """Of 3x5 taps one reads the picture of a single pixel; with all of them its variance looked too small for it."""
    net = Net((2, 3, 1, 1))
    weight = np.random.default_rng(0).standard_normal((12, 3, 3, 5)).astype(np.float32)
    x = net.node("Conv", "x", net.weight("w", weight), pads=[1, 2, 1, 2])
    net.channels[x] = 12
    variance = np.square(weight[:, :, 1, 2]).sum(axis=1)
    y = net.norm(x, gamma=1.0, beta=0.0, mean=0.0, variance=variance)
    assert quantized(net.model(net.conv(y, 4)), recipe).report.preprocess == "imagenet"


@pytest.mark.parametrize("maker", ["Abs", "Identity"])
@pytest.mark.parametrize("recipe", ["mixed", "int8", "per-channel"])
def test_a_normalization_behind_a_layer_whose_weight_is_an_output_of_the_model(recipe, maker):
    """And has no shape by which the layer's own bias could be told to be one number a channel, where it is computed."""
    net = Net()
    weight = net.node(maker, net.weight("w", np.ones((4, 4, 3, 3), np.float32)))
    x = net.conv("x", 4)
    y = net.node("Conv", x, weight, net.weight("b", np.arange(4, dtype=np.float32)), pads=[1] * 4)
    quantized(net.model(net.conv(net.relu(net.norm(y)), 4), weight), recipe)


@pytest.mark.parametrize("recipe", ["mixed", "closed-form", "per-channel"])
def test_a_convolution_that_dilates_more_dimensions_than_it_has(recipe):
    """How far it looks was asked before anything found it damaged."""
    net = Net((1, 3, 8, 8))
    x = net.conv("x", 4)
    flat = net.weight("flat", np.ones((4,), np.float32))
    y = net.node("Conv", net.relu(net.norm(x)), flat, dilations=[2, 2])
    assert refused(net.model(y), recipe)


def test_a_maximum_of_an_input_that_is_left_out():
    """onnxruntime reads the missing tensor, and the process is gone."""
    net = Net()
    x = net.conv("x", 4)
    y = net.node("Max", x, x, "")
    net.channels[y] = 4
    assert "has an input without a name" in refused(net.model(net.conv(y, 4)))


@pytest.mark.parametrize("recipe", ["mixed", "int8"])
def test_an_average_over_fields_of_many_channels(recipe):
    """Fields each of mean 0 left it nothing, and what read it a range of nothing."""
    net = Net((2, 8, 9, 2))
    pooled = net.node("GlobalAveragePool", "x")
    net.channels[pooled] = 8
    model = net.model(net.conv(net.conv(pooled, 12, kernel=1), 4, kernel=1))
    found = quantized(model, recipe, weights="8")
    x = np.random.default_rng(0).standard_normal((2, 8, 9, 2)).astype(np.float32)
    want, got = (graphs.run(m, x) for m in (model, found.model))
    assert graphs.relative(got, want) < 0.1


@pytest.mark.parametrize("recipe", ["per-channel", "closed-form", "int8"])
def test_a_clip_to_an_upper_bound_of_1e30(recipe):
    """Which says that there is none; its square drowned mean and variance."""
    net = Net((1, 3, 8, 8))
    y = net.node("Clip", net.conv("x", 8), "", net.weight("bound", np.float32(1e30)))
    net.channels[y] = 8
    model = net.model(net.conv(net.norm(net.conv(y, 8)), 4))
    found = quantized(model, recipe, weights="8")
    x = np.clip(np.random.default_rng(0).standard_normal((1, 3, 8, 8)), -2, 2).astype(np.float32)
    assert graphs.relative(graphs.run(found.model, x), graphs.run(model, x)) < 0.1


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_a_gemm_whose_bias_is_infinite(beta):
    """0 times infinity is no number."""
    net = Net()
    x = net.node("Flatten", net.node("GlobalAveragePool", net.conv("x", 4)))
    weight, bias = np.ones((4, 2), np.float32), np.full(2, np.inf, np.float32)
    y = net.node("Gemm", x, net.weight("w", weight), net.weight("c", bias), beta=beta)
    assert "NaN or infinity" in refused(net.model(y), "per-channel")


@pytest.mark.parametrize("factor", [np.inf, np.nan, 1e38])
@pytest.mark.parametrize("key", ["alpha", "beta"])
def test_a_gemm_whose_factor_is_beyond_all_numbers(key, factor):
    net = Net()
    x = net.node("Flatten", net.node("GlobalAveragePool", net.conv("x", 4)))
    weight, bias = np.full((4, 2), 100, np.float32), np.full(2, 100, np.float32)
    y = net.node("Gemm", x, net.weight("w", weight), net.weight("c", bias), **{key: factor})
    assert f"{key} {factor:.3g} of Gemm 'gemm1' makes NaN or infinity" in refused(net.model(y))


@pytest.mark.parametrize("flag", [2, -1])
def test_a_flag_that_is_neither_0_nor_1_is_set(flag):
    net = Net()
    x = net.node("Flatten", net.node("GlobalAveragePool", net.conv("x", 4)))
    weight = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    y = net.node("Gemm", x, net.weight("w", weight), transB=flag)
    assert sqnr(net.model(y), "int8") > 25


def test_an_input_that_may_be_left_out_in_front_of_any_number():
    """A Scan of opset 8 has one."""
    net = Net((1, 3, 8, 8))
    rows = net.node("Transpose", net.conv("x", 4), perm=[0, 2, 3, 1])
    rows = net.node("Reshape", rows, net.weight("shape", np.array([1, -1, 4], np.int64)))
    value = onnx.helper.make_tensor_value_info
    ends = [[value(name, onnx.TensorProto.FLOAT, [4]) for name in names] for names in (("s", "v"), ("t", "o"))]
    nodes = [onnx.helper.make_node("Add", ["s", "v"], ["t"]), onnx.helper.make_node("Identity", ["t"], ["o"])]
    body = onnx.helper.make_graph(nodes, "body", *ends)
    start = net.weight("start", np.zeros((1, 4), np.float32))
    net.nodes.append(
        onnx.helper.make_node("Scan", ["", start, rows], ["last", "sums"], "scan", body=body, num_scan_inputs=1)
    )
    net.channels["sums"] = 64
    model = net.model("sums")
    model.graph.output[0].CopyFrom(value("sums", onnx.TensorProto.FLOAT, [1, 64, 4]))
    model.opset_import[0].version = 8
    model.ir_version = 4
    onnx.checker.check_model(model, full_check=True)
    assert quantized(model, "int8").report.layers[0].bits == 8


def test_a_loop_that_has_fewer_outputs_than_it_carries():
    net = Net()
    x = net.conv("x", 4)
    value = onnx.helper.make_tensor_value_info
    ins = [value("i", onnx.TensorProto.INT64, []), value("go", onnx.TensorProto.BOOL, [])]
    ins.append(onnx.helper.make_empty_tensor_value_info("v"))
    outs = [value("on", onnx.TensorProto.BOOL, []), onnx.helper.make_empty_tensor_value_info("w")]
    nodes = [onnx.helper.make_node("Sigmoid", ["v"], ["w"]), onnx.helper.make_node("Identity", ["go"], ["on"])]
    body = onnx.helper.make_graph(nodes, "body", ins, outs)
    times, go = net.weight("times", np.int64(2)), net.weight("start", np.array(True))
    y = net.node("Loop", times, go, x, net.weight("more", np.ones(3, np.float32)), body=body)
    net.nodes[-1].output.append("last")
    model = net.model(y)
    del model.graph.node[-1].output[1]
    model.graph.output[0].CopyFrom(value(y, onnx.TensorProto.FLOAT, None))
    assert "the model is damaged" in refused(model, "int8")


def test_an_output_that_states_another_batch_and_is_read_inside():
    """Runtimes take the larger, until what reads it has stated its own."""
    net = Net((4, 3, 8, 8))
    x = net.conv("x", 4)
    model = net.model(net.conv(net.node("Concat", x, x, axis=2), 4), x)
    del model.graph.value_info[:]
    model.graph.output[1].CopyFrom(onnx.helper.make_tensor_value_info(x, onnx.TensorProto.FLOAT, [1, 4, 8, 8]))
    found = quantized(model, "int8").model.graph
    assert [value.type.tensor_type.shape.dim[0].dim_value for value in found.output] == [4, 4]


def test_a_normalization_that_is_wrong_and_that_nobody_reads():
    net = Net()
    net.norm("x", beta=0.0)
    net.weights["norm1.beta"] = np.zeros(0, np.float32)
    y = net.conv(net.relu(net.norm(net.conv("x", 4))), 4)
    found = dfmpc_onnx.quantize(net.model(y), recipe="per-channel").report
    assert all(layer.refused is None for layer in found.layers)
    assert "not compared: the given model: onnxruntime" in found.warnings[-1]


def test_a_batch_that_is_open_although_the_network_takes_one():
    net = Net(("n", 3, 8, 8))
    x = net.node("Flatten", net.conv("x", 4), axis=0)
    model = net.model(net.node("Gemm", x, net.weight("w", np.ones((256, 2), np.float32))))
    assert "export it for one at a time" in refused(model)


@pytest.mark.parametrize("recipe", ["closed-form", "per-channel"])
def test_the_cube_of_a_map(recipe):
    """As a product of three independent maps it had a range of a sixth."""
    net = Net()
    x = net.conv("x", 4)
    cube = net.node("Mul", net.node("Mul", x, x), x)
    net.channels[cube] = 4
    model = net.model(net.conv(cube, 4))
    made = dfmpc_onnx.quantize(model, recipe=recipe, weights="8", activations="8").model
    noise = np.clip(np.random.default_rng(0).standard_normal((16, 1, 3, 8, 8)), -2, 2).astype(np.float32)
    want, got = (np.stack([graphs.run(m, x)[0] for x in noise]) for m in (model, made))
    assert np.square(got - want).mean() < 0.06 * want.var()


@pytest.mark.parametrize("recipe", ["closed-form", "per-channel", "mixed"])
def test_a_layer_without_outputs_whose_weight_states_an_input(recipe):
    """As old exporters list weights among the inputs, with the shape that they once had."""
    net = Net((2, 4, 10))
    y = net.node(
        "Conv", "x", net.weight("w", np.zeros((0, 4, 3), np.float32)), net.weight("b", np.zeros(5, np.float32))
    )
    model = net.model(y)
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [5, 4, 3]))
    assert "holds nothing" in refused(model, recipe)


def test_inputs_that_no_memory_has_room_for():
    net = Net(("n", 4, 6, 2, 9, 2**25))
    weight = net.weight("w", np.ones((5, 4, 1, 1, 1, 1), np.float32))
    assert "give a smaller --input-shape" in refused(net.model(net.node("Conv", "x", weight)))


def test_a_flag_that_is_none():
    net = Net()
    x = net.node("Flatten", net.node("GlobalAveragePool", net.conv("x", 4)))
    y = net.node("Gemm", x, net.weight("w", np.ones((2, 4), np.float32)), transB=2**40)
    assert f"has transB {2**40}" in refused(net.model(y))


@pytest.mark.parametrize("recipe", ["int8", "per-channel"])
def test_a_slice_that_is_read_inside_an_if(recipe):
    """onnxruntime takes the DequantizeLinear past the Slice, and the process is gone."""
    net = Net((1, 3, 8, 8))
    x = net.relu(net.conv(net.relu(net.conv("x", 4)), 4))
    ends = [net.weight(name, np.array([value], np.int64)) for name, value in (("start", 0), ("end", 6), ("axis", 2))]
    x = net.node("Slice", x, *ends)
    size = net.node("ReduceMax", net.node("Shape", x), keepdims=0)
    less = net.node("Less", size, net.weight("limit", np.int64(100)))
    branches = []
    for op in ("Relu", "Abs"):
        node = onnx.helper.make_node(op, [x], [f"{op}.out"], name=f"{op}.inside")
        out = onnx.helper.make_empty_tensor_value_info(f"{op}.out")
        branches.append(onnx.helper.make_graph([node], op, [], [out]))
    y = net.node("If", less, then_branch=branches[0], else_branch=branches[1])
    net.channels[y] = 4
    found = quantized(net.model(net.conv(y, 4)), recipe, weights="8", activations="8")
    reasons = [r.reason for done in found.report.passes for r in done.result.refusals]
    assert any("'slice1', which holds values of it, is read inside 'if1'" in why for why in reasons)


# What is fed beside pictures, and what cannot be fed at all


@pytest.mark.parametrize("kind", [TensorProto.BOOL, TensorProto.INT64])
def test_a_mask_lets_statistics_see_what_is_behind_it(kind):
    net = Net()
    mask = net.node("Cast", "mask", to=TensorProto.FLOAT)
    x = net.node("Mul", net.conv("x", 8), mask)
    net.channels[x] = 8
    model = net.model(net.conv(net.relu(net.conv(x, 8)), 4))
    model.graph.input.append(onnx.helper.make_tensor_value_info("mask", kind, [1, 1, 8, 8]))
    assert sqnr(model, "int8", activations="8", preprocess="imagenet") > 25  # 3 where only zeros were seen


def bfloat16(model: onnx.ModelProto) -> onnx.ModelProto:
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor)
            held = values.astype(onnx.helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
            tensor.CopyFrom(onnx.numpy_helper.from_array(held, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    return model


def test_what_numpy_has_no_type_for_is_quantized_and_not_compared(tmp_path):
    model = bfloat16(graphs.chain())
    made = dfmpc_onnx.quantize(model, recipe="int8")
    assert made.report.fidelity is None
    (line,) = [w for w in made.report.warnings if w.startswith("not compared")]
    assert "its input 'x' is of bfloat16, which numpy has not" in line
    onnx.save(model, tmp_path / "model.onnx")
    onnx.save(made.model, tmp_path / "q.onnx")
    assert_refused(dfmpc("verify", tmp_path / "model.onnx", tmp_path / "q.onnx"), "numpy")


def test_an_output_that_stands_among_inner_tensors_without_a_shape_keeps_its_own():
    model = graphs.chain()
    again = model.graph.value_info.add(name=model.graph.output[0].name)
    again.type.tensor_type.elem_type = TensorProto.FLOAT
    made = dfmpc_onnx.quantize(model, recipe="per-channel", weights="8").model
    onnx.checker.check_model(made)
    assert made.graph.output[0].type.tensor_type.shape == model.graph.output[0].type.tensor_type.shape
