"""Errors of layers as users ask for them: in quantize(), in verify(), on the command line."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

import dfmpc_onnx
from dfmpc_onnx.errors import OptionError
from tests import graphs
from tests.commands import dfmpc


def test_quantize_gives_each_layer_its_columns(model_file: pathlib.Path) -> None:
    made = dfmpc_onnx.quantize(model_file, None, "int8", preprocess="imagenet", layer_errors=True)
    assert made.report.layer_errors is not None
    rows = made.layers
    assert [row["name"] for row in rows] == ["conv1", "conv2", "conv3", "gemm1"]
    assert all(row["sqnr_db"] > 10 and 0 < row["own_error"] < 0.2 for row in rows)
    assert all(row["amplification"] > 0 for row in rows)
    assert made.to_dict()["layer_errors"]["rows"][0]["tensor"] == made.report.layer_errors.rows[0].tensor


def test_nobody_measures_what_nobody_asked_for(model_file: pathlib.Path) -> None:
    made = dfmpc_onnx.quantize(model_file, None, "int8", preprocess="imagenet")
    assert made.report.layer_errors is None and made.layers[0]["sqnr_db"] is None


def test_layer_errors_need_the_inputs_of_the_check(model_file: pathlib.Path) -> None:
    with pytest.raises(OptionError, match="leave check=False out"):
        dfmpc_onnx.quantize(model_file, None, "int8", check=False, layer_errors=True)


def test_verify_measures_them_on_a_few_images(model_file: pathlib.Path, quantized: pathlib.Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    found = dfmpc_onnx.verify(model_file, quantized, images=x, layer_errors=True)
    assert found.providers[0].fidelity.images == 40
    assert found.layer_errors is not None and found.layer_errors.inputs == 16
    assert dfmpc_onnx.verify(model_file, quantized, images=x).layer_errors is None


def test_inputs_whose_scale_nobody_knows_give_no_figures() -> None:
    net = graphs.Net((1, 5, 8, 8))
    model = net.model(net.conv(net.node("Relu", net.conv("x", 4)), 3))
    made = dfmpc_onnx.quantize(model, None, "int8", layer_errors=True)
    assert made.report.layer_errors is None
    assert any(warning.startswith("layers not compared: ") for warning in made.report.warnings)


def test_the_table_has_a_line_a_layer_within_80_columns(model_file: pathlib.Path, quantized: pathlib.Path) -> None:
    done = dfmpc("verify", str(model_file), str(quantized), "--layers", COLUMNS="80")
    lines = done.stdout.splitlines()
    head = next(line for line in lines if line.startswith("layer"))
    assert head.split() == ["layer", "op", "SQNR", "dB", "error", "%", "own", "%", "times"]
    assert [line.split()[0] for line in lines if line.startswith(("conv", "gemm"))] == [
        "conv1",
        "conv2",
        "conv3",
        "gemm1",
    ]
    assert max(map(len, lines)) <= 80


def test_json_holds_the_rows(model_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out.onnx"
    done = dfmpc("quantize", str(model_file), "-o", str(out), "--recipe", "int8", "--layers", "--json")
    found = json.loads(done.stdout)
    assert found["layer_errors"]["inputs"] == 16 and found["layers"][0]["sqnr_db"] is not None
