"""What is said of a file for QONNX, which onnxruntime does not run."""

import pathlib

import dfmpc_onnx
from tests.commands import dfmpc


def test_a_file_for_qonnx_is_no_float_model_and_needs_no_onnxruntime(model_file: pathlib.Path) -> None:
    out = model_file.with_name("q.onnx")
    made = dfmpc("quantize", model_file, "-o", out, "--target", "qonnx", "--recipe", "int8", "--preprocess", "unit")
    assert made.exit_code == 0
    assert "onnxruntime has no Quant node" in made.stdout and "held as floats in front of Quant nodes" in made.stdout
    found = dfmpc_onnx.inspect(out)
    assert not found.layers and not found.recipes
    (note,) = found.notes
    assert "QONNX" in note and "verify" in note
