"""What tests of batches share: models that are words, and a worker that does what they say."""

from __future__ import annotations

import pathlib
import sys

import pytest

from dfmpc_onnx.jobs import processes

STUB = (sys.executable, "-I", "-S", str(pathlib.Path(__file__).parent / "stub_worker.py"))


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run in processes of their own that read no library: a twentieth of a second each."""
    monkeypatch.setattr(processes, "PROGRAM", STUB)


@pytest.fixture
def nets(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with four models for the stub."""
    folder = tmp_path / "nets"
    (folder / "inner").mkdir(parents=True)
    for name in ("a", "b", "inner/a", "inner/c"):
        (folder / f"{name}.onnx").write_text(f"good {name}")
    return folder
