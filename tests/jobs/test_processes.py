"""One job, one process: whatever becomes of the process, there is a row with a reason."""

from __future__ import annotations

import errno
import os
import pathlib
import sys
import tempfile

import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx.jobs.job import LEAST_MEMORY, Job, JobLimits, Order
from dfmpc_onnx.jobs.processes import Processes
from dfmpc_onnx.report.batch_row import JobRow
from tests import graphs

FREE = JobLimits()


def run(model: pathlib.Path, limits: JobLimits = FREE, **options: object) -> JobRow:
    out = model.parent / "out" / "model.onnx"
    out.parent.mkdir(exist_ok=True)
    return Processes().run(Order(Job("job", str(model), dict(options)), str(out), limits=limits))


def stages(row: JobRow) -> str:
    return " ".join(f"{stage}:{getattr(row, stage)}" for stage in ("load", "check", "quantize", "write", "verify"))


@pytest.fixture
def word(tmp_path: pathlib.Path, stub: None):
    """A row of a model that is a word for the stub."""

    def of(text: str, limits: JobLimits = FREE) -> JobRow:
        (tmp_path / "model.onnx").write_text(text)
        return run(tmp_path / "model.onnx", limits)

    return of


def test_a_good_job_has_figures_and_all_stages(word) -> None:
    row = word("good")
    assert (row.status, row.code, row.reason, row.bytes) == ("ok", "ok", "", 7)
    assert stages(row) == "load:ok check:ok quantize:ok write:ok verify:ok"
    assert pathlib.Path(row.output).read_text() == "good {}"


def test_a_process_that_aborts_is_a_row(word) -> None:
    row = word("abort")
    assert (row.status, row.code) == ("failed", "killed")
    assert row.reason.startswith("its process was ended by signal 6")
    assert stages(row) == "load:failed check: quantize: write: verify:"


def test_a_process_over_its_time_is_ended(word) -> None:
    row = word("hang", JobLimits(seconds=0.5))
    assert (row.status, row.code, row.reason) == ("failed", "time-limit", "took longer than the limit of 0.5 s")
    assert stages(row) == "load:ok check:failed quantize: write: verify:"
    assert row.seconds >= 0.5
    if sys.platform == "linux":  # what was killed cannot say it of itself
        assert row.peak_mb is not None and row.peak_mb > 1


def test_limits_follow_from_the_size_of_a_model_unless_they_are_given() -> None:
    small, large = Job("a", "a.onnx", size=10**5), Job("b", "b.onnx", size=9 * 10**7)
    usual = JobLimits.parse("auto", None, 1)
    assert (usual.of(small).seconds, usual.of(large).seconds) == (600, 2400)
    assert usual.of(small).loop_seconds == 60
    assert JobLimits.parse("5m", "4GB", 2).of(large) == JobLimits(300, 4 * 10**9, 2)
    assert JobLimits.parse(None, None, 1).of(large) == FREE and FREE.loop_seconds is None


def test_a_library_that_ends_the_process_for_memory_is_named(word) -> None:
    assert (word("exit").code, word("exit").reason) == ("memory", "not enough memory within the limit")


def test_what_a_killed_process_has_left_is_removed(word, tmp_path: pathlib.Path) -> None:
    left = tmp_path / "out" / ".model.onnx.abc.writing"
    left.mkdir(parents=True)
    (left / "half").write_text("half")
    word("abort")
    assert list((tmp_path / "out").iterdir()) == []


def test_libraries_take_no_more_threads_than_a_job_may(tmp_path: pathlib.Path) -> None:
    says = "import json, os; print(json.dumps({'row': {'status': 'failed', 'reason': os.environ['OMP_NUM_THREADS']}}))"
    program = [sys.executable, "-c", says]
    row = Processes(program).run(Order(Job("job", "a.onnx"), str(tmp_path / "o.onnx"), limits=JobLimits(threads=3)))
    assert row.reason == "3"


def test_a_process_that_cannot_be_started_is_a_row(tmp_path: pathlib.Path) -> None:
    row = Processes(["/none/python"]).run(Order(Job("job", "model.onnx"), str(tmp_path / "out.onnx")))
    assert (row.code, row.reason) == ("died", "its process cannot be started (No such file or directory)")


def test_no_room_for_temporary_files_is_a_row(
    tmp_path: pathlib.Path, stub: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> object:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", none)
    row = Processes().run(Order(Job("job", "model.onnx"), str(tmp_path / "out.onnx")))
    assert (row.code, row.reason) == ("died", "its process cannot be started (No space left on device)")


def test_nothing_is_started_once_all_is_ended(tmp_path: pathlib.Path, stub: None) -> None:
    (tmp_path / "model.onnx").write_text("good")
    processes = Processes()
    processes.end()
    row = processes.run(Order(Job("job", str(tmp_path / "model.onnx")), str(tmp_path / "out.onnx")))
    assert (row.status, row.code) == ("failed", "interrupted")


# The real worker.


def test_a_model_is_quantized_and_compared(model_file: pathlib.Path) -> None:
    row = run(model_file, recipe="int8", preprocess="unit")
    assert (row.status, row.layers, row.quantized_layers, row.recipe, row.basis) == ("ok", 4, 4, "int8", "generated")
    assert stages(row) == "load:ok check:ok quantize:ok write:ok verify:ok"
    assert row.bytes == pathlib.Path(row.output).stat().st_size
    alone = dfmpc_onnx.quantize(model_file, None, "int8", preprocess="unit", threads=1)
    assert onnx.load(row.output) == alone.model
    assert row.float_bytes == model_file.stat().st_size
    assert row.agreement is not None and row.agreement_low is not None
    assert row.agreement_low < row.agreement <= 100
    assert row.peak_mb is not None and 20 < row.peak_mb < 1000
    assert (row.worst_layer, row.worst_layer_error) == ("", None)


def test_errors_of_layers_name_the_worst_in_the_row(model_file: pathlib.Path) -> None:
    row = run(model_file, recipe="int8", preprocess="unit", layer_errors=True)
    assert row.worst_layer in {"conv1", "conv2", "conv3", "gemm1"}
    assert row.worst_layer_error is not None and 0 < row.worst_layer_error < 1


def test_a_model_that_is_none_is_refused_with_the_sentence_of_quantize(tmp_path: pathlib.Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    row = run(tmp_path / "text.onnx")
    assert (row.status, row.code) == ("refused", "model")
    assert row.reason.endswith("text.onnx: not an ONNX model, or cut short; export or copy it again")
    assert stages(row) == "load:failed check: quantize: write: verify:"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_that_nobody_writes_to_is_refused(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    row = run(tmp_path / "pipe.onnx", JobLimits(seconds=100))
    assert (row.status, row.data) == ("refused", "{}")
    assert "is a device or a pipe" in row.reason


def test_a_job_over_its_memory_ends_alone(tmp_path: pathlib.Path) -> None:
    net = graphs.Net((1, 3, 16, 16))
    onnx.save(net.model(net.tail(net.block(net.block("x", 512), 2048), 1000)), tmp_path / "large.onnx")
    row = run(tmp_path / "large.onnx", JobLimits(memory=LEAST_MEMORY), recipe="int8", preprocess="unit")
    assert (row.status, row.code, row.reason) == ("failed", "memory", "not enough memory within the limit")


def test_files_of_weights_are_named_with_their_digests(tmp_path: pathlib.Path) -> None:
    onnx.save(graphs.chain(), tmp_path / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0)
    (tmp_path / "net.bin").unlink()
    row = run(tmp_path / "net.onnx")
    assert (row.status, row.data) == ("refused", '{"net.bin":""}')
