"""What inspect says of a quantized file: integer kernels, and every QuantizeLinear that is left with its reason."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import onnx
import pytest

from dfmpc_onnx import api, runtime
from dfmpc_onnx.census import Census, take_census
from dfmpc_onnx.errors import RuntimeUnavailable
from tests import graphs
from tests.commands import dfmpc


def census(model: onnx.ModelProto, **options: object) -> Census:
    made = api.quantize(model, None, "per-channel", check=False, **options).model
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


def test_inspect_prints_the_census_of_a_quantized_file_alone(model_file: pathlib.Path) -> None:
    out = model_file.with_name("out.onnx")
    api.quantize(model_file, out, "per-channel", weights="8", check=False)
    result = dfmpc("inspect", out)
    assert result.exit_code == 0, result.stderr
    assert "3 QLinearConv, 1 QGemm" in result.stdout
    assert "1: the model's input is float" in result.stdout
    figures = json.loads(dfmpc("inspect", out, "--json").stdout)
    assert figures["census"]["integer"] == {"QLinearConv": 3, "QGemm": 1}
    assert json.loads(dfmpc("inspect", model_file, "--json").stdout)["census"] is None


def test_without_onnxruntime_inspect_says_why_it_does_not_count(
    model_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = api.quantize(model_file, None, "per-channel", weights="8", check=False).model

    def missing() -> None:
        raise RuntimeUnavailable("onnxruntime is not installed")

    monkeypatch.setattr(runtime, "require", missing)
    found = api.inspect(made)
    assert found.census is None
    assert found.notes[-1] == "not counted: onnxruntime is not installed"
