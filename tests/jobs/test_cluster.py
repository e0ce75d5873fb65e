"""Jobs on a dask cluster of two workers, which the tests start and stop."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator

import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx.errors import OptionError
from tests import graphs
from tests.commands import environment, held

distributed = pytest.importorskip("distributed")

STARTED = 60  # seconds that a scheduler or worker may take to start


@contextlib.contextmanager
def program(*words: str, saying: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A program of dask's while the block runs, and the line in which it says that it has begun."""
    command = [sys.executable, "-m", "distributed.cli." + words[0], *words[1:]]
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "env": environment()}
    with subprocess.Popen(command, **options) as process:  # type: ignore[call-overload]
        try:
            yield process, next(line for line in process.stderr if saying in line)
        finally:
            process.terminate()
            process.communicate(timeout=STARTED)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with program("dask_scheduler", "--port", "0", "--no-dashboard", "--host", "127.0.0.1", saying="Scheduler at:") as (
        _,
        line,
    ):
        yield line.split()[-1]


def worker(address: str, *words: str) -> contextlib.AbstractContextManager[tuple[subprocess.Popen[str], str]]:
    usual = ("--nthreads", "1", "--no-dashboard", "--no-nanny", "--memory-limit", "0")
    return program("dask_worker", address, *usual, *words, saying="Registered to:")


@pytest.fixture
def models(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "nets").mkdir()
    onnx.save(graphs.chain(), tmp_path / "nets" / "chain.onnx")
    (tmp_path / "nets" / "text.onnx").write_text("no model")
    return tmp_path / "nets"


def test_two_workers_do_the_jobs_by_shared_files_and_by_bytes(address: str, models: pathlib.Path) -> None:
    run = models.parent
    with worker(address, "--resources", "memory=8e9"), worker(address, "--resources", "memory=8e9"):
        for files in ("shared", "bytes"):
            found = dfmpc_onnx.batch(
                models, run / files, dask=address, dask_files=files, recipe="int8", preprocess="unit"
            )
            assert {row.name: row.code for row in found.rows} == {"chain": "ok", "text": "model"}
            assert str(models / "text.onnx") in found.rows[1].reason
            again = dfmpc_onnx.batch(models, run / files, dask=address, recipe="int8", preprocess="unit")
            assert again.kept == 2
    assert held(run / "shared" / "models") == held(run / "bytes" / "models")


@pytest.mark.usefixtures("stub")
def test_a_worker_that_is_killed_in_the_middle_of_a_job_is_survived(address: str, tmp_path: pathlib.Path) -> None:
    """The first worker takes a job that waits for the second: it is killed there, and the other one does the job."""
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.onnx").write_text("no model")
    victims = []
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            victims.append(stack.enter_context(worker(address))[0])

        def kill_one(done: int, total: int, name: str) -> None:
            if done == 1 and victims:
                os.kill(victims.pop().pid, signal.SIGKILL)

        found = dfmpc_onnx.batch(tmp_path / "*.onnx", tmp_path / "run", dask=address, progress=kill_one)
    assert {row.name: row.code for row in found.rows} == dict.fromkeys("abc", "model")


def test_a_scheduler_that_does_not_answer_is_one_line(models: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dfmpc_onnx.jobs import cluster

    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(OptionError, match="no scheduler answers there"):
            dfmpc_onnx.batch(models, models.parent / "run", dask="tcp://127.0.0.1:9")


def test_images_do_not_travel_by_bytes(models: pathlib.Path, tmp_path: pathlib.Path) -> None:
    images = tmp_path / "images.npz"
    graphs.np.savez(images, x=graphs.np.zeros((2, 8, 8, 3), graphs.np.uint8))
    with pytest.raises(OptionError, match="reads images from a file, and only models are sent"):
        dfmpc_onnx.batch(models, tmp_path / "run", dask="tcp://127.0.0.1:9", dask_files="bytes", images=images)
