"""Standard streams that are full, closed, or have lost their reader: one line where there is somebody to tell."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from tests.commands import environment

pytestmark = pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs /dev/full and a shell")
PROGRAM = f"{sys.executable} -m dfmpc_onnx"
FULL = "error: standard output: cannot be read or written (No space left on device)\n"


def shell(line: str) -> tuple[int, str, str]:
    ended = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, env=environment())
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.parametrize("words", ["--help", "--version", "recipes", "inspect {}", "inspect {} --json"])
def test_a_full_disk_behind_standard_output_is_one_line(model_file: pathlib.Path, words: str) -> None:
    assert shell(f"{PROGRAM} {words.format(model_file)} > /dev/full") == (2, "", FULL)


@pytest.mark.parametrize("words", ["recipes", "inspect {}"])
def test_a_closed_output_or_a_reader_that_left_is_no_mistake(model_file: pathlib.Path, words: str) -> None:
    assert shell(f"{PROGRAM} {words.format(model_file)} >&-") == (0, "", "")
    assert shell(f"{PROGRAM} {words.format(model_file)} | true; exit ${{PIPESTATUS[0]}}") == (0, "", "")


@pytest.mark.parametrize("errors", ["2>/dev/full", "2>&-", ">&- 2>&- <&-", ">/dev/full 2>/dev/full"])
def test_an_error_that_cannot_be_printed_keeps_its_status(errors: str) -> None:
    assert shell(f"{PROGRAM} inspect none.onnx {errors}") == (2, "", "")
    assert shell(f"{PROGRAM} --none {errors}") == (2, "", "")


def test_a_warning_that_cannot_be_printed_stops_nothing(model_file: pathlib.Path) -> None:
    assert shell(f"{PROGRAM} verify {model_file} {model_file} --json 2>/dev/full >/dev/null")[0] == 0
