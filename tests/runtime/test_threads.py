"""How many threads a call takes, and that calls side by side do not disturb each other."""

import concurrent.futures as cf
import contextlib
import contextvars
import os
import threading

import numpy as np
import onnx
import onnx.reference
import onnxruntime
import pytest
import threadpoolctl

import dfmpc_onnx
from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.graph import constant_folding
from dfmpc_onnx.graph.exchange import to_graph
from dfmpc_onnx.model import write
from dfmpc_onnx.model.source import load
from dfmpc_onnx.runtime import session as runtime
from dfmpc_onnx.runtime.session import Session
from dfmpc_onnx.runtime.threads import limit_blas, limit_threads, takes_threads, thread_count
from tests import graphs
from tests.commands import assert_refused, dfmpc


def blas():
    return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]


@pytest.fixture
def three():
    """BLAS with three threads, whatever the machine has."""
    with threadpoolctl.threadpool_limits(limits=3, user_api="blas"):
        yield


@pytest.fixture
def options(monkeypatch):
    """The options of every session that is loaded."""
    made = []

    class Kept(onnxruntime.SessionOptions):
        def __init__(self):
            super().__init__()
            made.append(self)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Kept)
    return made


def test_a_call_and_those_within_it_take_so_many_threads(three):
    assert thread_count() is None
    with limit_threads(2):
        assert thread_count() == 2 and set(blas()) == {2}
        with limit_threads(None):
            assert thread_count() == 2
        with limit_threads(0):
            assert thread_count() is None
        with limit_threads(1):
            assert thread_count() == 1 and set(blas()) == {1}
        assert thread_count() == 2 and set(blas()) == {2}
    assert thread_count() is None and set(blas()) == {3}


@pytest.mark.parametrize("wrong", [-1, 100_000, 1.5, "2", True])
def test_what_is_no_number_of_threads_is_refused(wrong):
    with pytest.raises(OptionError, match=rf"threads '{wrong}': not understood; give 1 to \d+, or 0 for as many"):
        dfmpc_onnx.quantize(graphs.chain(), threads=wrong)
    with pytest.raises(OptionError, match="threads"):
        dfmpc_onnx.verify(graphs.chain(), graphs.chain(), threads=wrong)


def test_a_thread_has_a_number_of_its_own():
    with limit_threads(2), cf.ThreadPoolExecutor(1) as pool:
        assert pool.submit(thread_count).result() is None
        assert pool.submit(contextvars.copy_context().run, thread_count).result() == 2


def test_a_function_that_takes_threads_holds_them_while_it_runs():
    @takes_threads
    def call(*, threads=None):
        return thread_count()

    assert (call(threads=2), call(), call(threads=0), thread_count()) == (2, None, None, None)


def test_the_smallest_limit_on_blas_holds_and_the_last_to_leave_restores(three):
    """Also where the first to come is the first to go, as in two threads: each alone would restore the other's."""
    first, second = limit_blas(2), limit_blas(1)
    first.__enter__()
    second.__enter__()
    assert set(blas()) == {1}
    first.__exit__(None, None, None)
    assert set(blas()) == {1}
    second.__exit__(None, None, None)
    assert set(blas()) == {3}


def test_a_limit_holds_in_a_thread_that_is_not_the_first_to_set_one(three):
    """The threads of a pool outlive a call, and the main thread has set a limit of its own before."""

    def within(limit):
        with limit_blas(limit):
            return set(blas())

    with limit_blas(2):
        pass
    with cf.ThreadPoolExecutor(2) as pool:
        for limit in (1, 2, 1):
            assert pool.submit(within, limit).result() == {limit}
            assert set(blas()) == {3}
    barrier = threading.Barrier(2)

    def overlapping(limit):
        with limit_blas(limit):
            barrier.wait(10)
            seen = set(blas())
            barrier.wait(10)
        return seen

    with cf.ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            assert list(pool.map(overlapping, (2, 1))) == [{1}, {1}]
            assert set(blas()) == {3}
    with limit_blas(2):
        assert set(blas()) == {2}


def test_closed_form_statistics_of_two_threads_leave_blas_as_it_was(three):
    with cf.ThreadPoolExecutor(2) as pool:
        made = [pool.submit(dfmpc_onnx.quantize, graphs.residual(), None, "closed-form", check=False) for _ in range(4)]
        assert all(future.result() for future in made)
    assert set(blas()) == {3}


def test_every_session_takes_the_threads_of_the_call(options, model_file, tmp_path):
    for recipe in ("mixed", "per-channel"):
        dfmpc_onnx.quantize(model_file, tmp_path / "out.onnx", recipe, threads=3)
    dfmpc_onnx.verify(model_file, tmp_path / "out.onnx", threads=3)
    assert len(options) > 10
    assert {o.intra_op_num_threads for o in options} == {3} and {o.inter_op_num_threads for o in options} == {1}


def test_a_session_takes_its_own_number_before_that_of_the_call(options):
    with limit_threads(3):
        Session(graphs.chain(), threads=2)
    Session(graphs.chain())
    assert [o.intra_op_num_threads for o in options] == [2, 1]  # tests run with 1 where nothing asks for another


