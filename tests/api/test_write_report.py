"""write_report(): from Python, on files of others, on networks that take no pictures."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

import dfmpc_onnx
from dfmpc_onnx.errors import OptionError
from tests import graphs
from tests.report.html.pages import Page


class Noise(CalibrationDataReader):
    def __init__(self) -> None:
        self._left = [{"x": np.random.default_rng(i).random((1, 3, 8, 8), np.float32)} for i in range(4)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self._left.pop() if self._left else None


def sections(text: str) -> dict[str, str]:
    """The text of each section by its anchor."""
    found = Page(text)
    assert not found.mistakes
    return {part.attributes["aria-labelledby"] or "": part.text for part in found.root.all("section")}


def test_models_in_memory_and_images_as_arrays() -> None:
    model = graphs.chain()
    made = dfmpc_onnx.quantize(model, None, "int8", preprocess="unit")
    x = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3)).astype(np.uint8)
    found = sections(dfmpc_onnx.write_report(model, made.model, images=x))
    assert "12 images" in found["images"] and "not put into the report" in found["images"]
    assert "conv2" in found["losses"] and "unit" in found["making"]


def test_files_of_other_tools(model_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folded = tmp_path / "folded.onnx"
    onnx.save(graphs.folded(), folded)
    theirs = tmp_path / "theirs.onnx"
    quantize_static(folded, theirs, Noise(), quant_format=QuantFormat.QDQ, per_channel=True)
    found = sections(dfmpc_onnx.write_report(folded, theirs, preprocess="unit"))
    assert "at 8 bits" in found["layers"] and "steps of the grid" in found["weights"]
    assert "quantized tensors" in found["activations"]
    assert "not by dfmpc-onnx quantize" in found["making"]


def test_a_file_whose_weights_alone_are_quantized(model_file: pathlib.Path) -> None:
    made = dfmpc_onnx.quantize(model_file, None, "int8", activations="none", preprocess="unit")
    found = sections(dfmpc_onnx.write_report(model_file, made.model))
    assert "The file quantizes no activations." in found["activations"]
    assert "4 with integer weights compute in float" in found["refusals"]


def test_a_network_that_takes_no_pictures() -> None:
    net = graphs.Net((1, 5, 8, 8))
    model = net.model(net.tail(net.block(net.block("x", 8), 8)))
    made = dfmpc_onnx.quantize(model, None, "int8", input_ranges={"x": (-1, 1)})
    found = sections(dfmpc_onnx.write_report(model, made.model, input_ranges={"x": (-1, 1)}))
    assert "no pictures" in found["images"]


def test_the_same_file_twice_has_no_loss(model_file: pathlib.Path) -> None:
    found = sections(dfmpc_onnx.write_report(model_file, model_file, preprocess="unit"))
    assert "both files are the same" in found["outcome"]
    assert "4 of 4 layers are left in float" in found["refusals"]


def test_what_was_tried_is_there_with_its_gain_and_its_cost(model_file: pathlib.Path) -> None:
    made = dfmpc_onnx.quantize(model_file, None, "closed-form", weights="2", preprocess="imagenet")
    found = sections(dfmpc_onnx.write_report(model_file, made.model, count=8, blame=True))
    assert " 8 bits" in found["advice"] and "kB" in found["advice"]
    assert "--apply" not in found["advice"]  # which takes files
    assert "gain, dB" in found["causes"] and "weights" in found["causes"]


def test_nothing_is_advised_that_was_not_tried(model_file: pathlib.Path, quantized: pathlib.Path) -> None:
    found = sections(dfmpc_onnx.write_report(model_file, quantized, count=8))
    assert "No change was tried" in found["advice"] and "--blame" in found["advice"]
    assert "Nothing stands out" in found["causes"]
    assert "own error" not in found["causes"]  # no table, where nothing stands out
    assert "Error made at the place itself" in found["losses"] and "--blame measures it" in found["losses"]


def test_a_file_without_integer_kernels_is_said_to_save_no_time(model_file: pathlib.Path) -> None:
    made = dfmpc_onnx.quantize(model_file, None, "int8", activations="none", preprocess="unit")
    found = sections(dfmpc_onnx.write_report(model_file, made.model, count=4))
    assert "No kernel computes in integers" in found["time"] and "Islands of float" not in found["time"]
    assert "1x3x8x8" in found["time"]


def test_what_it_compares_needs_the_check(model_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(OptionError, match="leave check=False out"):
        dfmpc_onnx.quantize(model_file, None, check=False, report=tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_nothing_is_left_behind_where_the_float_model_is_missing(
    tmp_path: pathlib.Path, quantized: pathlib.Path
) -> None:
    with pytest.raises(dfmpc_onnx.ModelError, match="no such file"):
        dfmpc_onnx.write_report(tmp_path / "none.onnx", quantized, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
