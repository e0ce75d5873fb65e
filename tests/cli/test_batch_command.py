"""The command `batch`: streams, exit statuses, what fits into 80 columns, mistakes in one line."""

from __future__ import annotations

import json
import pathlib
import sys

import pytest

from dfmpc_onnx.jobs import processes
from tests.commands import assert_refused, dfmpc
from tests.jobs.conftest import STUB


@pytest.fixture(autouse=True)
def _stub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PROGRAM", STUB)


@pytest.fixture
def nets(tmp_path: pathlib.Path) -> pathlib.Path:
    for name in ("a", "b"):
        (tmp_path / f"{name}.onnx").write_text("good")
    return tmp_path


def test_a_table_of_80_columns_and_exit_status_0(nets: pathlib.Path) -> None:
    result = dfmpc("batch", nets / "*.onnx", "-o", nets / "run", "--sweep", "recipe=int8,mixed", COLUMNS="80")
    assert (result.exit_code, result.stderr) == (0, "")
    assert max(map(len, result.stdout.replace(str(nets), "").splitlines())) <= 80
    assert "a.recipe=int8" in result.stdout and "4 jobs: 4 ok, 0 below, 0 refused, 0 failed" in result.stdout


@pytest.mark.parametrize(
    ("model", "words", "status"),
    [
        ("good", ["--min-agreement", "80"], 0),
        ("good", ["--min-agreement", "95"], 1),
        ("good", ["--min-sqnr", "25"], 1),
        ("abort", [], 5),
        ("hang", ["--time-limit", "0.3s"], 5),
    ],
)
def test_the_exit_status_says_what_became_of_the_jobs(
    nets: pathlib.Path, model: str, words: list[str], status: int
) -> None:
    (nets / "a.onnx").write_text(model)
    assert dfmpc("batch", nets, "-o", nets / "run", "-q", "--recipe", "int8", *words).exit_code == status


def test_json_is_one_object_with_all_rows(nets: pathlib.Path) -> None:
    result = dfmpc("batch", nets, "-o", nets / "run", "--json", "--layer", "conv*=8", "--max-seconds", "60")
    found = json.loads(result.stdout)
    assert (found["exit_code"], found["counts"]["ok"], [row["name"] for row in found["rows"]]) == (0, 2, ["a", "b"])
    assert found["rows"][0]["options"] == '{"layers":["conv*=8"],"max_seconds":60.0}'


def test_what_a_manifest_says_comes_before_what_is_said_for_all(nets: pathlib.Path) -> None:
    (nets / "zoo.csv").write_text("path,recipe,preprocess\na.onnx,int8,unit\nb.onnx,,\n")
    result = dfmpc(
        "batch", nets / "zoo.csv", "-o", nets / "run", "--json", "--recipe", "int4", "--input-shape", "1x3x8x8"
    )
    rows = json.loads(result.stdout)["rows"]
    assert [json.loads(row["options"]).get("recipe") for row in rows] == ["int8", "int4"]
    assert all(json.loads(row["options"])["input_shapes"] == ["1x3x8x8"] for row in rows)


def test_two_runs_are_compared_as_table_json_and_page(nets: pathlib.Path) -> None:
    dfmpc("batch", nets / "*.onnx", "-o", nets / "old")
    (nets / "a.onnx").write_text("abort")
    dfmpc("batch", nets / "*.onnx", "-o", nets / "new")
    words = ["batch", "--compare", nets / "old", nets / "new"]
    result = dfmpc(*words, "--html", nets / "changes.html", COLUMNS="80")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "1 jobs changed, 1 got worse, 1 are the same" in result.stdout
    assert dfmpc(*words, "--fail-on-worse", "-q").exit_code == 1
    assert dfmpc("batch", "--compare", nets / "new", nets / "old", "--fail-on-worse", "-q").exit_code == 0
    assert "ok &rarr; failed" in (nets / "changes.html").read_text()
    (nets / "mine.html").write_text("mine")
    assert_refused(dfmpc(*words, "--html", nets / "mine.html"), "is there already, and is no HTML file")
    assert (nets / "mine.html").read_text() == "mine"
    assert dfmpc(*words, "--html", nets / "mine.html", "--force").exit_code == 0
    found = json.loads(dfmpc(*words, "--json").stdout)
    assert (found["worse"], found["rows"][0]["name"], found["rows"][0]["new_status"]) == (1, "a", "failed")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.onnx"], "missing option '-o' / '--output'; see "),
        (["-o", "run"], "no model given; name files"),
        (["a.onnx", "-o", "run", "--time-limit", "soon"], "time-limit 'soon': not understood; give seconds"),
        (["a.onnx", "-o", "run", "--memory-limit", "some"], "memory-limit 'some': not understood"),
        (["a.onnx", "-o", "run", "--shard", "5/4"], "shard '5/4': not understood; give I/N"),
        (["a.onnx", "-o", "run", "--sweep", "recipe"], "sweep 'recipe': not understood"),
        (["a.onnx", "-o", "run", "--recipe", "int88"], "did you mean int8?"),
        (["a.onnx", "-o", "run", "--workers", "2", "--dask", "x:1"], "workers: dask's own are as many"),
        (["a.onnx", "--compare", "old", "new"], "compare: nothing is quantized; leave SOURCES and -o out"),
        (["--compare", "old", "new"], "old: no such folder; give the folder of a batch"),
        (["--html", "x.html"], "html: belongs to a comparison; give --compare OLD NEW"),
        (["a.onnx", "-o", "run", "--fail-on-worse"], "fail-on-worse: belongs to a comparison; give --compare OLD NEW"),
        (["a.onnx", "-o", "run", "--max-seconds", "0"], "max-seconds 0: give a number of seconds above 0"),
        (["a.onnx", "-o", "run", "--fp16"], "fp16: floats are float32 for cpu; leave it out"),
        (["a.onnx", "-o", "a.onnx"], "is a file; give a folder for the results"),
    ],
)
def test_a_mistake_is_one_line(
    nets: pathlib.Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(nets)
    assert_refused(dfmpc("batch", *words), message)
    assert not (nets / "run").exists()


@pytest.mark.parametrize("name", ["index.html", "results.csv", "models/a.onnx", "reports/a.html"])
def test_what_no_batch_has_written_is_not_written_over(nets: pathlib.Path, name: str) -> None:
    own = nets / "run" / name
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    refused = dfmpc("batch", nets / "a.onnx", "-o", nets / "run")
    assert_refused(refused, f"holds {name.partition('/')[0]} already, and no results.jsonl of a batch; choose another")
    assert own.read_text() == "mine" and sorted(p.name for p in (nets / "run").iterdir()) == [name.partition("/")[0]]


def test_without_dask_its_extra_is_named(nets: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    result = dfmpc("batch", nets, "-o", nets / "run", "--dask", "tcp://127.0.0.1:1")
    assert_refused(result, "dask: not installed; pip install distributed")