def test_the_command_line_takes_threads(options, model_file, tmp_path):
    out = tmp_path / "out.onnx"
    assert dfmpc("quantize", model_file, "-o", out, "--recipe", "int8", "--threads", 2).exit_code == 0
    assert dfmpc("verify", model_file, out, "--threads", 2).exit_code == 0
    assert {o.intra_op_num_threads for o in options} == {2}
    assert_refused(dfmpc("verify", model_file, out, "--threads", -1), "--threads")
    assert_refused(dfmpc("verify", model_file, out, "--threads", 100_000), "threads '100000': not understood")


def test_threads_leave_no_trace_in_the_file():
    alone, many = (dfmpc_onnx.quantize(graphs.chain(), None, "paper", threads=n).model for n in (1, 2))
    assert alone.SerializeToString() == many.SerializeToString()


def test_the_logger_of_the_process_is_silenced_once(monkeypatch):
    told = []
    monkeypatch.setattr(onnxruntime, "set_default_logger_severity", told.append)
    runtime._silence.cache_clear()
    for _ in range(3):
        Session(graphs.chain())
    assert told == [4]


def test_nodes_are_folded_by_one_thread_at_a_time(monkeypatch):
    """onnx's reference of Sqrt saves and restores the filters of warnings: two at once restore each other's."""
    net = graphs.Net()
    scale = net.node("Sqrt", net.weight("four", np.float32([[[[4]]]])))
    model = net.model(net.node("Mul", net.conv("x", 4), scale))
    real, barrier, met = onnx.reference.ReferenceEvaluator.run, threading.Barrier(2), []

    def run(*given, **named):
        with contextlib.suppress(threading.BrokenBarrierError):
            met.append(barrier.wait(0.1))  # broken unless two threads are here
        return real(*given, **named)

    monkeypatch.setattr(onnx.reference.ReferenceEvaluator, "run", run)
    with cf.ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: constant_folding.fold_constants(to_graph(load(model))), range(2)))
    assert not met


WORK = [
    (graphs.chain, "mixed"),
    (graphs.residual, "closed-form"),
    (graphs.dense, "per-channel"),
    (graphs.depthwise, "int8"),
    (graphs.bottleneck, "int4"),
    (graphs.folded, "mixed"),
    (graphs.residual, "paper"),
    (graphs.chain, "closed-form"),
]


@pytest.mark.parametrize("workers", [2, 4])
def test_models_quantized_side_by_side_are_those_quantized_alone(tmp_path, workers):
    def make(index, folder):
        network, recipe = WORK[index]
        folder.mkdir(exist_ok=True)
        dfmpc_onnx.quantize(network(), folder / f"{index}.onnx", recipe, preprocess="unit", threads=1)
        return (folder / f"{index}.onnx").read_bytes()

    alone = [make(index, tmp_path / "alone") for index in range(len(WORK))]
    with cf.ThreadPoolExecutor(workers) as pool:
        together = list(pool.map(make, range(len(WORK)), [tmp_path / "together"] * len(WORK)))
    assert together == alone
    assert len(list((tmp_path / "together").iterdir())) == len(WORK)


def test_one_model_is_read_by_two_threads():
    model = graphs.residual()
    held = model.SerializeToString(deterministic=True)
    with cf.ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda r: dfmpc_onnx.quantize(model, None, r, threads=1).model, ["mixed", "mixed"])
    assert first.SerializeToString() == second.SerializeToString()
    assert model.SerializeToString(deterministic=True) == held


@pytest.mark.skipif(os.name == "nt", reason="no umask there")
def test_the_umask_holds_for_files_of_two_threads(tmp_path, external_file, monkeypatch):
    monkeypatch.setattr(write, "DATA_THRESHOLD", 16)
    before = os.umask(0o027)
    try:
        with cf.ThreadPoolExecutor(2) as pool:
            jobs = [
                pool.submit(dfmpc_onnx.quantize, external_file, tmp_path / f"{i}.onnx", "int8", check=False)
                for i in range(4)
            ]
            assert all(job.result() for job in jobs)
        dfmpc_onnx.quantize(external_file, tmp_path / "d.onnx", "paper", dump=tmp_path / "dump", check=False)
        assert dfmpc("images", "-o", tmp_path / "sheet.png", "--size", 8, "--count", 1).exit_code == 0
    finally:
        assert os.umask(before) == 0o027
    files = [p for p in tmp_path.rglob("*") if p.is_file() and p.parent != external_file.parent]
    assert {"sheet.png", "0.onnx"} <= {p.name for p in files} and any(p.suffix == ".data" for p in files)
    assert {oct(p.stat().st_mode & 0o777) for p in files} == {"0o640"}


@pytest.fixture
def external_file(tmp_path):
    """A model whose weights lie in another file."""
    path = tmp_path / "source" / "model.onnx"
    path.parent.mkdir()
    onnx.save(graphs.chain(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_the_umask_is_never_touched(tmp_path, external_file, monkeypatch):
    """To read it is to change it, for every thread: another's file would be writable by all."""

    def touched(mask):
        raise AssertionError("os.umask was called")

    monkeypatch.setattr(os, "umask", touched)
    dfmpc_onnx.quantize(external_file, tmp_path / "out.onnx", "int8", dump=tmp_path / "dump")
    assert dfmpc("images", "-o", tmp_path / "sheet.png", "--size", 8, "--count", 1).exit_code == 0
