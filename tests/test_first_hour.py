"""The first hour of a new user: twenty commands in a terminal of 80 columns, every line of which can be read."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import sys

import onnx
import pytest

from tests.commands import environment
from tests.graphs import Net, chain

pty = pytest.importorskip("pty")
COLUMNS = 80
# What moves the cursor or colours: a terminal does not show it.
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
# Each with its exit status; {folder} has the files.
COMMANDS = [
    (2, ""),
    (0, "--help"),
    (0, "--version"),
    (0, "quantize --help"),
    (2, "quantize model.onnx"),
    (2, "quantize modle.onnx -o small.onnx"),
    (0, "quantize model.onnx -o small.onnx"),
    (0, "quantize model.onnx -o small.onnx -v"),
    (0, "quantize long.onnx -o long8.onnx --recipe int8"),
    (2, "quantize model.onnx -o notes.txt"),
    (2, "quantize model.onnx long.onnx -o small.onnx"),
    (0, "inspect model.onnx"),
    (0, "inspect long.onnx"),
    (0, "inspect small.onnx"),
    (0, "verify model.onnx small.onnx"),
    (1, "verify model.onnx small.onnx --min-sqnr 150"),
    (0, "recipes"),
    (2, "recipes int88"),
    (0, "passes"),
    (0, "passes compensate"),
    (0, "plan model.onnx --mean-bits 6 -o plan.toml"),
    (0, "quantize model.onnx -o small.onnx --recipe plan.toml"),
    (0, "expand small.onnx -o plain.onnx"),
]


HEADERS = (("layer", "op"), ("layer", "bits"), ("layers", "closed-form"), ("recipe", "weights"), ("provider", "images"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A small network, one with the long names that exporters give, and a file that is no model."""
    made = tmp_path_factory.mktemp("hour")
    onnx.save(chain(), made / "model.onnx")
    net = Net()
    x = net.block("x", 8)
    for _ in range(3):
        x = net.relu(net.node("Add", net.norm(net.conv(net.block(x, 8), 8)), x))
    model = net.model(net.tail(x))
    for node in model.graph.node:
        node.name = f"/backbone/stages/stages.3/blocks/blocks.7/attention/projection/{node.name}"
    onnx.save(model, made / "long.onnx")
    (made / "notes.txt").write_text("notes")
    return made


def in_terminal(folder: pathlib.Path, words: list[str], columns: int = COLUMNS) -> tuple[int, str]:
    """Exit status and what a terminal is sent, of a command in a pseudo-terminal of so many columns."""
    child, handle = pty.fork()
    if child == 0:
        os.chdir(folder)
        env = {k: v for k, v in environment(OMP_NUM_THREADS="1").items() if k not in ("COLUMNS", "NO_COLOR")}
        stty = shutil.which("stty")
        if stty is not None:
            os.system(f"{stty} cols {columns} rows 60")
        os.execve(sys.executable, [sys.executable, "-m", "dfmpc_onnx", *words], env)
    parts = []
    while True:
        try:
            part = os.read(handle, 65536)
        except OSError:  # what Linux says where the other side is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(handle)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, b"".join(parts).decode()


def lines_of(sent: str) -> list[str]:
    """What stays on the screen: a line that is drawn over is what was drawn last."""
    whole = sent.replace("\r\n", "\n")
    whole = re.sub(r"[^\n]*\n(?:\x1b\[\?25h)?\r?\x1b\[1A\x1b\[2K", "", whole)  # a bar that is taken away at its end
    drawn = [line.rpartition("\x1b[2K")[2] for line in whole.split("\n")]
    return [CONTROL.sub("", line).rpartition("\r")[2].rstrip() for line in drawn]


def rows_of(lines: list[str]) -> dict[str, int]:
    """How many lines each table has, by its header."""
    found = {}
    for index, line in enumerate(lines):
        if tuple(line.split()[:2]) in HEADERS:
            rest = lines[index + 1 :]
            found[" ".join(line.split())] = next((n for n, row in enumerate(rest) if not row), len(rest))
    return found


@pytest.mark.skipif(shutil.which("stty") is None, reason="needs stty")
@pytest.mark.parametrize(("status", "words"), COMMANDS, ids=lambda value: str(value) or "nothing")
def test_every_line_can_be_read_at_80_columns(folder: pathlib.Path, status: int, words: str) -> None:
    ended, sent = in_terminal(folder, words.split())
    assert ended == status, sent
    lines = lines_of(sent)
    assert max(map(len, lines)) <= COLUMNS, max(lines, key=len)
    assert "…" not in sent and "Traceback" not in sent
    for line in lines:
        assert not re.search(r"\b\w+\.\.\.$", line), f"a cut summary: {line}"
        assert not re.search(r"\b(None|nan|undefined)\b", line), line
    if status == 2 and words:
        assert lines[0].startswith("error: ") and sum(line.startswith(("error: ", "tip: ")) for line in lines) <= 2


@pytest.mark.skipif(shutil.which("stty") is None, reason="needs stty")
@pytest.mark.parametrize("words", ["inspect long.onnx", "quantize long.onnx -o wide.onnx --recipe int8", "recipes"])
def test_a_narrow_terminal_breaks_no_row_of_a_table(folder: pathlib.Path, words: str) -> None:
    """A table has as many lines at 80 columns as at 240."""
    narrow, wide = (rows_of(lines_of(in_terminal(folder, words.split(), columns)[1])) for columns in (80, 240))
    assert narrow == wide
    assert words == "recipes" or narrow


def test_what_a_table_abbreviates_is_explained_below_it(folder: pathlib.Path) -> None:
    for words, terms in (
        ("quantize model.onnx -o small.onnx", ("loss %:",)),
        ("quantize model.onnx -o small.onnx --recipe per-channel", ("stored:",)),
        ("inspect model.onnx", ("* the default", "codes:", "auto:", "role:")),
        ("plan model.onnx --mean-bits 6", ("loss %:",)),
    ):
        said = " ".join(lines_of(in_terminal(folder, words.split())[1]))
        assert all(term in said for term in terms), said
