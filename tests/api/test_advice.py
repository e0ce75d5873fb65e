"""Advice that was tried: what is worth its bytes, and when nothing can be tried."""

from __future__ import annotations

import pathlib

import msgspec
import numpy as np
import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx import catalog
from dfmpc_onnx.api.advice import (
    Tried,
    keeping,
    narrow_layers,
    stored_widths,
    trials_for,
    worth_their_bytes,
)
from dfmpc_onnx.errors import RecipeError
from dfmpc_onnx.evaluation.diagnosis.schema import Advice, Suspect
from dfmpc_onnx.report.diagnosis_text import advice_sentence


def tried(decibels: float, size: int) -> Tried:
    return Tried(Advice("a change", 20.0, decibels, size), onnx.ModelProto())


def test_what_another_gives_for_less_is_left_out() -> None:
    best, cheap, poor = tried(24.0, 900), tried(23.0, 100), tried(22.9, 500)
    assert worth_their_bytes([best, cheap, poor]) == [best, cheap]
    assert worth_their_bytes([tried(24.0, 900), cheap, tried(24.05, 400)])[-1].advice.bytes == 400


def test_a_sentence_says_what_it_gains_and_costs() -> None:
    assert advice_sentence(Advice("give this layer 8 bits: a", 19.1, 22.2, 41_000)) == (
        "give this layer 8 bits: a: 19.1 -> 22.2 dB, 41.0 kB more"
    )
    assert advice_sentence(Advice("x", 1.0, 2.0, -500)).endswith("0.5 kB less")
    assert advice_sentence(Advice("x", 1.0, 2.0, 0)).endswith("the same size")


def test_layers_of_fewer_than_eight_bits_are_known_by_their_codes(model_file: pathlib.Path) -> None:
    made = dfmpc_onnx.quantize(model_file, None, "int8", layers={"conv2": 4}, preprocess="imagenet", check=False)
    assert narrow_layers(made.model) == {"conv2"}


def test_a_file_made_under_a_budget_is_not_made_again(model_file: pathlib.Path) -> None:
    made = dfmpc_onnx.quantize(model_file, None, mean_bits=5, preprocess="imagenet", check=False)
    found = dfmpc_onnx.diagnose(model_file, made.model, blame=True)
    assert found.no_advice.startswith("it was made under a budget") and found.advice == ()


def test_a_file_made_with_images_asks_for_the_same_ones(model_file: pathlib.Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3)).astype(np.uint8)
    made = dfmpc_onnx.quantize(model_file, None, "int8", images=x, preprocess="imagenet", check=False)
    found = dfmpc_onnx.diagnose(model_file, made.model, blame=True, count=4)
    assert (
        found.no_advice == "its statistics came from images of yours; give the same ones with --images to try a change"
    )
    assert dfmpc_onnx.diagnose(model_file, made.model, blame=True, images=x, count=4).no_advice == ""


def test_whole_bytes_of_few_weights_do_not_tell_a_width(model_file: pathlib.Path) -> None:
    made = dfmpc_onnx.quantize(model_file, None, "int8", layers={"conv2": 4}, preprocess="imagenet", check=False)
    assert "conv2=8" not in set(stored_widths(made.model))


def test_the_activation_that_costs_most_is_tried_in_float(model_file: pathlib.Path) -> None:
    made = dfmpc_onnx.quantize(model_file, None, "int8", preprocess="imagenet", check=False).model
    rounded = next(
        node.input[0] for node in made.graph.node if node.op_type == "QuantizeLinear" and node.input[0] != "x"
    )
    worst = Suspect("activation", rounded, "relu", gain=0.1, gain_db=2.0)
    found = msgspec.structs.replace(dfmpc_onnx.diagnose(model_file, made, count=2), suspects=(worst,))
    (trial,) = trials_for(found, made, "")
    assert trial.activations == (rounded,) and trial.text == "keep the output of relu in float, which costs time"
    recipe = keeping(catalog.find_recipe("int8"), trial.activations)
    again = dfmpc_onnx.quantize(model_file, None, recipe, preprocess="imagenet", check=False).model
    assert rounded not in {node.input[0] for node in again.graph.node if node.op_type == "QuantizeLinear"}
    with pytest.raises(RecipeError, match="has no pass that keeps activations in float"):
        keeping(catalog.find_recipe("paper"), trial.activations)
