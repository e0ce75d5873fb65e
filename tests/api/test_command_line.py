"""The command line that a report names, and the options by which bits are planned again."""

from __future__ import annotations

import shlex

from dfmpc_onnx.api.command_line import command_line, typed
from dfmpc_onnx.api.provenance import plan_options


def test_the_command_line_is_known_within_the_block_alone() -> None:
    with typed(["quantize", "my model.onnx", "-o", "out.onnx"]):
        assert command_line() == "dfmpc-onnx quantize 'my model.onnx' -o out.onnx"
    assert command_line() == ""


def test_usual_options_are_left_out() -> None:
    assert plan_options({"recipe": "mixed", "seed": "0", "target": "cpu"}, {}) == "--recipe mixed"


def test_what_the_user_gave_is_given_again() -> None:
    stated = {
        "recipe": "mixed",
        "seed": "7",
        "target": "tensorrt",
        "preprocess": "unit",
        "preprocess_choice": "given: by the user",
        "layers": '["a b*=8"]',
        "input_ranges": '{"x": [-1.0, 1.0]}',
        "images_sha256": "0",
    }
    assert shlex.split(plan_options(stated, {"x": (1, 3, 8, 8)})) == [
        *("--recipe", "mixed", "--target", "tensorrt", "--seed", "7", "--preprocess", "unit"),
        *("--input-shape", "x:1x3x8x8", "--input-range", "x=-1:1", "--layer", "a b*=8", "--images", "IMAGES"),
    ]
