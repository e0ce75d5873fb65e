"""The command `images`: a sheet, or images learned from a model."""

from __future__ import annotations

import pathlib
import sys

import msgspec
import numpy as np
import pytest

from tests.commands import assert_refused, dfmpc, held


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model.onnx"], "model.onnx: a model is read to learn images from; give --learn NAME, or leave the model out"),
        (["--steps", 3], "--steps: is for learned images, so give --learn, or leave --steps out"),
        (["--preprocess", "raw"], "--preprocess: is for learned images, so give --learn"),
        (["--learn", "dsg"], "--learn: images are learned from a model; name an .onnx file"),
        (["--learn", "dsg", "model.onnx", "--size", 8], "--size: is for a sheet, so give it without --learn"),
        (["--count", 300], "--count 300: a sheet holds at most 256 images; give fewer"),
        (["--learn", "dgs", "model.onnx"], "learn 'dgs': no such objective"),
    ],
)
def test_what_does_not_go_together_is_one_clear_line(words: list[object], said: str, tmp_path: pathlib.Path) -> None:
    assert_refused(dfmpc("images", *words, "-o", tmp_path / "x.png"), said)
    assert not held(tmp_path)


def test_without_pytorch_the_command_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, model_file: pathlib.Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    result = dfmpc("images", "--learn", "zeroq", model_file, "-o", model_file.with_name("x.npz"))
    assert_refused(result, "PyTorch is not installed", "pip install torch")


def test_learned_images_are_written_shown_and_taken(model_file: pathlib.Path) -> None:
    pytest.importorskip("torch")
    out = model_file.with_name("x.npz")
    learn = [
        "images",
        "--learn",
        "zeroq",
        model_file,
        "-o",
        out,
        "--count",
        4,
        "--steps",
        2,
        "--preprocess",
        "imagenet",
    ]
    result = dfmpc(*learn, COLUMNS="80")
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 80
    how = "zeroq from procedural images, 2 steps, seed 0"
    for part in ("4 of 3x8x8, preprocess imagenet", how, "cpu", "BatchNormalizations", "x.npz"):
        assert part in result.stdout
    with np.load(out) as arrays:
        assert arrays["x"].shape == (4, 3, 8, 8)
    found = msgspec.json.decode(dfmpc(*learn, "--json").stdout)
    assert found["record"]["objective"] == "zeroq" and len(found["losses"]) == 2 and len(found["distance"]) == 2
    made = dfmpc("quantize", model_file, "-o", model_file.with_name("out.onnx"), "--images", out)
    assert made.exit_code == 0 and "learned (zeroq) and none of yours" in made.stdout
    refused = dfmpc("verify", model_file, model_file.with_name("out.onnx"), "--images", out)
    assert_refused(refused, "holds learned images")
