"""What lies within the ranges of activations, and what beyond."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import pytest

from dfmpc_onnx.evaluation.activation_ranges import activation_ranges
from dfmpc_onnx.inputs.files import Images
from dfmpc_onnx.inputs.samples import Samples

SCALE = 0.1


def quantizing(kind: type[np.generic] = np.uint8, zero: int = 50) -> onnx.ModelProto:
    """x, quantized and read by a MatMul."""
    stored = {"s": np.float32(SCALE), "z": kind(zero), "w": np.eye(4, dtype=np.float32)}
    tensors = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()]
    nodes = [
        onnx.helper.make_node("Identity", ["x"], ["t"]),
        onnx.helper.make_node("QuantizeLinear", ["t", "s", "z"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        onnx.helper.make_node("MatMul", ["d", "w"], ["y"], name="layer"),
    ]
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", 4]) for n in ("x", "y")]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)


def fed(*rows: list[float]) -> Samples:
    return Samples({"x": np.array(rows, np.float32)[:, None, :]}, len(rows), "given")


def test_the_range_is_that_of_the_codes_and_the_values_those_that_were_seen() -> None:
    (found,) = activation_ranges(quantizing(), "m", fed([-1, 0, 1, 2], [3, 4, 5, 6]))
    assert (found.tensor, found.read_by) == ("t", ("layer",))
    assert (found.low, found.high) == pytest.approx((-5, 20.5))
    assert (found.least, found.largest) == (-1, 6)
    assert found.clipped == 0 and found.used == pytest.approx(7 / 25.5)


def test_values_beyond_either_end_are_counted() -> None:
    (found,) = activation_ranges(quantizing(), "m", fed([-9, 0, 30, 2], [3, 40, 5, 6]))
    assert (found.clipped_low, found.clipped_high) == (1 / 8, 2 / 8)
    assert found.used == pytest.approx(1)


def test_what_is_beyond_by_less_than_half_a_step_is_not_clipped() -> None:
    (found,) = activation_ranges(quantizing(), "m", fed([-5.04, 20.54, 0, 0]))
    assert found.clipped == 0


def test_signed_codes() -> None:
    (found,) = activation_ranges(quantizing(np.int8, 0), "m", fed([0, 0, 0, 1]))
    assert (found.low, found.high) == pytest.approx((-12.8, 12.7))


def test_a_file_that_quantizes_no_activations_has_none(model_file: pathlib.Path) -> None:
    x = np.zeros((2, 3, 8, 8), np.float32)
    assert activation_ranges(onnx.load(model_file), "m", Images(x, None, "zeros")) == ()


def test_pictures_are_run_one_by_one(quantized: pathlib.Path) -> None:
    x = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)
    found = activation_ranges(onnx.load(quantized), "m", Images(x, None, "noise"))
    assert found[0].least == pytest.approx(float(x.min()))


@pytest.mark.parametrize("names", [("t", "y"), ("a", "t")])
def test_what_a_fused_relu_removes_is_not_clipped(names: tuple[str, str]) -> None:
    """Whether its input's name is left to the quantized tensor, or its output's."""
    behind = onnx.helper.make_node("Relu", names[:1], names[1:])
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", 4]) for n in names]
    real = onnx.helper.make_model(onnx.helper.make_graph([behind], "g", ends[:1], ends[1:]))
    inputs = fed([-9, -3, 30, 2])
    (found,) = activation_ranges(quantizing(zero=0), "m", inputs, real)
    assert (found.clipped_low, found.clipped_high, found.least) == (0, 1 / 4, 0)
    (plain,) = activation_ranges(quantizing(zero=0), "m", inputs)
    assert (plain.clipped_low, plain.clipped_high) == (2 / 4, 1 / 4)
