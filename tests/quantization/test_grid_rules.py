"""Weights on the grids that a target allows: one scale a tensor, powers of two, plain int8."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import dfmpc_onnx
from dfmpc_onnx.numerics.grids import tensor_grid, ternary_grid, uniform_grid, with_powers_of_two
from dfmpc_onnx.numerics.rounding import FeedbackRounder
from dfmpc_onnx.pipeline import targets as registry
from dfmpc_onnx.pipeline.targets import TARGETS
from tests import graphs

RNG = np.random.default_rng(5)
WEIGHT = RNG.normal(size=(6, 40)).astype(np.float32) * np.geomspace(0.1, 2, 6).astype(np.float32)[:, None]
H = RNG.uniform(0.1, 1, (2, 40))  # of three rows each
IMPORTANCE = np.repeat(H, 3, axis=0)
GEMM_BY_TENSOR = msgspec.structs.replace(TARGETS["cpu"], name="npu", per_channel=("Conv",), storage="int8")
POWERS = msgspec.structs.replace(TARGETS["cpu"], name="npu", per_channel=(), scales="power-of-two")


def loss(values: np.ndarray) -> float:
    return float((IMPORTANCE * np.square(WEIGHT - values)).sum())


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_rows_that_share_a_scale_take_the_best_of_all_that_are_tried(bits: int) -> None:
    grid = tensor_grid(uniform_grid(WEIGHT, H, bits), WEIGHT, H)
    assert len(np.unique(grid.scale)) == len(np.unique(grid.zero_point)) == 1 and grid.shared and grid.fixed
    for factor in (0.7, 0.9, 1.15, 1.5):
        scale = grid.scale * np.float32(factor)
        codes = np.clip(np.rint(WEIGHT / scale) + grid.zero_point, grid.lowest, grid.highest)
        assert loss(grid.nearest(WEIGHT)) <= 1.02 * loss((codes - grid.zero_point) * scale)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shared", [False, True])
def test_powers_of_two_are_the_best_ones(bits: int, shared: bool) -> None:
    grid = uniform_grid(WEIGHT, H, bits)
    grid = with_powers_of_two(tensor_grid(grid, WEIGHT, H) if shared else grid, WEIGHT, H)
    assert np.all(np.frexp(grid.scale)[0] == 0.5) and not grid.zero_point.any()
    assert len(np.unique(grid.scale)) == 1 or not shared
    for factor in (0.5, 2.0):
        codes = np.clip(np.rint(WEIGHT / grid.scale / factor), grid.lowest, grid.highest)
        assert loss(grid.nearest(WEIGHT)) <= loss(codes * grid.scale * np.float32(factor))


def test_ternary_levels_share_a_power_of_two() -> None:
    grid = tensor_grid(ternary_grid(np.linspace(0.2, 2, 6, dtype=np.float32)[:, None]), WEIGHT, H)
    found = with_powers_of_two(grid, WEIGHT, H)
    assert set(np.unique(found.codes(WEIGHT))) <= {-1, 0, 1} and len(np.unique(found.scale)) == 1
    assert np.frexp(found.scale[0, 0])[0] == 0.5


def test_a_weight_of_zeros_has_a_power_of_two_too() -> None:
    nothing = np.zeros((2, 8), np.float32)
    found = with_powers_of_two(uniform_grid(nothing, np.ones((1, 8)), 8), nothing, np.ones((1, 8)))
    assert np.isfinite(found.scale).all() and np.all(found.scale > 0)


def test_error_feedback_leaves_a_fixed_grid_as_it_is() -> None:
    grid = with_powers_of_two(tensor_grid(uniform_grid(WEIGHT, H, 4), WEIGHT, H), WEIGHT, H)
    mixing = RNG.normal(size=(40, 40))
    found = FeedbackRounder(WEIGHT[None], (mixing @ mixing.T)[None]).on_best_grid(grid)
    assert np.array_equal(found.grid.scale, grid.scale) and np.array_equal(found.grid.zero_point, grid.zero_point)


def scales_of_weights(model: onnx.ModelProto, op: str) -> list[np.ndarray]:
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    layers = [node for node in model.graph.node if node.op_type == op]
    decoders = [makers[node.input[1]] for node in layers if node.input[1] in makers]
    assert decoders and all(node.op_type == "DequantizeLinear" for node in decoders)
    return [values[node.input[1]] for node in decoders]


@pytest.mark.parametrize("recipe", ["int8", "per-channel"])
def test_a_target_names_the_operators_whose_weights_have_one_scale(monkeypatch, recipe: str) -> None:
    monkeypatch.setattr(registry, "targets", lambda: {"npu": GEMM_BY_TENSOR})
    network = graphs.residual()
    model = dfmpc_onnx.quantize(network, None, recipe, weights="4", target="npu", check=False).model
    assert all(scale.size > 1 for scale in scales_of_weights(model, "Conv"))
    assert all(scale.size == 1 for scale in scales_of_weights(model, "Gemm"))
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    assert kinds <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT32}
    assert {node.op_type for node in model.graph.node}.isdisjoint({"Gather", "Cast", "Sub"})
    x = graphs.input_of(network, 2)
    assert graphs.relative(graphs.run(model, x), graphs.run(network, x)) < 0.5


def test_what_is_folded_into_a_weight_leaves_it_a_scale_that_the_target_allows(monkeypatch) -> None:
    monkeypatch.setattr(registry, "targets", lambda: {"npu": POWERS})
    model = dfmpc_onnx.quantize(graphs.residual(), None, "int8", target="npu", check=False).model
    for scale in scales_of_weights(model, "Conv"):
        assert scale.size == 1 and np.frexp(scale)[0] == 0.5
