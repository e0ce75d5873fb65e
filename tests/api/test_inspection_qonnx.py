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
    plain = model_file.with_name("plain.onnx")
    options = {"recipe": "int8", "preprocess": "unit", "weights": "4", "check": False}
    dfmpc_onnx.quantize(model_file, out, target="qonnx", **options)
    dfmpc_onnx.quantize(model_file, plain, target="portable", **options)
    read, want = dfmpc_onnx.inspect(out).quantized_layers, dfmpc_onnx.inspect(plain).quantized_layers
    assert [(layer.name, layer.shape) for layer in read] == [(layer.name, layer.shape) for layer in want]
    assert {4, 8} <= {layer.stored_bits for layer in read} <= {2, 3, 4, 8} and all(layer.coded for layer in read)
    assert dfmpc_onnx.inspect(out).mean_weight_bits <= dfmpc_onnx.inspect(plain).mean_weight_bits
