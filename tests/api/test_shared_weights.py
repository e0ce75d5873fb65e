"""Layers that read one weight get one set of codes, stored once, and no file is larger than its model unsaid."""

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import dfmpc_onnx
from dfmpc_onnx.evaluation.kernel_census import take_census
from dfmpc_onnx.qdq.expansion import expand
from tests import graphs

RECIPES = ["mixed", "int8", "int4", "closed-form", "per-channel", "paper"]
USES = 5


def towers(norms: bool = True) -> onnx.ModelProto:
    """A Conv, and another that is used five times, each time with a BatchNormalization of its own."""
    net = graphs.Net()
    x = net.relu(net.conv("x", 24))
    weight = net.weight("shared", net.random.standard_normal((24, 24, 3, 3), np.float32) / np.float32(10))
    for _ in range(USES):
        x = net.node("Conv", x, weight, stem="conv", pads=[1, 1, 1, 1])
        net.channels[x] = 24
        x = net.relu(net.norm(x) if norms else x)
    return net.model(net.conv(x, 4))


def wide_codes(model: onnx.ModelProto, least: int = 24 * 24 * 9 // 5) -> list[str]:
    """Initializers as large as the codes of the shared weight, at whatever width."""
    return [t.name for t in model.graph.initializer if math.prod(t.dims) >= least and t.data_type != TensorProto.FLOAT]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("norms", [True, False])
def test_the_codes_of_a_shared_weight_are_stored_once(recipe, norms):
    model = towers(norms)
    made = dfmpc_onnx.quantize(model, recipe=recipe, preprocess="imagenet")
    shared = [layer for layer in made.report.layers if layer.name in {f"conv{i}" for i in range(2, 2 + USES)}]
    assert len({(layer.bits, layer.role) for layer in shared}) == 1 and len(shared) == USES
    planes = {1.6: 1, 2: 1, 3: 2, 4: 1, 5: 2, 6: 2, 7: 3, 8: 1}[shared[0].stored_bits]
    assert len(wide_codes(made.model)) == planes
    assert made.report.bytes < made.report.float_bytes
    assert not any(refusal.code == "codes-stored-again" for refusal in made.report.refusals)
    assert made.report.fidelity is not None and made.report.fidelity.sqnr_db > (5 if recipe == "paper" else 10)


@pytest.mark.parametrize("weights", ["4", "8"])
def test_shared_codes_still_fuse_to_integer_kernels(weights):
    made = dfmpc_onnx.quantize(towers(), recipe="int8", weights=weights, preprocess="imagenet").model
    assert take_census(made, made, "made").integer == {"QLinearConv": USES + 2}


@pytest.mark.parametrize("activations", ["8", "none"])
@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_expand_shares_them_too_and_gives_the_same_weights(activations, target):
    made = dfmpc_onnx.quantize(
        towers(), recipe="int4", activations=activations, target=target, preprocess="imagenet"
    ).model
    plain = expand(made, "made").model  # it compares every weight bit for bit
    assert len(wide_codes(plain)) == 1
    x = graphs.input_of(towers())
    first, second = (graphs.run(model, x)[0] for model in (made, plain))
    assert np.array_equal(first, second) if activations == "8" else np.allclose(first, second, atol=1e-4)


@pytest.mark.parametrize("weights", ["4", "ternary/6"])
def test_report_and_inspect_state_the_same_mean_bits(weights):
    made = dfmpc_onnx.quantize(towers(), recipe="mixed", weights=weights, preprocess="imagenet")
    found = dfmpc_onnx.inspect(made.model)
    assert found.mean_weight_bits == pytest.approx(made.report.mean_weight_bits, abs=2e-3)


def test_a_use_that_the_user_sets_apart_gets_codes_of_its_own_and_the_report_says_so():
    made = dfmpc_onnx.quantize(towers(), recipe="int8", layers=["conv3=4"], preprocess="imagenet")
    (said,) = [refusal for refusal in made.report.refusals if refusal.code == "codes-stored-again"]
    assert said.site == "conv3" and "reads the same weight" in said.reason and "bytes more" in said.reason
    assert {layer.name: layer.bits for layer in made.report.layers}["conv2"] == 8


def test_codes_of_a_weight_that_is_read_as_floats_too_are_named():
    net = graphs.Net()
    weight = net.weight("w", net.random.standard_normal((16, 3, 3, 3), np.float32))
    x = net.node("Conv", "x", weight, stem="conv", pads=[1, 1, 1, 1])
    net.channels[x] = 16
    size = net.node("ReduceMax", weight, keepdims=0)
    made = dfmpc_onnx.quantize(net.model(net.conv(net.node("Mul", x, size), 4)), recipe="int8", preprocess="imagenet")
    (said,) = [refusal for refusal in made.report.refusals if refusal.code == "codes-stored-again"]
    assert said.site == "conv1" and "432 bytes more" in said.reason


def choosing() -> onnx.ModelProto:
    """A weight outside, read in both branches of an If behind a Conv."""
    net = graphs.Net(opset=16)
    x = net.node("Flatten", net.node("GlobalAveragePool", net.relu(net.conv("x", 64))))
    big = numpy_helper.from_array(np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32), "big")
    output = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
    bodies = [
        helper.make_graph(
            [helper.make_node("MatMul", [x, "big"], ["m"]), helper.make_node(op, ["m"], ["o"])], op, [], [output]
        )
        for op in ("Tanh", "Sigmoid")
    ]
    flag = net.weight("flag", np.array(True))
    choice = helper.make_node("If", ["flag"], ["chosen"], name="if", then_branch=bodies[0], else_branch=bodies[1])
    model = net.model(x)
    del flag, model.graph.output[:]
    model.graph.node.append(choice)
    model.graph.initializer.append(big)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    model.graph.output.append(helper.make_tensor_value_info("chosen", TensorProto.FLOAT, None))
    return model


