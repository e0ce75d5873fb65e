"""What a comparison is held against, and what is said where nothing is."""

import json
import pathlib
import re

import numpy as np
import onnx
import pytest
from PIL import Image

import dfmpc_onnx
from tests.commands import assert_refused, dfmpc
from tests.graphs import Net, chain


@pytest.fixture
def pair(tmp_path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """A small classifier and its quantized form."""
    model, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(chain(), model)
    dfmpc_onnx.quantize(model, out, recipe="int8", preprocess="unit", check=False, threads=1)
    return model, out


@pytest.mark.parametrize("option", ["--min-sqnr", "--min-agreement", "--max-steps"])
@pytest.mark.parametrize("value", ["nan", "-nan", "inf"])
def test_what_is_no_number_is_no_threshold(tmp_path: pathlib.Path, option: str, value: str) -> None:
    """Nothing is below NaN, so that everything passed."""
    refused = dfmpc("verify", tmp_path / "a.onnx", tmp_path / "b.onnx", f"{option}={value}")
    assert_refused(refused, option)


@pytest.mark.parametrize("words", [("verify", "a.onnx", "b.onnx"), ("plan", "a.onnx", "-o", "b.toml")])
def test_a_share_in_place_of_per_cent_is_a_mistake(words: tuple[str, ...]) -> None:
    refused = dfmpc(*words, "--min-agreement", "0.99")
    assert_refused(refused, "0.99 is below one per cent; give 99 for that share")


def test_nor_is_it_one_of_quantize(tmp_path: pathlib.Path) -> None:
    assert_refused(dfmpc("quantize", tmp_path / "a.onnx", "-o", tmp_path / "b.onnx", "--min-sqnr=nan"), "--min-sqnr")


def test_steps_need_a_provider_beside_the_cpus(pair: tuple[pathlib.Path, pathlib.Path]) -> None:
    """It compared nothing, and passed."""
    assert_refused(dfmpc("verify", *pair, "--max-steps", 1), "max-steps: ", "there is no other here")


def test_agreement_needs_class_scores(tmp_path: pathlib.Path) -> None:
    net = Net(("n", 3, 8, 8))
    onnx.save(net.model(net.conv("x", 4)), tmp_path / "map.onnx")
    both = ("verify", tmp_path / "map.onnx", tmp_path / "map.onnx", "--preprocess", "unit")
    refused = dfmpc(*both, "--min-agreement", 90)
    assert_refused(refused, "min-agreement: no output holds class scores", "give --min-sqnr")
    told = dfmpc(*both)
    assert told.exit_code == 0 and "the outputs are no class scores" in " ".join(told.stdout.split())


def test_without_images_the_interval_of_the_agreement_is_held_against_the_threshold(
    pair: tuple[pathlib.Path, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    """Answers on generated inputs were counted, which the verdict beside does not."""
    (found,) = json.loads(dfmpc("verify", *pair, "--json").stdout)["providers"]
    low, high = found["verdict"]["interval"]
    assert dfmpc("verify", *pair, "--min-agreement", low).exit_code == 0
    failed = dfmpc("verify", *pair, "--min-agreement", low + 0.1)
    assert failed.exit_code == 1
    assert f"agreement {low:g} % (95 % interval {low:g} to {high:g} %, nothing is counted" in failed.stderr
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8))
    counted = json.loads(dfmpc("verify", *pair, "--images", tmp_path / "x.npz", "--json").stdout)["providers"][0]
    reached = counted["fidelity"]["agreement"]
    assert dfmpc("verify", *pair, "--images", tmp_path / "x.npz", "--min-agreement", reached).exit_code == 0


def test_labels_on_generated_inputs_are_held_against_no_threshold(tmp_path: pathlib.Path) -> None:
    net = Net(("n", 3, 8, 8))
    onnx.save(net.model(net.node("ArgMax", net.tail(net.block("x", 8)), axis=1, keepdims=0)), tmp_path / "l.onnx")
    both = ("verify", tmp_path / "l.onnx", tmp_path / "l.onnx", "--preprocess", "unit", "--min-agreement", 90)
    assert_refused(dfmpc(*both), "min-agreement: on generated inputs labels are not counted; give --images")


def test_two_networks_that_have_nothing_in_common_are_bad_and_that_is_said(
    pair: tuple[pathlib.Path, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    """It ended with 0 and without a word at 3 dB."""
    model = chain()
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim > 1:
            values = np.random.default_rng(5).permutation(values.reshape(-1)).reshape(values.shape)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "other.onnx")
    result = dfmpc("verify", pair[0], tmp_path / "other.onnx")
    assert "see that both files belong together" in result.stderr
    assert "verdict: BAD, do not use it as it is - " in result.stdout
    verdict = json.loads(dfmpc("verify", pair[0], tmp_path / "other.onnx", "--json").stdout)["providers"][0]["verdict"]
    assert verdict["level"] == "bad"


def test_nothing_is_called_good_where_a_threshold_is_missed(tmp_path: pathlib.Path) -> None:
    """The last lines said "good" and "failed"."""
    net = Net(("n", 3, 8, 8))
    onnx.save(net.model(net.conv("x", 4)), tmp_path / "map.onnx")
    make = ("quantize", tmp_path / "map.onnx", "-o", tmp_path / "out.onnx", "--recipe", "int8", "--preprocess", "unit")
    check = ("verify", tmp_path / "map.onnx", tmp_path / "out.onnx")
    held, *missed = dfmpc(*make), dfmpc(*make, "--min-sqnr", 150), dfmpc(*check, "--min-sqnr", 150)
    assert "verdict: good - " in held.stdout and held.exit_code == 0
    for result in missed:
        assert "verdict: BELOW what you asked for, else good - " in result.stdout and result.exit_code == 1
        assert re.search(r"^failed: .*SQNR [0-9.]+ dB is below --min-sqnr 150$", result.stderr, re.MULTILINE)


def test_images_that_were_given_stand_in_table_and_json(
    pair: tuple[pathlib.Path, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "pictures").mkdir()
    for index, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{index}.png")
    given = ("quantize", *pair[:1], "-o", pair[1], "--recipe", "int8", "--images", tmp_path / "pictures")
    stated = "8 images of pictures/ (64x64, resized to 8x8), 2 of them unseen by statistics"
    result = dfmpc(*given, COLUMNS="200")
    assert f"images                   {stated}" in result.stdout
    assert "2 images of yours that statistics did not see" in result.stdout.rpartition("verdict: ")[2]
    assert "are 64x64 and the model takes 8x8" in result.stderr
    report = json.loads(dfmpc(*given, "--json").stdout)
    assert report["images"] == stated and report["verdict"]["basis"] == "images" and report["verdict"]["inputs"] == 2
    seen = dfmpc("verify", *pair, "--images", tmp_path / "pictures", "--count", 3, "--json")
    found = json.loads(seen.stdout)["providers"][0]
    assert found["fidelity"]["images"] == 3 and found["verdict"]["basis"] == "images of the statistics"
    assert json.loads(seen.stdout)["verdict"] == found["verdict"]
    assert found["verdict"]["origin"].endswith(", at most 3 of which statistics saw")


def test_quantize_ends_with_the_verdict(pair: tuple[pathlib.Path, pathlib.Path]) -> None:
    told = dfmpc("quantize", pair[0], "-o", pair[1], "--recipe", "int8", "--preprocess", "unit", COLUMNS="400")
    last = told.stdout.splitlines()[-1]
    assert (
        last.startswith("verdict: ") and "% of real inputs should keep the float model's class (95 % interval " in last
    )
    assert "64 generated images" in last and "a few dozen images of yours (--images)" in last
    made = dfmpc_onnx.quantize(pair[0], recipe="int8", preprocess="unit")
    assert made.verdict is not None and made.verdict == made.report.verdict and made.verdict.inputs == 64
    assert dfmpc_onnx.quantize(pair[0], recipe="int8", preprocess="unit", check=False).verdict is None


def test_verify_says_how_far_it_is(pair: tuple[pathlib.Path, pathlib.Path]) -> None:
    said: list[tuple[int, int, str]] = []
    dfmpc_onnx.verify(*pair, count=20, progress=lambda *step: said.append(step), threads=1)
    assert said[-1] == (20, 20, "CPU: 20 of 20 inputs")
