"""What inspect says of a quantized file: integer kernels, and every QuantizeLinear that is left with its reason."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import onnx
import onnx.parser
import pytest

import dfmpc_onnx
from dfmpc_onnx.errors import RuntimeUnavailable
from dfmpc_onnx.evaluation.kernel_census import Census, take_census
from dfmpc_onnx.runtime import session as runtime
from tests import graphs
from tests.commands import dfmpc, program


def census(model: onnx.ModelProto, **options: object) -> Census:
    made = dfmpc_onnx.quantize(model, None, "per-channel", check=False, **options).model
    return take_census(made, made, "it")


def test_a_plain_network_is_integer_from_its_input_to_its_classifier() -> None:
    found = census(graphs.chain(), weights="8")
    assert found.layers == {"Conv": 3, "Gemm": 1}
    assert found.integer == {"QLinearConv": 3, "QGemm": 1}
    assert found.other == {"QLinearGlobalAveragePool": 1}
    assert (found.float_layers, found.dequantized_weights) == ({}, 0)
    assert (found.quantize, found.dequantize) == ({"the model's input is float": 1}, {})


def test_a_layer_kept_in_float_is_named_with_what_it_costs() -> None:
    found = census(graphs.chain(), weights="8", layers=["conv2=float"])
    assert found.integer == {"QLinearConv": 2, "QGemm": 1}
    assert found.float_layers == {"kept in float": ("conv2",)}
    assert found.dequantize == {"Max computes in float": 1}
    assert sum(found.quantize.values()) == 2


def test_float_activations_leave_every_layer_float_and_dequantize_no_weight() -> None:
    found = census(graphs.chain(), weights="2/6", activations="none")
    assert found.integer == {} and found.dequantized_weights == 0
    assert sum(map(len, found.float_layers.values())) == 4


def test_a_weight_that_is_dequantized_at_every_inference_is_counted() -> None:
    net = graphs.Net()
    codes = net.weight("codes", np.ones((4, 3, 3, 3), np.int8))
    weight = net.node("DequantizeLinear", codes, net.weight("s", np.float32(0.5)), net.weight("z", np.int8(0)))
    model = net.model(net.node("Conv", "x", weight, pads=[1] * 4))
    found = take_census(model, model, "it")
    assert found.dequantized_weights == 1
    assert found.float_layers == {"its weight is dequantized at every inference": ("conv1",)}


def test_an_operator_without_an_integer_kernel_is_the_reason() -> None:
    net = graphs.Net()
    x = net.node("HardSigmoid", net.block("x", 4))
    model = net.model(net.block(x, 4))
    found = census(model, weights="8")
    assert {*found.quantize, *found.dequantize} <= {
        "the model's input is float",
        "HardSigmoid computes in float",
        "the model's output is float",
    }


def test_inspect_prints_layers_and_census_of_a_quantized_file_and_nothing_about_recipes(
    model_file: pathlib.Path,
) -> None:
    out = model_file.with_name("out.onnx")
    dfmpc_onnx.quantize(model_file, out, "per-channel", weights="8", check=False)
    result = dfmpc("inspect", out)
    assert result.exit_code == 0, result.stderr
    assert "3 QLinearConv, 1 QGemm" in result.stdout
    assert "1: the model's input is float" in result.stdout
    assert "made by" in result.stdout and "recipe per-channel, weights 8, activations 8, for cpu" in result.stdout
    assert "of 8.00 bits each in the file; 4 layers compute in integers" in result.stdout
    assert not any(said in result.stdout for said in ("note:", "sha256  ", "float model that it was made from", "role"))
    figures = json.loads(dfmpc("inspect", out, "--json").stdout)
    assert figures["census"]["integer"] == {"QLinearConv": 3, "QGemm": 1}
    assert figures["census"]["integer_layers"] == ["conv1", "conv2", "conv3", "gemm1"]
    assert [(layer["name"], layer["stored_bits"], layer["integer"]) for layer in figures["quantized_layers"]] == [
        (name, 8, True) for name in ("conv1", "conv2", "conv3", "gemm1")
    ]
    assert figures["notes"] == [] and figures["metadata"]["seed"] == "0"
    assert json.loads(dfmpc("inspect", model_file, "--json").stdout)["census"] is None


def test_inspect_tells_of_the_layers_that_were_left_in_float(model_file: pathlib.Path) -> None:
    out = model_file.with_name("out.onnx")
    dfmpc_onnx.quantize(model_file, out, "per-channel", layers=["conv2=float"], check=False)
    told = [line.rstrip() for line in program("inspect", out).stdout.splitlines()]
    assert any(line.split() == ["conv2", "Conv", "8x8x3x3", "float", "float"] for line in told)
    assert any(line.split()[:2] == ["with", "--layer"] and "conv2=float" in line for line in told)
    assert "1 layers are float and can be quantized; what is quantized would stay as it is" in told


def test_files_without_quantize_linear_are_counted_too():
    """What onnxruntime's dynamic quantizer writes: operators that take codes, and no QuantizeLinear."""
    text = """<ir_version: 8, opset_import: ["" : 13]>
    g (float[1, 4] x) => (float[1, 2] y) <int8[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}, float s = {0.5}> {
        q, scale, zero = DynamicQuantizeLinear (x)
        sums = MatMulInteger (q, w, zero)
        wide = Cast <to: int = 1> (sums)
        both = Mul (scale, s)
        y = Mul (wide, both)
    }"""
    model = onnx.parser.parse_model(text)
    next(node for node in model.graph.node if node.op_type == "MatMulInteger").name = "layer"
    found = dfmpc_onnx.inspect(model)
    assert [(layer.name, layer.stored_bits) for layer in found.quantized_layers] == [("layer", 8)]
    assert found.census is not None and sum(found.census.integer.values()) == 1
    assert found.census.layers == {"MatMulInteger": 1}


def test_without_onnxruntime_inspect_says_why_it_does_not_count(
    model_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = dfmpc_onnx.quantize(model_file, None, "per-channel", weights="8", check=False).model

    def missing() -> None:
        raise RuntimeUnavailable("onnxruntime is not installed")

    monkeypatch.setattr(runtime, "require", missing)
    found = dfmpc_onnx.inspect(made)
    assert found.census is None
    assert found.notes[-1] == "not counted: onnxruntime is not installed"
    assert {layer.integer for layer in found.quantized_layers} == {None}


def test_a_file_with_its_weights_beside_it_is_counted_as_one_without(tmp_path: pathlib.Path) -> None:
    made = dfmpc_onnx.quantize(graphs.chain(), None, "int8", check=False).model
    onnx.save(made, tmp_path / "one.onnx")
    onnx.save(made, tmp_path / "two.onnx", save_as_external_data=True, location="two.data", size_threshold=0)
    one, two = (dfmpc_onnx.inspect(tmp_path / f"{name}.onnx") for name in ("one", "two"))
    assert two.census is not None and two.census == one.census