def test_a_weight_that_branches_read_from_outside_is_stored_once():
    made = dfmpc_onnx.quantize(choosing(), recipe="int8", preprocess="imagenet")
    assert made.report.bytes < made.report.float_bytes


def tiny(layers: int, channels: int) -> onnx.ModelProto:
    net = graphs.Net()
    x = "x"
    for index in range(layers):
        x = net.conv(x, channels, kernel=1, bias=True)
        x = net.relu(x) if index % 3 else x
    return net.model(x)


@pytest.mark.parametrize("activations", ["8", "none"])
@pytest.mark.parametrize("recipe", ["int8", "per-channel"])
@pytest.mark.parametrize("model", [tiny(60, 2), tiny(60, 8), tiny(3, 4), towers(), graphs.chain()], ids=range(5))
def test_no_file_is_larger_than_its_model_without_a_line(model, recipe, activations):
    made = dfmpc_onnx.quantize(model, recipe=recipe, activations=activations, preprocess="imagenet")
    said = [warning for warning in made.report.warnings if "more than the float model" in warning]
    assert len(said) == (made.report.bytes > made.report.float_bytes)
    if said and activations == "8" and made.report.count("float") < len(made.report.layers):
        assert "--activations none" in said[0]


def test_layers_whose_codes_cost_more_than_they_save_stay_float():
    made = dfmpc_onnx.quantize(tiny(60, 2), recipe="int8", preprocess="imagenet")
    assert {layer.refused_code for layer in made.report.layers} == {"codes-cost-more"}
    assert any(warning.startswith("nothing is quantized: codes") for warning in made.report.warnings)
    assert (
        dfmpc_onnx.quantize(tiny(60, 2), recipe="int8", layers=["conv1=8"], preprocess="imagenet").report.layers[0].bits
        == 8
    )


def levels(scales: tuple[float, ...], own_scale: bool = False, gate: bool = False) -> onnx.ModelProto:
    """A head of one weight over features of several sizes."""
    net = graphs.Net()
    net.weight("head", net.random.standard_normal((32, 24, 3, 3), np.float32) / np.float32(15))
    net.weight("head_bias", np.float32(0.01) * net.random.standard_normal(32, np.float32))
    outputs = []
    for index, size in enumerate(scales):
        weight = np.float32(size) * net.random.standard_normal((24, 3, 3, 3), np.float32) / np.float32(5)
        head = net.node("Conv", net.relu(net.conv("x", 24, weight=weight)), "head", "head_bias", pads=[1, 1, 1, 1])
        head = net.node("Mul", head, net.node("HardSigmoid", head, alpha=1 / 6, beta=0.5)) if gate else head
        head = net.node("Mul", head, net.weight(f"scale{index}", np.float32(0.5 + index))) if own_scale else head
        net.channels[head] = 32
        outputs.append(net.conv(net.relu(head), 4))
    return net.model(*outputs)


@pytest.mark.parametrize("recipe", ["closed-form", "int8"])
def test_each_level_has_the_range_that_it_reaches_itself(recipe):
    """Pooled statistics have a mean square of 1: beside them a level of size 0.01 had 200 times its range."""
    model = levels((1.0, 0.01, 0.01))
    made = dfmpc_onnx.quantize(model, recipe=recipe, weights="8", activations="8", preprocess="imagenet")
    assert made.report.fidelity is not None
    assert all(output.sqnr_db > 20 for output in made.report.fidelity.outputs)


@pytest.mark.parametrize(("own_scale", "gate"), [(True, False), (False, True), (True, True)])
def test_neither_scales_of_levels_nor_gates_split_a_shared_weight(own_scale, gate):
    model = levels((1.0, 0.5, 0.5, 0.5), own_scale, gate)
    made = dfmpc_onnx.quantize(model, recipe="int8", preprocess="imagenet")
    assert len(wide_codes(made.model, 32 * 24 * 9)) == 1
