"""A file is made again with all the options that it was made with."""

from __future__ import annotations

import inspect
import pathlib
import shlex

import pytest

import dfmpc_onnx
from dfmpc_onnx.api.made_again import (
    AS_OVERRIDES,
    IN_THE_RECIPE,
    OptionsAgain,
    as_arguments,
    options_again,
    plan_commands,
    recorded_layers,
    recorded_ranges,
    recorded_shapes,
)
from dfmpc_onnx.model.metadata import metadata_of

ABOUT_THE_RUN = {
    *("model", "output", "check", "dump", "instruments", "progress", "threads", "force", "layer_errors", "report")
}
BUDGET = {"max_size", "mean_bits", "min_sqnr", "max_float_layers"}  # of which files are not made again


def test_every_option_of_quantize_is_given_again_or_has_its_place() -> None:
    known = ABOUT_THE_RUN | BUDGET | IN_THE_RECIPE | AS_OVERRIDES | set(OptionsAgain.__annotations__)
    assert known == set(inspect.signature(dfmpc_onnx.quantize).parameters)


def test_what_is_usual_is_left_out() -> None:
    stated = {"target": "cpu", "activations": "8", "seed": "0", "preprocess_choice": "no image: x is a vector"}
    assert options_again(stated, {}) == {}
    assert plan_commands({"recipe": "mixed", **stated}, {}) == ("--recipe mixed", "")


def test_what_the_user_gave_is_given_again() -> None:
    stated = {
        "recipe": "mixed",
        "seed": "7",
        "target": "tensorrt",
        "activations": "none",
        "reduce_range": "yes",
        "preprocess": "unit",
        "preprocess_choice": "given: by the user",
        "layers": '["a b*=8"]',
        "input_ranges": '{"x": [-1.0, 0.1234567890123]}',
        "images_sha256": "0",
    }
    common = (
        *("--target", "tensorrt", "--activations", "none", "--seed", "7", "--preprocess", "unit"),
        *("--input-shape", "x:1x3x8x8", "--input-range", "x=-1:0.1234567890123", "--images", "IMAGES"),
    )
    planning, making = map(shlex.split, plan_commands(stated, {"x": (1, 3, 8, 8)}))
    assert planning == ["--recipe", "mixed", *common, "--reduce-range", "--layer", "a b*=8"]
    assert [part for part in making if part != "--no-fp16"] == [*common, "--reduce-range"] and "--no-fp16" in making


@pytest.mark.parametrize("fp16", [True, False])
def test_float16_or_not_is_as_the_file_has_it(model_file: pathlib.Path, fp16: bool) -> None:
    made = dfmpc_onnx.quantize(
        model_file, None, "int8", target="tensorrt", fp16=fp16, preprocess="imagenet", check=False
    )
    options = options_again(metadata_of(made.model), {})
    assert ("--no-fp16" in as_arguments(options)) is not fp16
    again = dfmpc_onnx.quantize(model_file, None, "int8", check=False, **options)
    assert again.model == made.model


def test_what_a_file_says_may_be_damaged() -> None:
    assert recorded_layers({"layers": '["conv2=4"]'}) == ["conv2=4"]
    assert (
        recorded_layers({"layers": "{"}) == recorded_layers({}) == recorded_layers({"layers": '["conv2=many"]'}) == []
    )
    assert recorded_ranges({"input_ranges": "3"}) == recorded_shapes({"input_shapes": "["}) == {}
