"""The bench of batches: workers beside each other, and runs that are killed."""

import pytest

from dfmpc_onnx.jobs import processes
from tests.jobs.conftest import STUB
from tools.bench import batch


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Models for the stub, in runs within this process: what is killed has its own tests."""
    monkeypatch.setattr(processes, "PROGRAM", STUB)
    monkeypatch.setattr(batch, "command", lambda sources, folder, recipe, workers: (sources, folder, workers))
    monkeypatch.setattr(batch, "seconds", lambda words: within(*words))
    for name in ("a", "b"):
        (tmp_path / f"{name}.onnx").write_text("good")
    return [str(tmp_path / "*.onnx")]


def within(sources, folder, workers):
    import dfmpc_onnx

    dfmpc_onnx.batch(sources, folder, workers=workers)
    return 10.0 / workers


def test_more_workers_are_held_against_the_first(sources, tmp_path, capsys):
    assert batch.speed(sources, tmp_path / "runs", "int8", [1, 2]) == 0
    header, _, one, two = capsys.readouterr().out.splitlines()
    assert header == "| workers | jobs | s | of one worker's | load before |"
    assert one.startswith("| 1 | 2 | 10.0 | 1.00 | ") and two.startswith("| 2 | 2 | 5.0 | 0.50 | ")


def test_a_run_that_was_disturbed_is_the_same(sources, tmp_path, capsys):
    assert batch.kills(sources, tmp_path / "runs", "int8", 0, 1) == 0
    header, _, whole, killed = capsys.readouterr().out.splitlines()
    assert header == "| run | killed after | rows | written | not written, by code | rows and files that differ |"
    assert whole == "| undisturbed |  | 2 | 2 |  |  |"
    assert killed == "| killed and resumed |  | 2 | 2 |  | none |"


def test_what_two_runs_made_otherwise_is_named(sources, tmp_path):
    for run in ("whole", "killed"):
        within(sources, tmp_path / run, 1)
        (tmp_path / "a.onnx").write_text("abort")
    assert batch.differences(tmp_path / "whole", tmp_path / "whole") == []
    row, file = batch.differences(tmp_path / "whole", tmp_path / "killed")
    assert row.startswith("a: key, status, code, reason, load, check") and file == "a.onnx"
    assert list(batch.table(tmp_path / "whole", tmp_path / "killed", ["3 s (1 rows)"]))[-1].startswith(
        "| killed and resumed | 3 s (1 rows) | 2 | 1 | 1 x killed | a: key"
    )
