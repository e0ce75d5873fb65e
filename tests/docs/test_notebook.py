"""docs/quickstart.ipynb runs from top to bottom, and holds small outputs."""

from __future__ import annotations

import json
import pathlib

from tools.notebook import NOTEBOOK, run

MOST_CHARACTERS = 1000  # of a cell's output


def test_every_cell_runs_and_prints_little(tmp_path: pathlib.Path) -> None:
    (tmp_path / "models").symlink_to(NOTEBOOK.parents[1] / "models")
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    for cell, said in run(notebook, tmp_path):
        assert said, cell["id"]
        assert len(said) <= MOST_CHARACTERS, cell["id"]
        (kept,) = cell["outputs"]
        assert len("".join(kept["text"])) <= MOST_CHARACTERS
        assert len(kept["text"]) == len(said.splitlines()), f"{cell['id']}: python -m tools.notebook keeps it so"


def test_the_notebook_is_small() -> None:
    assert NOTEBOOK.stat().st_size < 20_000
