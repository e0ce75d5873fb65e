#!/usr/bin/env python3
"""Run the cells of docs/quickstart.ipynb and keep what they print as its outputs.

python -m tools.notebook           writes the notebook; its files go to a temporary folder
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

NOTEBOOK = pathlib.Path(__file__).resolve().parents[1] / "docs" / "quickstart.ipynb"


def run(notebook: dict[str, Any], folder: pathlib.Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Each code cell with what it prints, run one after the other in one namespace, in this folder."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.chdir(folder):
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                said = io.StringIO()
                with contextlib.redirect_stdout(said):
                    exec(compile("".join(cell["source"]), cell["id"], "exec"), namespace)
                yield cell, said.getvalue()


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as name:
        (pathlib.Path(name) / "models").symlink_to(NOTEBOOK.parents[1] / "models")
        for number, (cell, said) in enumerate(run(notebook, pathlib.Path(name)), 1):
            cell["execution_count"] = number
            cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": said.splitlines(True)}]
    NOTEBOOK.write_text(json.dumps(notebook, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
