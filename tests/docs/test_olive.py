"""The Olive pass of the examples in a workflow of Olive; what runs one is skipped where olive-ai is not installed."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import pathlib
import sys
import tomllib

import onnxruntime
import pytest

from tests.commands import ROOT

FOLDER = ROOT / "examples" / "olive"
PROJECT = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))["project"]
pytestmark = pytest.mark.filterwarnings("default")  # olive's own imports warn
needs_olive = pytest.mark.skipif(importlib.util.find_spec("olive") is None, reason="olive-ai is not installed")


@pytest.fixture
def workflow(model_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The workflow of the example, on a small model, in a folder of the test's own."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(model_file.parent)
    settings = json.loads((FOLDER / "workflow.json").read_text(encoding="utf-8"))
    settings["input_model"]["model_path"] = str(model_file)
    yield settings
    for name in [name for name in sys.modules if name.partition(".")[0] == "dfmpc_olive"]:
        del sys.modules[name]


def run(settings: dict[str, object]) -> object:
    from olive.workflows import run as olive_run

    return olive_run(settings, package_config=str(FOLDER / "package_config.json"))


def test_the_example_registers_what_it_defines() -> None:
    """The command and the entry point of the pass name functions and classes that are there."""
    for name in (*PROJECT["scripts"].values(), *PROJECT["entry-points"]["olive.passes"].values()):
        module, _, defined = name.partition(":")
        place = FOLDER.joinpath(*module.split("."))
        tree = ast.parse((place / "__init__.py" if place.is_dir() else place.with_suffix(".py")).read_text("utf-8"))
        assert defined in {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


@needs_olive
def test_one_command_finds_the_pass_by_its_entry_point_beside_olives_own(
    workflow: dict[str, object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dfmpc_olive import workflow as command

    registered = [
        importlib.metadata.EntryPoint(name, value, command.GROUP)
        for name, value in PROJECT["entry-points"][command.GROUP].items()
    ]
    monkeypatch.setattr(command, "entry_points", lambda group: registered if group == command.GROUP else [])
    assert {"DfmpcQuantization", "OnnxConversion"} <= set(command.package_config()["passes"])
    pathlib.Path("own.json").write_text(json.dumps(workflow), encoding="utf-8")
    command.main(["own.json"])
    written = capsys.readouterr().out.splitlines()[-1]
    assert onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"]).get_inputs()
    workflow["passes"]["quantize"]["min_sqnr"] = 200.0
    pathlib.Path("own.json").write_text(json.dumps(workflow), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"error: own\.json: SQNR is .* at least 200\.0 dB"):
        command.main(["own.json"])


@needs_olive
def test_the_pass_writes_a_file_that_runs(workflow: dict[str, object]) -> None:
    best = run(workflow).get_best_candidate()
    session = onnxruntime.InferenceSession(best.model_path, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["dfmpc_onnx.recipe"]


@needs_olive
def test_the_pass_fails_below_the_threshold(workflow: dict[str, object]) -> None:
    workflow["passes"]["quantize"]["min_sqnr"] = 200.0
    with pytest.raises(ValueError, match=r"at least 200\.0 dB"):
        run(workflow)
