"""The EfficientNet-like network of models/: SiLU and squeeze-and-excitation at 8/8, in integers throughout."""

from __future__ import annotations

import pathlib

import onnx

import dfmpc_onnx
from tests.graphs import kernels
from tests.written import top1

MODELS = pathlib.Path(__file__).parents[2] / "models"
IN_INTEGERS = {"QuantizeLinear", "QLinearConv", "QLinearMul", "QLinearAdd", "QLinearSigmoid", "QGemm", "Transpose"}


def test_every_gate_is_computed_in_integers_and_little_is_lost(tmp_path):
    network, out = MODELS / "efficientnet_cifar10.onnx", tmp_path / "out.onnx"
    made = dfmpc_onnx.quantize(str(network), out, "int8", preprocess="imagenet")
    assert set(kernels(onnx.load(out))) <= IN_INTEGERS | {"QLinearGlobalAveragePool", "Flatten", "DequantizeLinear"}
    sample = MODELS / "cifar10_sample.npz"
    assert top1(out, sample) > top1(network, sample) - 2  # 500 images: one deviation of the difference is 0.7 points
    assert next(part.result.rewrites for part in made.report.passes if part.name == "equalize_gates")
