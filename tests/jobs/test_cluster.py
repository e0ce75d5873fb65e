"""Jobs on a dask cluster of two workers, which the tests start and stop."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import subprocess
import sys
import warnings
from collections.abc import Iterator

import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx.errors import OptionError, RuntimeUnavailable
from dfmpc_onnx.jobs import cluster as engine
from dfmpc_onnx.jobs import parcel
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


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A scheduler's address, and its workers."""

    address: str
    workers: list[subprocess.Popen[str]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    words = ("--port", "0", "--no-dashboard", "--host", "127.0.0.1")
    with contextlib.ExitStack() as stack:
        _, line = stack.enter_context(program("dask_scheduler", *words, saying="Scheduler at:"))
        address = line.split()[-1]
        usual = ("--nthreads", "1", "--no-dashboard", "--no-nanny", "--memory-limit", "0")
        resources = ("--resources", "memory=8e9")
        workers = [
            stack.enter_context(program("dask_worker", address, *usual, *resources, saying="Registered to:"))[0]
            for _ in range(2)
        ]
        yield Cluster(address, workers)


@pytest.fixture
def models(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "nets").mkdir()
    onnx.save(graphs.chain(), tmp_path / "nets" / "chain.onnx")
    (tmp_path / "nets" / "text.onnx").write_text("no model")
    return tmp_path / "nets"


def test_jobs_are_done_by_shared_files_and_by_bytes(cluster: Cluster, models: pathlib.Path) -> None:
    run = models.parent
    for files in ("shared", "bytes"):
        found = dfmpc_onnx.batch(
            models, run / files, dask=cluster.address, dask_files=files, recipe="int8", preprocess="unit"
        )
        assert {row.name: row.code for row in found.rows} == {"chain": "ok", "text": "model"}
        assert found.rows[1].reason.startswith(f"{models / 'text.onnx'}: not an ONNX model")
    assert held(run / "shared" / "models") == held(run / "bytes" / "models")
    assert found.rows[0].made == dfmpc_onnx.batch(models, run / "shared", recipe="int8", preprocess="unit").rows[0].made


def test_a_job_that_fits_no_worker_runs_on_the_largest(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.onnx").write_text("no model")
    found = dfmpc_onnx.batch(tmp_path / "a.onnx", tmp_path / "run", dask=cluster.address, memory_limit="99GB")
    assert found.rows[0].code == "model"


def test_workers_of_another_version_are_named(
    cluster: Cluster, models: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "version", lambda: "99.0")
    with pytest.raises(RuntimeUnavailable, match=r"\(dfmpc-onnx is .* there and 99\.0 here\); install this version"):
        dfmpc_onnx.batch(models, models.parent / "run", dask=cluster.address)


def test_a_worker_that_is_killed_in_the_middle_of_a_job_is_survived(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    """Of three jobs one is done, so each of the two workers is at one: the other worker does that of the killed one."""
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.onnx").write_text("no model")

    def kill_one(done: int, total: int, name: str) -> None:
        if done == 1:
            cluster.workers[-1].kill()

    found = dfmpc_onnx.batch(tmp_path / "*.onnx", tmp_path / "run", dask=cluster.address, progress=kill_one)
    assert {row.name: row.code for row in found.rows} == dict.fromkeys("abc", "model")
    assert cluster.workers[-1].wait(STARTED) != 0


def test_a_scheduler_that_does_not_answer_is_one_line(models: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CONNECT_SECONDS", 0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(OptionError, match="no scheduler answers there"):
            dfmpc_onnx.batch(models, models.parent / "run", dask="tcp://127.0.0.1:9")
    assert not (models.parent / "run" / "index.html").exists()


@pytest.fixture
def far_files(tmp_path: pathlib.Path) -> pathlib.Path:
    """A model whose weights lie beside it, and in other folders images and a recipe that extends another."""
    for name in ("nets", "pictures", "recipes"):
        (tmp_path / name).mkdir(exist_ok=True)
    external = {"save_as_external_data": True, "location": "weights/of.bin", "size_threshold": 0}
    (tmp_path / "nets" / "weights").mkdir()
    net = graphs.Net((1, 3, 8, 8))  # one layer has more weights than go into the model's own file
    onnx.save(net.model(net.tail(net.block(net.block("x", 16), 16), 4)), tmp_path / "nets" / "far.onnx", **external)
    pixels = graphs.np.random.default_rng(1).integers(0, 256, (9, 8, 8, 3), graphs.np.uint8)
    graphs.np.savez(tmp_path / "pictures" / "images.npz", x=pixels)
    (tmp_path / "recipes" / "mine.toml").write_text('extends = "../base.toml"\nweights = "7"\n')
    (tmp_path / "base.toml").write_text('extends = "int8"\n')
    return tmp_path


def test_all_that_a_job_reads_and_writes_travels_by_bytes(cluster: Cluster, far_files: pathlib.Path) -> None:
    model, options = far_files / "nets" / "far.onnx", {"report": True, "preprocess": "unit"}
    options |= {"images": far_files / "pictures" / "images.npz", "recipe": far_files / "recipes" / "mine.toml"}
    here = dfmpc_onnx.batch(model, far_files / "here", **options)
    sent = dfmpc_onnx.batch(model, far_files / "sent", dask=cluster.address, dask_files="bytes", **options)
    assert here.rows[0].code == "ok" and '"weights/of.bin":"' in here.rows[0].data
    assert sent.rows[0].made == here.rows[0].made
    written = held(far_files / "sent" / "models")
    assert written == held(far_files / "here" / "models") and len(written) == 2
    page = (far_files / "sent" / "reports" / "far.html").read_text()
    assert f"{model} {far_files / 'sent' / 'models' / 'far.onnx'}" in page and "dask-scratch" not in page
    assert dfmpc_onnx.batch(model, far_files / "sent", **options).kept == 1


def test_weights_that_are_too_many_to_send_are_a_row(
    cluster: Cluster, far_files: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = sum(path.stat().st_size for path in (far_files / "nets").rglob("*.*")) - 1
    monkeypatch.setattr(parcel, "MOST_SENT", most)
    found = dfmpc_onnx.batch(far_files / "nets", far_files / "run", dask=cluster.address, dask_files="bytes")
    assert (found.rows[0].status, found.rows[0].code) == ("refused", "not-sent")
    assert "the files of far are 0.0 GB, and at most" in found.rows[0].reason


def test_images_that_are_too_many_to_send_are_refused_before_any_job(
    far_files: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = far_files / "pictures" / "images.npz"
    monkeypatch.setattr(parcel, "MOST_SENT", images.stat().st_size)
    with pytest.raises(OptionError, match=r"the files of far are .*put them on storage that the workers share, and"):
        dfmpc_onnx.batch(
            far_files / "nets", far_files / "run", dask="tcp://127.0.0.1:9", dask_files="bytes", images=images
        )
