"""The scripts in examples/ run as they stand, on a small model."""

from __future__ import annotations

import json
import pathlib
import runpy
import sys

import numpy as np
import pytest

from tests.commands import ROOT

EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.fixture
def images(tmp_path: pathlib.Path) -> str:
    """Twelve labelled pictures of the size that the small model takes."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x=pixels, y=np.arange(12) % 4)
    return str(tmp_path / "images.npz")


def run(script: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")


def test_every_script_is_listed_with_what_it_shows() -> None:
    said = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [name for name in SCRIPTS if f"| `{name}` |" not in said] == []


def test_quantize(
    model_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = model_file.with_name("out.onnx")
    run("quantize.py", str(model_file), str(out), monkeypatch=monkeypatch)
    assert f"{out.stat().st_size} bytes" in capsys.readouterr().out


def test_run(model_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("run.py", str(model_file), str(model_file.with_name("out.onnx")), monkeypatch=monkeypatch)
    difference, most = (float(part.split()[-1]) for part in capsys.readouterr().out.split(" of "))
    assert 0 < difference < 0.1 * most


def test_own_images(
    model_file: pathlib.Path, images: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("own_images.py", str(model_file), images, str(model_file.with_name("out.onnx")), monkeypatch=monkeypatch)
    said = capsys.readouterr().out
    assert "of 12 agree" in said
    assert "top-1" in said


def test_size_budget(
    model_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("size_budget.py", str(model_file), str(model_file.with_name("plan.toml")), monkeypatch=monkeypatch)
    mean_bits = [line.split(" bits")[0] for line in capsys.readouterr().out.splitlines()]
    assert mean_bits == ["8", "6", "4", "3"]


def test_own_pass(
    model_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("own_pass.py", str(model_file), monkeypatch=monkeypatch)
    assert "conv1 {'zeros': 0, 'weights': 216}" in capsys.readouterr().out


def test_olive_names_the_class_of_the_example() -> None:
    package = json.loads((EXAMPLES / "olive" / "package_config.json").read_text(encoding="utf-8"))
    workflow = json.loads((EXAMPLES / "olive" / "workflow.json").read_text(encoding="utf-8"))
    names = {step["type"] for step in workflow["passes"].values()}
    assert names == set(package["passes"])
    module, name = package["passes"][names.pop()]["module_path"].rsplit(".", 1)
    assert f"class {name}(" in (EXAMPLES / "olive" / module / "__init__.py").read_text(encoding="utf-8")
