"""The GitHub Action and the pre-commit hooks: their commands run, and fail below a threshold."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from tests.commands import ROOT, environment
from tests.docs.pages import parse

ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
HOOKS = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))}
INPUT = re.compile(r"\$\{\{ inputs\.([\w-]+) \}\}")
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="the action's steps are of bash")


def run_step(folder: pathlib.Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """The step that calls the command line, as a runner would call it with these inputs."""
    step = next(step for step in ACTION["runs"]["steps"] if step.get("id") == "run")
    given = {name: str(settings.get("default", "")) for name, settings in ACTION["inputs"].items()} | inputs
    values = {name: INPUT.sub(lambda match: given[match[1]], text) for name, text in step["env"].items()}
    program = folder / "bin" / "dfmpc-onnx"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dfmpc_onnx "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    path = os.pathsep.join((str(program.parent), os.environ["PATH"]))
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    env = environment(**values, PATH=path)
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_every_input_that_a_step_reads_is_declared() -> None:
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    assert set(INPUT.findall(text)) == set(ACTION["inputs"])


def test_no_step_writes_an_input_into_its_script() -> None:
    assert all("${{" not in step.get("run", "") for step in ACTION["runs"]["steps"])


@needs_bash
def test_quantize_writes_the_model_and_the_report(model_file: pathlib.Path) -> None:
    folder = model_file.parent
    options = "--recipe int8\n--preprocess unit\n"
    done = run_step(folder, model="model.onnx", output="o p.onnx", options=options, report="r.json")
    assert done.returncode == 0, done.stderr
    assert (folder / "o p.onnx").exists()
    report = json.loads((folder / "r.json").read_text())
    assert (report["recipe"], report["preprocess"]) == ("int8", "unit")


@needs_bash
def test_verify_fails_below_the_threshold_and_leaves_the_report(quantized: pathlib.Path) -> None:
    inputs = {"command": "verify", "model": "model.onnx", "output": "quantized.onnx", "report": "r.json"}
    assert run_step(quantized.parent, **inputs, **{"min-sqnr": "5"}).returncode == 0
    done = run_step(quantized.parent, **inputs, **{"min-sqnr": "200"})
    assert done.returncode == 1
    assert "below --min-sqnr 200" in done.stderr
    assert json.loads((quantized.parent / "r.json").read_text())["below"]


@needs_bash
def test_another_command_is_refused(model_file: pathlib.Path) -> None:
    done = run_step(model_file.parent, command="inspect; touch x", model="model.onnx", output="o.onnx")
    assert done.returncode == 2
    assert "neither quantize nor verify" in done.stdout
    assert not (model_file.parent / "x").exists()


@pytest.mark.parametrize(
    ("hook", "arguments"),
    [
        ("dfmpc-onnx-verify", ["f.onnx", "q.onnx", "--min-sqnr", "15"]),
        ("dfmpc-onnx-quantize", ["f.onnx", "-o", "q.onnx", "--threads", "1", "--min-sqnr", "15"]),
    ],
)
def test_a_hook_calls_a_command_that_takes_its_arguments(hook: str, arguments: list[str]) -> None:
    program, *words = HOOKS[hook]["entry"].split()
    assert program == "dfmpc-onnx"
    parse([*words, *arguments])
    assert HOOKS[hook]["pass_filenames"] is False
