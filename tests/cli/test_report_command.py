"""The command `report`, and `quantize --report`: files, streams, exit status, what is refused before work begins."""

from __future__ import annotations

import json
import pathlib
import sys

import onnx
import pytest

from tests import graphs
from tests.commands import assert_refused, dfmpc, held, program

BEGINNING = "<!DOCTYPE html>"


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which jinja2 is not installed."""
    monkeypatch.setitem(sys.modules, "jinja2", None)


def test_a_report_is_written(model_file: pathlib.Path, quantized: pathlib.Path, tmp_path: pathlib.Path) -> None:
    page = tmp_path / "report.html"
    result = dfmpc("report", model_file, quantized, "-o", page, "--count", "8")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("report of ") and str(page) in result.stdout
    assert page.read_text(encoding="utf-8").startswith(BEGINNING)


def test_files_the_wrong_way_round_are_warned_of_at_once(
    model_file: pathlib.Path, quantized: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    result = dfmpc("report", quantized, model_file, "-o", tmp_path / "page.html", "--count", "4")
    assert result.stderr.startswith("warning: ") and "the float model comes first" in " ".join(result.stderr.split())


def test_it_goes_to_standard_output_alone(model_file: pathlib.Path, quantized: pathlib.Path) -> None:
    result = program("report", model_file, quantized, "-o", "-", "--count", "8", "--threads", "1")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(BEGINNING) and result.stdout.rstrip().endswith("</html>")


def test_quantize_writes_it_beside_the_model(model_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out, page = tmp_path / "out.onnx", tmp_path / "out.html"
    result = dfmpc("quantize", model_file, "-o", out, "--recipe", "int8", "--preprocess", "unit", "--report", page)
    assert result.exit_code == 0
    assert page.read_text(encoding="utf-8").startswith(BEGINNING)
    assert onnx.load(out).graph.node


def test_what_it_takes_is_asked_for_before_anything_is_computed(
    model_file: pathlib.Path, quantized: pathlib.Path, tmp_path: pathlib.Path, without_extra: None
) -> None:
    before, page = held(tmp_path), tmp_path / "page.html"
    for command in (
        ("quantize", model_file, "-o", tmp_path / "out.onnx", "--report", page),
        ("report", model_file, quantized, "-o", page),
        ("report", quantized, "--against", model_file, "-o", page),
    ):
        assert_refused(dfmpc(*command), "the HTML report needs jinja2", "pip install jinja2")
    assert held(tmp_path) == before


def test_a_file_of_another_kind_is_kept_without_force(
    model_file: pathlib.Path, quantized: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    assert_refused(dfmpc("report", model_file, quantized, "-o", notes), "is no HTML file", "--force")
    assert_refused(
        dfmpc("quantize", model_file, "-o", tmp_path / "out.onnx", "--report", notes), "is no HTML file", "--force"
    )
    assert notes.read_text() == "mine"
    assert dfmpc("report", model_file, quantized, "-o", notes, "--force", "--count", "4").exit_code == 0
    assert dfmpc("report", model_file, quantized, "-o", notes, "--count", "4").exit_code == 0  # now it is one of ours


def test_models_are_not_written_over(model_file: pathlib.Path, quantized: pathlib.Path, tmp_path: pathlib.Path) -> None:
    before = held(tmp_path)
    assert_refused(dfmpc("report", model_file, quantized, "-o", quantized, "--force"), "is a model of the report")
    out = tmp_path / "new.onnx"
    assert_refused(dfmpc("quantize", model_file, "-o", out, "--report", out), "is the output as well")
    assert_refused(dfmpc("quantize", model_file, "-o", out, "--report", "-"), "give a file name")
    assert held(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("model.onnx", "-o", "a.html"), "1 file given; give FLOAT and QUANTIZED"),
        (("a.onnx", "b.onnx", "c.onnx", "-o", "a.html"), "3 files given"),
        (("a.onnx", "b.onnx"), "give -o FILE.html"),
        (("a.onnx", "b.onnx", "-o", "a.html", "--json"), "give --against"),
        (("a.onnx", "--against", "b.onnx", "--latency"), "latency: it is for the report on one file"),
        (("a.onnx", "--against", "b.onnx", "--blame"), "leave it out with --against"),
        (("none.onnx", "none.onnx", "-o", "a.html"), "no such file"),
    ],
)
def test_mistakes_are_one_line(
    arguments: tuple[str, ...], said: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(dfmpc("report", *arguments), said)
    assert held(tmp_path) == {}


def test_two_unrelated_models_are_one_line(quantized: pathlib.Path, tmp_path: pathlib.Path) -> None:
    other, page = tmp_path / "other.onnx", tmp_path / "page.html"
    net = graphs.Net((1, 1, 5, 5))
    onnx.save(net.model(net.conv("x", 2)), other)
    assert_refused(dfmpc("report", other, quantized, "-o", page))
    assert_refused(dfmpc("report", quantized, "--against", other))
    assert not page.exists()


def test_several_files_are_a_table_within_80_columns(
    model_file: pathlib.Path, quantized: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    page = tmp_path / "both.html"
    files = (quantized, model_file, "--against", model_file, "--count", "8")
    result = dfmpc("report", *files, "-o", page, COLUMNS="80")
    assert result.exit_code == 0
    assert max(len(line) for line in result.stdout.splitlines() if not line.startswith("page: ")) <= 80
    head, *rows = result.stdout.splitlines()
    assert head.split()[:2] == ["file", "size"]
    assert [row[0] for row in rows[:2]] == ["A", "B"]
    assert page.read_text(encoding="utf-8").startswith(BEGINNING)


def test_json_has_every_file(model_file: pathlib.Path, quantized: pathlib.Path) -> None:
    result = dfmpc("report", quantized, "--against", model_file, "--count", "8", "--json")
    found = json.loads(result.stdout)
    assert found["front"] == ["A"] and found["float_bytes"] == model_file.stat().st_size
    (file,) = found["files"]
    assert file["bits"] == dict.fromkeys(("conv1", "conv2", "conv3", "gemm1"), "8")
