"""The command `diagnose`: what it prints within 80 columns, its JSON, and what it writes."""

from __future__ import annotations

import json
import pathlib
import shlex

import onnx
import pytest

import dfmpc_onnx
from tests import broken, graphs
from tests.commands import assert_refused, dfmpc


@pytest.fixture
def faulty(model_file: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """The model as int8, with one channel of conv2 a hundred times as large."""
    made = dfmpc_onnx.quantize(model_file, None, "int8", preprocess="imagenet", check=False).model
    path = tmp_path / "faulty.onnx"
    onnx.save(broken.with_scaled_channel(made, "conv2", 1, 100.0), path)
    return path


@pytest.fixture
def healthy(model_file: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "healthy.onnx"
    dfmpc_onnx.quantize(model_file, path, "int8", preprocess="imagenet", check=False)
    return path


def test_the_finding_is_the_last_sentence_within_80_columns(model_file: pathlib.Path, faulty: pathlib.Path) -> None:
    done = dfmpc("diagnose", model_file, faulty, "--blame", COLUMNS="80")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    said = " ".join(done.stdout[done.stdout.index("diagnosis: ") :].split())
    assert said.startswith("diagnosis: the weights of conv2: channel-scaled: output channel 1 is ")
    assert "most error is made at: conv2" in done.stdout
    assert "tried: make it again from the float model" in " ".join(done.stdout.split())


def test_json_is_one_object_with_the_culprit(model_file: pathlib.Path, faulty: pathlib.Path) -> None:
    found = json.loads(dfmpc("diagnose", model_file, faulty, "--json").stdout)
    assert found["culprit"]["layer"] == "conv2" and found["culprit"]["cause"]["code"] == "channel-scaled"
    assert found["blamed"] is False and found["layers"]["rows"] and found["suspects"]


def test_of_a_healthy_file_nothing_stands_out(model_file: pathlib.Path, healthy: pathlib.Path) -> None:
    done = dfmpc("diagnose", model_file, healthy)
    assert "diagnosis: nothing stands out" in done.stdout and "--blame restores each layer in turn" in done.stdout


def test_apply_writes_the_file_with_what_helped(
    model_file: pathlib.Path, faulty: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    better = tmp_path / "better.onnx"
    done = dfmpc("diagnose", model_file, faulty, "--apply", "-o", better)
    assert done.exit_code == 0, done.output
    assert f"written: {better}" in done.stdout
    now = dfmpc_onnx.verify(model_file, better).providers[0].fidelity.sqnr_db
    assert now > dfmpc_onnx.verify(model_file, faulty).providers[0].fidelity.sqnr_db + 10


def test_apply_that_helps_nothing_writes_nothing(model_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    better, best = tmp_path / "better.onnx", tmp_path / "best.onnx"
    dfmpc_onnx.quantize(model_file, best, "int8", activations="none", preprocess="imagenet", check=False)
    done = dfmpc("diagnose", model_file, best, "--apply", "-o", better)
    why = "3 changes were tried, and none helps"
    assert done.exit_code == 2 and f"{why}; nothing has been written" in done.stderr
    assert why in " ".join(done.stdout.split())
    assert not better.exists()


def test_the_command_of_an_advice_makes_the_file_that_was_measured(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(graphs.chain(), "model.onnx")
    made = dfmpc_onnx.quantize("model.onnx", None, "int8", layers={"conv3": 4}, preprocess="unit", seed=3, check=False)
    onnx.save(broken.with_scaled_channel(made.model, "conv2", 1, 100.0), "faulty.onnx")
    found = json.loads(dfmpc("diagnose", "model.onnx", "faulty.onnx", "--apply", "-o", "applied.onnx", "--json").stdout)
    command = shlex.split(found["advice"][0]["command"])
    assert command[:5] == ["dfmpc-onnx", "quantize", "model.onnx", "-o", "better.onnx"] and "conv3=4" in command
    assert dfmpc(*command[1:]).exit_code == 0
    better, applied = onnx.load("better.onnx"), onnx.load("applied.onnx")
    assert better.graph.SerializeToString() == applied.graph.SerializeToString()


def test_damage_of_any_form_is_made_again(model_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    made = dfmpc_onnx.quantize(model_file, None, "int8", preprocess="imagenet", check=False).model
    bias = next(tensor for tensor in made.graph.initializer if tensor.name == last_bias(made))
    values = onnx.numpy_helper.to_array(bias)
    bias.CopyFrom(onnx.numpy_helper.from_array((values[::-1] * 20).astype(values.dtype), bias.name))
    onnx.save(made, tmp_path / "damaged.onnx")
    found = dfmpc_onnx.diagnose(model_file, tmp_path / "damaged.onnx", blame=True, count=4)
    assert found.advice[0].text.startswith("make it again from the float model")


def last_bias(model: onnx.ModelProto) -> str:
    """The stored bias of the last layer that has one."""
    node = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm") and len(node.input) == 3][-1]
    makers = {name: other for other in model.graph.node for name in other.output}
    return makers[node.input[2]].input[0] if node.input[2] in makers else node.input[2]


def test_apply_and_output_go_together(model_file: pathlib.Path, quantized: pathlib.Path) -> None:
    assert_refused(dfmpc("diagnose", model_file, quantized, "--apply"), "--apply and -o go together")
    assert_refused(dfmpc("diagnose", model_file, quantized, "-o", "x.onnx"), "--apply and -o go together")


def test_names_with_markup_stay_text(tmp_path: pathlib.Path) -> None:
    model = graphs.chain()
    for node in model.graph.node:
        node.name = f"[red]{node.name}\x1b[0m"
    path, out = tmp_path / "m.onnx", tmp_path / "q.onnx"
    onnx.save(model, path)
    dfmpc_onnx.quantize(path, out, "int8", preprocess="imagenet", check=False)
    done = dfmpc("diagnose", path, out, "-v")
    assert done.exit_code == 0 and "[red]conv1" in done.stdout and "\x1b" not in done.stdout
