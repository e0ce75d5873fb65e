"""Bytes of a file by what they hold."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx.model.source import load
from dfmpc_onnx.qdq.stored_bytes import CONTENTS, stored_bytes
from tests import graphs


def test_the_parts_are_the_whole(model_file: pathlib.Path, quantized: pathlib.Path) -> None:
    for path in (model_file, quantized):
        found = stored_bytes(load(path))
        assert tuple(found) == CONTENTS
        assert sum(found.values()) == path.stat().st_size


def test_a_float_file_holds_weights_and_normalizations() -> None:
    model = graphs.chain()
    found = stored_bytes(load(model))
    weights = sum(len(t.raw_data) for t in model.graph.initializer if len(t.dims) > 1)
    assert found["float weights"] == weights
    assert found["normalizations"] > 0 and found["codes of weights"] == 0


@pytest.mark.parametrize("weights", ["8", "ternary/6"])
def test_codes_take_the_bytes_that_their_bits_need(weights: str) -> None:
    made = dfmpc_onnx.quantize(graphs.chain(), None, "closed-form", weights=weights, preprocess="imagenet")
    found = stored_bytes(load(made.model))
    bits = sum(layer.weights * layer.stored_bits for layer in made.report.layers)
    assert found["codes of weights"] == pytest.approx(bits / 8, rel=0.05)
    assert found["float weights"] == 0 < found["scales and zero points"]


def test_codes_of_other_tools_are_found_by_their_readers() -> None:
    codes = onnx.numpy_helper.from_array(np.ones((4, 3, 1, 1), np.int8), "codes")
    bias = onnx.numpy_helper.from_array(np.ones(4, np.int32), "bias")
    scale = onnx.numpy_helper.from_array(np.float32(0.5), "scale")
    nodes = [
        onnx.helper.make_node("DequantizeLinear", ["codes", "scale"], ["w"]),
        onnx.helper.make_node("DequantizeLinear", ["bias", "scale"], ["b"]),
        onnx.helper.make_node("Conv", ["x", "w", "b"], ["y"]),
    ]
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in ("x", "y")]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], [codes, bias, scale])
    found = stored_bytes(load(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])))
    assert (found["codes of weights"], found["biases"], found["scales and zero points"]) == (12, 16, 4)
