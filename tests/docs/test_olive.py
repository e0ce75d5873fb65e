"""The Olive pass of the examples in a workflow of Olive; skipped where olive-ai is not installed."""

from __future__ import annotations

import json
import pathlib
import sys

import onnxruntime
import pytest

from tests.commands import ROOT

FOLDER = ROOT / "examples" / "olive"
pytest.importorskip("olive", reason="olive-ai is not installed")
pytestmark = pytest.mark.filterwarnings("default")  # olive's own imports warn


@pytest.fixture
def workflow(model_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The workflow of the example, on a small model, in a folder of the test's own."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(model_file.parent)
    settings = json.loads((FOLDER / "workflow.json").read_text(encoding="utf-8"))
    settings["input_model"]["model_path"] = str(model_file)
    yield settings
    sys.modules.pop("dfmpc_olive", None)


def run(settings: dict[str, object]) -> object:
    from olive.workflows import run as olive_run

    return olive_run(settings, package_config=str(FOLDER / "package_config.json"))


def test_the_pass_writes_a_file_that_runs(workflow: dict[str, object]) -> None:
    best = run(workflow).get_best_candidate()
    session = onnxruntime.InferenceSession(best.model_path, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["dfmpc_onnx.recipe"]


def test_the_pass_fails_below_the_threshold(workflow: dict[str, object]) -> None:
    workflow["passes"]["quantize"]["min_sqnr"] = 200.0
    with pytest.raises(ValueError, match=r"at least 200\.0 dB"):
        run(workflow)
