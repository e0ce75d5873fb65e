"""7 bits in place of 8: no sum of two products with 8-bit activations can leave 16 bits."""

from __future__ import annotations

import pathlib
from collections import Counter

import numpy as np
import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx.pipeline.recipe_file import parse_recipe
from tests import graphs
from tests.commands import assert_refused, dfmpc
from tests.written import stored_weights


def largest(path: pathlib.Path) -> int:
    """The code farthest from zero, as the integer kernels will see it."""
    optimized = graphs.optimized(onnx.load(path))
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in optimized.graph.initializer}
    slots = {"QLinearConv": 3, "QGemm": 3}
    layers = [constants[n.input[slots[n.op_type]]] for n in optimized.graph.node if n.op_type in slots]
    assert len(layers) == 4
    return max(int(np.abs(codes.astype(int)).max()) for codes in layers)


@pytest.mark.parametrize("recipe", ["per-channel", "int8", "mixed"])
def test_8_bit_layers_get_7_and_still_fuse(model_file: pathlib.Path, recipe: str) -> None:
    out = model_file.with_name("out.onnx")
    made = dfmpc_onnx.quantize(model_file, out, recipe, weights="8", reduce_range=True, check=False)
    assert 32 <= largest(out) <= 64
    assert {layer.bits for layer in made.report.layers} == {7}
    assert {layer.role for layer in made.report.layers} == {"8-bit"}
    stated = {p.key: p.value for p in onnx.load(out).metadata_props}
    assert stated["dfmpc_onnx.reduce_range"] == "yes"
    x = graphs.input_of(graphs.chain())
    assert graphs.relative(graphs.run(onnx.load(out), x), graphs.run(graphs.chain(), x)) < 0.1


def test_the_bits_that_are_chosen_by_error_end_at_7(model_file: pathlib.Path) -> None:
    made = dfmpc_onnx.quantize(model_file, None, "mixed", reduce_range=True, check=False)
    assert max(layer.bits for layer in made.report.layers) <= 7


def test_large_layers_are_stored_in_7_bits(tmp_path: pathlib.Path) -> None:
    net = graphs.Net()
    x = net.block(net.block("x", 64), 128)
    out = tmp_path / "out.onnx"
    dfmpc_onnx.quantize(net.model(net.tail(x)), out, "per-channel", weights="8", reduce_range=True, check=False)
    assert stored_weights(out)["conv2"].width == 7
    kernels = graphs.kernels(onnx.load(out))
    assert kernels & Counter({"QLinearConv": 2, "QGemm": 1}) == {"QLinearConv": 2, "QGemm": 1}


def test_a_grid_of_half_steps_that_does_not_fit_computes_in_float(model_file: pathlib.Path) -> None:
    """7 bits of DoReFa's grid are odd numbers up to 127."""
    made = dfmpc_onnx.quantize(model_file, None, "paper", weights="7", activations=8, reduce_range=True, check=False)
    assert not any(layer.integer for layer in made.report.layers)
    assert "do not fit 7 bits, the reduced range" in made.report.refusals[-1].reason


def test_a_recipe_may_ask_for_it(model_file: pathlib.Path) -> None:
    text = dfmpc("recipes", "per-channel").stdout
    recipe = parse_recipe(f"reduce_range = true\n{text}", "mine", "mine.toml")
    assert {
        layer.bits for layer in dfmpc_onnx.quantize(model_file, None, recipe, weights="8", check=False).report.layers
    } == {7}


def test_refused_where_activations_stay_in_float(model_file: pathlib.Path) -> None:
    out = model_file.with_name("out.onnx")
    refused = dfmpc("quantize", model_file, "-o", out, "--reduce-range", "--activations", "none")
    assert_refused(refused, "reduce-range: activations stay in float")
