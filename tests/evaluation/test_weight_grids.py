"""Weights beside the grid that a quantized file has for them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx.evaluation.weight_grids import MOST_LEVELS_DRAWN, WeightGrid, weight_grids
from tests import graphs


def grids_of(weights: str, recipe: str = "closed-form") -> dict[str, WeightGrid]:
    model = graphs.chain()
    made = dfmpc_onnx.quantize(model, None, recipe, weights=weights, preprocess="imagenet")
    names = {layer.name for layer in made.report.layers}
    return {grid.layer: grid for grid in weight_grids(model, made.model, names)}


def test_levels_are_those_of_the_codes_and_shares_are_all_weights() -> None:
    found = grids_of("ternary/8")
    assert found["conv1"].levels[0] >= -127 and found["conv1"].levels[-1] <= 127
    ternary = [grid for grid in found.values() if len(grid.levels) <= 3]
    assert ternary and set(ternary[0].levels) == {-1.0, 0.0, 1.0}
    assert all(sum(grid.shares) == pytest.approx(1, abs=1e-4) for grid in found.values())


def test_a_float_weight_is_brought_to_the_scale_that_folding_and_compensation_gave_the_quantized_one() -> None:
    grid = grids_of("8")["conv2"]  # a normalization with factors of its own for each channel is folded into it
    assert grid.sqnr_db is not None and grid.sqnr_db > 35
    assert grid.beyond == 0.0 and sum(grid.before) == pytest.approx(1, abs=1e-3)


def test_fewer_bits_keep_fewer_decibels() -> None:
    found = [grids_of(bits)["conv2"].sqnr_db or 0.0 for bits in ("8", "6", "4")]
    assert found == sorted(found, reverse=True)


def test_bins_are_aligned_to_levels() -> None:
    grid = grids_of("8")["conv2"]
    width = grid.edges[1] - grid.edges[0]
    assert grid.levels[-1] - grid.levels[0] >= MOST_LEVELS_DRAWN
    assert width == int(width) and (grid.levels[0] - 0.5 - grid.edges[0]) % width == 0


def test_of_a_layer_without_a_float_original_there_are_levels_alone() -> None:
    made = dfmpc_onnx.quantize(graphs.chain(), None, "int8", preprocess="imagenet")
    other = graphs.Net((1, 3, 8, 8))
    (grid,) = weight_grids(other.model(other.relu("x")), made.model, {"conv2"})
    assert grid.levels and not grid.before and grid.sqnr_db is None


def test_codes_of_other_tools_are_read_with_their_zero_points() -> None:
    codes = np.array([[0, 128], [255, 130]], np.uint8).reshape(2, 2, 1, 1)
    stored = {"codes": codes, "scale": np.float32([0.5, 2]), "zero": np.uint8([128, 128])}
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in stored.items()]
    nodes = [
        onnx.helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["w"], axis=0),
        onnx.helper.make_node("Conv", ["x", "w"], ["y"], name="c"),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [], [], tensors)
    model = onnx.helper.make_model(graph)
    (grid,) = weight_grids(model, model, {"c"})
    assert grid.levels == (-128.0, 0.0, 2.0, 127.0)
