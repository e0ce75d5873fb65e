"""Running the command line in tests, and looking at what it printed and left behind."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

from click.testing import CliRunner, Result

from dfmpc_onnx.cli import main

ROOT = pathlib.Path(__file__).parents[1]


def dfmpc(*args: object, **env: str) -> Result:
    """One command in this process. The width keeps table rows in one line."""
    return CliRunner().invoke(main, [str(a) for a in args], env={"COLUMNS": "250", **env})


def environment(**env: str) -> dict[str, str]:
    """What a process is given so that it runs this checkout, whatever is installed."""
    checkout = os.pathsep.join((str(ROOT), str(ROOT / "passes")))
    return {**os.environ, "PYTHONPATH": checkout, "TERM": "xterm", **env}


def program(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
    """One command in a process of its own, where warnings are errors, too."""
    command = [sys.executable, "-W", "error", "-m", "dfmpc_onnx", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment(**env))


def held(folder: pathlib.Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


def assert_refused(result: Result, *saying: str) -> None:
    """Exit 2, nothing on stdout, one line on stderr that says what is wrong, and at most one what to do about it."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    what, *tip = result.stderr.splitlines()
    assert what.startswith("error: ") and len(tip) <= 1 and all(t.startswith("tip: ") for t in tip), result.stderr
    said = result.stderr.replace("\ntip: ", "; ")
    for part in saying:
        assert part in said
