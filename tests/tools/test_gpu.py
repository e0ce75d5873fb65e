"""What the command for a machine with a GPU does on the processor: everything but the GPU."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import onnx
import pytest

from tests import graphs
from tools.experiments.measure import Network
from tools.providers import gpu


def layer(kind: str, datatype: str) -> dict[str, object]:
    return {"Name": "c", "LayerType": kind, "Inputs": [{"Name": "x", "Format/Datatype": datatype}, {"Name": "y"}]}


def test_convolutions_that_read_int8_are_counted_by_the_engines_own_report() -> None:
    layers = [
        layer("CaskConvolution", "Thirty-two wide channel vectorized row major Int8 format"),
        layer("CaskConvolution", "Row major linear FP16 format"),
        layer("CaskDeconvolution", "Int8"),
        layer("Reformat", "Int8"),
        "a layer without details",
    ]
    assert gpu.int8_convolutions(json.dumps({"Layers": layers, "Bindings": ["x"]})) == (2, 3)


def test_the_float16_form_is_valid_and_gives_what_the_float_network_gives(tmp_path: pathlib.Path) -> None:
    model = graphs.residual()
    onnx.save(model, tmp_path / "float.onnx")
    gpu.float16_form(tmp_path / "float.onnx", tmp_path / "half.onnx")
    half = onnx.load(tmp_path / "half.onnx")
    onnx.checker.check_model(half, full_check=True)
    assert {t.data_type for t in half.graph.initializer} == {onnx.TensorProto.FLOAT16}
    x = graphs.input_of(model, 2)
    assert graphs.relative(graphs.run(half, x), graphs.run(model, x)) < 0.01


def test_a_row_has_agreement_steps_and_times_and_a_provider_that_is_not_there_is_a_reason(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(graphs.residual(), tmp_path / "float.onnx")
    images = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    np.savez(tmp_path / "images.npz", x=images, y=np.zeros(4, np.int64))
    network = Network("small", tmp_path / "float.onnx", tmp_path / "images.npz")
    monkeypatch.setattr(gpu, "networks", lambda: {"small": network})
    monkeypatch.setattr(gpu, "RUNS", 2)
    assert gpu.main(["--provider", "CPU", "--batch", "2"]) == 0
    head, _, only = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in only.strip("|").split("|")]
    assert len(cells) == head.count("|") - 1 == len(gpu.HEADER)
    assert cells[:2] == ["small", "CPU"] and cells[5] == "0.00" and float(cells[7]) > 0
    assert gpu.main(["--provider", "Tensorrt", "--batch", "2"]) == 1
    assert "failed: small on Tensorrt: " in capsys.readouterr().err
