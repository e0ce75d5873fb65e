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


CLOSED = "| (exec <&-; sleep 0); exit ${PIPESTATUS[0]}"  # a reader that is gone before anything is written


def test_a_reader_that_left_stops_no_work_and_is_no_failed_threshold(model_file: pathlib.Path) -> None:
    """Where standard error is a pipe too, as in ``2>&1 | head``, and asked to be drawn on as a terminal."""
    out = model_file.with_name("out.onnx")
    words = f"quantize {model_file} -o {out} --recipe paper"
    assert shell(f"FORCE_COLOR=1 {PROGRAM} {words} 2>&1 {CLOSED}")[0] == 0
    assert out.exists()
    assert shell(f"{PROGRAM} 2>&1 {CLOSED}")[0] == 2


def test_a_threshold_that_is_missed_counts_though_nobody_reads(
    model_file: pathlib.Path, quantized: pathlib.Path
) -> None:
    verify = f"{PROGRAM} verify {model_file} {quantized} --min-sqnr 150"
    assert [shell(f"{verify} {form} {CLOSED}")[0] for form in ("", "--json")] == [1, 1]
    make = f"{PROGRAM} quantize {model_file} -o {quantized} --recipe per-channel --min-sqnr 150"
    assert shell(f"{make} {CLOSED}")[0] == 1


def test_a_file_on_standard_output_is_that_file_and_nothing_else(model_file: pathlib.Path) -> None:
    """What else is to be said goes to standard error."""
    out, piped = model_file.with_name("out.onnx"), model_file.with_name("piped.onnx")
    for command in ("quantize {} --recipe paper", "expand {}"):
        words = command.format(model_file if "quantize" in command else out.with_name("packed.onnx"))
        status, _, said = shell(f"{PROGRAM} {words} -o - > {piped} && {PROGRAM} {words} -o {out}")
        assert status == 0, said
        assert piped.read_bytes() == out.read_bytes()
        out.rename(out.with_name("packed.onnx"))
    assert "standard output" in shell(f"{PROGRAM} quantize {model_file} --recipe paper -o - > {piped}")[2]
    plan = model_file.with_name("plan.toml")
    assert shell(f"{PROGRAM} plan {model_file} -o - > {plan}; {PROGRAM} recipes {plan}")[0] == 0


def test_a_file_on_standard_output_leaves_no_room_for_json_and_is_not_shown_on_a_terminal(
    model_file: pathlib.Path,
) -> None:
    status, stdout, said = shell(f"{PROGRAM} quantize {model_file} -o - --json")
    assert (status, stdout) == (2, "") and "--json wants standard output, too" in said


def test_a_file_for_an_output_that_is_closed_is_refused(model_file: pathlib.Path) -> None:
    status, _, said = shell(f"{PROGRAM} quantize {model_file} -o - >&-")
    assert status == 2 and "error: -o -: standard output is closed" in said
