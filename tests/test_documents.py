"""What the documents name exists: files, tools, names of preprocesses and targets."""

from __future__ import annotations

import pathlib
import re

import pytest

from dfmpc_onnx.inputs.preprocess import NAMES
from dfmpc_onnx.pipeline.targets import TARGETS
from tests.commands import ROOT, dfmpc

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "passes/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
PATH = re.compile(r"(?<![\w./-])((?:tests|tools|docs|models|passes|dfmpc_onnx)/[\w./-]*[\w/])")
TOOL = re.compile(r"python -m (tools[\w.]+)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_path_that_a_document_names_exists(document: pathlib.Path) -> None:
    text = document.read_text(encoding="utf-8")
    named = {name for name in PATH.findall(text) if "NAME" not in name and "WING" not in name}
    assert not sorted(name for name in named if not (ROOT / name).exists())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_tool_that_a_document_runs_exists(document: pathlib.Path) -> None:
    for name in TOOL.findall(document.read_text(encoding="utf-8")):
        place = ROOT / name.replace(".", "/")
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), name


def test_help_lists_every_target_and_preprocess() -> None:
    said = dfmpc("quantize", "--help").stdout
    assert all(name in said for name in (*TARGETS, *NAMES))
