"""A batch never stops and always resumes: whatever the models are, and whenever it is killed."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading

import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.jobs import given_options, processes
from dfmpc_onnx.jobs.batch import BatchResult
from dfmpc_onnx.jobs.job import Order
from dfmpc_onnx.jobs.ledger import read_rows
from dfmpc_onnx.report.batch_row import JobRow
from tests import graphs
from tests.commands import environment, held
from tests.jobs.conftest import STUB

pytestmark = pytest.mark.usefixtures("stub")


def batch(nets: pathlib.Path, run: str = "run", **options: object) -> BatchResult:
    return dfmpc_onnx.batch(nets, nets.parent / run, workers=2, **options)  # type: ignore[arg-type]


def codes(found: BatchResult) -> dict[str, str]:
    return {row.name: row.code for row in found.rows}


def made(folder: pathlib.Path) -> tuple[list[dict[str, object]], dict[str, bytes]]:
    """All that a run has made but for times: its rows and the files of models."""
    return [row.made for _, row in sorted(read_rows(folder).items())], held(folder / "models")


def test_each_model_ends_as_a_row_a_file_and_a_line_of_the_table(nets: pathlib.Path) -> None:
    seen: list[tuple[int, int, str]] = []
    found = batch(nets, recipe="int8", progress=lambda *step: seen.append(step))
    assert (found.counts, found.exit_code, found.kept) == ({"ok": 4, "below": 0, "refused": 0, "failed": 0}, 0, 0)
    run = nets.parent / "run"
    assert sorted(path.name for path in run.iterdir()) == ["index.html", "models", "results.csv", "results.jsonl"]
    assert sorted(held(run / "models")) == ["a.onnx", "b.onnx", "inner_a.onnx", "inner_c.onnx"]
    table = list(csv.DictReader(io.StringIO((run / "results.csv").read_text())))
    assert [line["name"] for line in table] == ["a", "b", "inner_a", "inner_c"]
    assert table[0]["options"] == '{"recipe":"int8"}' and table[0]["output"] == "models/a.onnx"
    assert [step[:2] for step in seen if not step[2].startswith("is it done already?")] == [(n, 4) for n in range(5)]


def test_a_second_run_does_only_what_changed(nets: pathlib.Path) -> None:
    batch(nets)
    assert batch(nets).kept == 4
    (nets / "a.onnx").write_text("good other")
    assert batch(nets).kept == 3
    (nets.parent / "run" / "models" / "b.onnx").unlink()
    assert batch(nets).kept == 3
    assert (nets.parent / "run" / "models" / "b.onnx").is_file()
    assert batch(nets, seed=1).kept == 0
    (nets.parent / "run" / "models" / "b.onnx").write_text("of somebody else")
    assert batch(nets, seed=1).kept == 3


def test_looking_for_what_is_done_is_reported_file_by_file(nets: pathlib.Path) -> None:
    """Of a large zoo it takes minutes: each model and each output is read."""
    batch(nets)
    seen: list[tuple[int, int, str]] = []
    assert batch(nets, progress=lambda *step: seen.append(step)).kept == 4
    assert seen[0] == (0, 4, "is it done already? a, 1 of 4") and seen[3][2].endswith("inner_c, 4 of 4")


def test_a_model_that_is_no_longer_there_is_in_no_comparison(nets: pathlib.Path) -> None:
    batch(nets, "old")
    batch(nets)
    (nets / "b.onnx").rename(nets.parent / "b.onnx")
    assert batch(nets).kept == 3
    runs = (nets.parent / "old", nets.parent / "run")
    assert [(row.name, row.only_in) for row in dfmpc_onnx.compare_batches(*runs).rows] == [("b", "OLD")]
    assert read_rows(runs[1])["b"].removed
    (nets.parent / "b.onnx").rename(nets / "b.onnx")
    for part in ("2/2", "1/2", None):
        batch(nets, shard=part)
    assert batch(nets).kept == 4 and not dfmpc_onnx.compare_batches(*runs).rows


def test_each_job_has_the_limit_of_its_time(nets: pathlib.Path) -> None:
    found = batch(nets, max_seconds=2.5)
    assert {row.options for row in found.rows} == {'{"max_seconds":2.5}'}
    with pytest.raises(OptionError, match="max-seconds -1: give a number of seconds above 0"):
        batch(nets, max_seconds=-1)


def test_another_version_does_all_again(nets: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch(nets)
    monkeypatch.setattr("dfmpc_onnx.jobs.batch.version", lambda: "99.0")
    found = batch(nets)
    assert (found.kept, {row.version for row in found.rows}) == (0, {"99.0"})


def test_an_option_of_one_model_does_that_one_again(nets: pathlib.Path) -> None:
    manifest = nets / "zoo.csv"
    manifest.write_text("path,seed\na.onnx,0\nb.onnx,0\n")
    assert dfmpc_onnx.batch(manifest, nets.parent / "run").kept == 0
    manifest.write_text("path,seed\na.onnx,0\nb.onnx,1\n")
    assert dfmpc_onnx.batch(manifest, nets.parent / "run").kept == 1


def test_a_recipe_file_and_images_count_by_what_they_hold(nets: pathlib.Path) -> None:
    recipe, images = nets / "mine.toml", nets / "images.npz"
    recipe.write_text('extends = "int8"\n')
    graphs.np.savez(images, x=graphs.np.zeros((2, 8, 8, 3), graphs.np.uint8))
    assert batch(nets, recipe=recipe, images=images).kept == 0
    assert batch(nets, recipe=recipe, images=images).kept == 4
    recipe.write_text('extends = "int8"\nweights = "7"\n')
    assert batch(nets, recipe=recipe, images=images).kept == 0
    graphs.np.savez(images, x=graphs.np.ones((2, 8, 8, 3), graphs.np.uint8))
    assert batch(nets, recipe=recipe, images=images).kept == 0


def test_hostile_models_take_down_nothing_but_their_own_process(nets: pathlib.Path) -> None:
    for name in ("abort", "exit", "hang"):
        (nets / f"{name}.onnx").write_text(name)
    found = batch(nets, time_limit=1.0)
    assert codes(found) == {
        **dict.fromkeys(("a", "b", "inner_a", "inner_c"), "ok"),
        "abort": "killed",
        "exit": "memory",
        "hang": "time-limit",
    }
    assert (found.exit_code, found.counts["failed"]) == (5, 3)
    assert all(row.reason for row in found.rows if row.code != "ok")


def test_no_more_run_at_once_than_the_machine_has_memory_for_the_largest_first(
    nets: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 900 MB that may be used the large model takes all, and three small ones fit."""
    (nets / "large.onnx").write_text("good" + " " * 4_700_000)
    monkeypatch.setattr("dfmpc_onnx.jobs.batch.free_memory", lambda: 10**9)
    guard, running, at_once = threading.Lock(), set(), []
    run = processes.Processes.run

    def noted(self: processes.Processes, order: Order) -> JobRow:
        with guard:
            running.add(order.job.name)
            at_once.append(frozenset(running))
        row = run(self, order)
        with guard:
            running.discard(order.job.name)
        return row

    monkeypatch.setattr(processes.Processes, "run", noted)
    found = dfmpc_onnx.batch(nets, nets.parent / "run", workers=8)
    assert found.exit_code == 0 and at_once[0] == {"large"}
    assert not any("large" in names for names in at_once[1:])
    assert max(map(len, at_once)) <= 3


def test_a_second_run_in_the_same_folder_at_the_same_time_is_refused(nets: pathlib.Path) -> None:
    def start_another(done: int, total: int, name: str) -> None:
        if done == 1:
            with pytest.raises(OptionError, match="run: another batch is at work there; choose another folder"):
                batch(nets)

    assert batch(nets, progress=start_another).exit_code == 0


def test_failures_are_done_again_where_that_is_wanted(nets: pathlib.Path) -> None:
    (nets / "abort.onnx").write_text("abort")
    assert batch(nets).exit_code == 5
    assert (batch(nets).kept, batch(nets).exit_code) == (5, 5)
    again = batch(nets, retry=True)
    assert (again.kept, again.exit_code) == (4, 5)


def test_it_stops_after_as_many_failures_as_are_allowed(nets: pathlib.Path) -> None:
    for n in range(6):
        (nets / f"abort{n}.onnx").write_text("abort " + "x" * 100)
    found = dfmpc_onnx.batch(nets, nets.parent / "run", workers=1, max_failures=2)
    assert (found.counts["failed"], found.exit_code) == (2, 5)
    assert found.left == 10 - len(found.rows)
    assert found.notes[0] == f"stopped after 2 failures; {found.left} jobs are left"
    assert batch(nets).kept == len(found.rows)


def test_a_result_of_an_earlier_run_does_not_pass_for_that_of_a_failure(nets: pathlib.Path) -> None:
    run = nets.parent / "run"
    batch(nets, report=True)
    (run / "models" / "a.onnx.0123456789ab.data").write_text("its weights")
    (nets / "a.onnx").write_text("abort")
    assert codes(batch(nets, report=True))["a"] == "killed"
    assert not list(run.rglob("a.*"))
    assert len(list(run.rglob("b.*"))) == 2


def test_gates_are_exit_code_1_and_need_no_new_run(nets: pathlib.Path) -> None:
    assert batch(nets, min_agreement=80).exit_code == 0
    found = batch(nets, min_agreement=95)
    assert (found.kept, found.exit_code, found.counts["below"]) == (4, 1, 4)
    assert found.rows[0].reason == "min-agreement: 90 is below 95"  # generated inputs: where the interval begins
    assert {row.status for row in read_rows(nets.parent / "run").values()} == {"below"}
    assert batch(nets, recipe="int8", min_sqnr=25).exit_code == 1
    assert batch(nets).exit_code == 0


def test_each_job_may_have_a_report_that_the_page_links(nets: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = (*given_options.option_names(), "report")
    monkeypatch.setattr(given_options, "option_names", lambda: names)
    (nets / "zoo.csv").write_text("path,report\na.onnx,yes\nb.onnx,no\n")
    found = dfmpc_onnx.batch(nets / "zoo.csv", nets.parent / "run")
    assert [row.report for row in found.rows] == ["reports/a.html", ""]
    assert list(held(nets.parent / "run" / "reports")) == ["a.html"]
    assert '<a href="reports/a.html">report</a>' in (nets.parent / "run" / "index.html").read_text()


def test_a_report_is_added_where_it_is_wanted_and_kept_where_it_is_not(nets: pathlib.Path) -> None:
    assert batch(nets, report=False).kept == 0
    assert (batch(nets, report=True).kept, batch(nets, report=True).kept) == (0, 4)
    assert (batch(nets).kept, {row.report for row in batch(nets).rows if row.name == "a"}) == (4, {"reports/a.html"})
    (nets.parent / "run" / "reports" / "a.html").unlink()
    assert (batch(nets).kept, batch(nets, report=True).kept) == (4, 3)


def test_a_combination_that_is_refused_is_a_row_and_the_others_run(nets: pathlib.Path) -> None:
    sweep = ["recipe=int8,mixed", "max-size=2MB"]
    found = batch(nets, sweep=sweep, max_failures=1)
    assert (found.counts, found.exit_code) == ({"ok": 4, "below": 0, "refused": 4, "failed": 0}, 5)
    assert (found.kept, batch(nets, sweep=sweep).kept) == (0, 8)
    assert codes(found)["a.recipe=int8.max-size=2MB"] == "option"
    assert "a.recipe=int8.max-size=2MB" in (nets.parent / "run" / "results.csv").read_text()


def test_shards_together_are_the_whole(nets: pathlib.Path) -> None:
    batch(nets, "whole", sweep={"seed": [0, 1]})
    parts = [batch(nets, "parts", sweep={"seed": [0, 1]}, shard=f"{n}/3") for n in (1, 2, 3)]
    assert [len(part.rows) for part in parts] == [3, 3, 2]
    assert made(nets.parent / "whole") == made(nets.parent / "parts")
    tables = [(nets.parent / run / "results.csv").read_text().splitlines() for run in ("whole", "parts")]
    assert [len(table) for table in tables] == [9, 9]


def test_a_full_disk_ends_in_one_line_and_what_is_done_stays_done(nets: pathlib.Path) -> None:
    (nets / "z.onnx").write_text("full")
    with pytest.raises(OptionError, match=r"run: its disk is full \(z\); make room, then run the same command again"):
        dfmpc_onnx.batch(nets, nets.parent / "run", workers=1)
    table = (nets.parent / "run" / "results.csv").read_text().splitlines()
    assert len(table) == 1 + len(read_rows(nets.parent / "run"))
    (nets / "z.onnx").write_text("good")
    assert "z" not in read_rows(nets.parent / "run")
    assert batch(nets).exit_code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers 0: not understood; give 1 or more"),
        ({"max_failures": 0}, "max-failures 0: not understood"),
        ({"min_agreement": 101.0}, "min-agreement 101.0: not understood; give per cent, from 0 to 100"),
        ({"min_agreement": float("nan")}, "min-agreement nan: not understood"),
        ({"recipee": "int8"}, "'recipee': is no option of quantize (did you mean recipe?)"),
        ({"images": graphs.np.zeros(3)}, "images: of type ndarray; give a text, a number or a path"),
        ({"seed": "x"}, "seed: of type str; give a whole number"),
        ({"output": ""}, "output: is empty; give a path"),
        ({"sources": [3]}, "sources: of type int or empty; give paths of models or manifests"),
    ],
)
def test_a_mistake_is_named_before_anything_is_done(nets: pathlib.Path, options: dict, message: str) -> None:
    with pytest.raises(OptionError) as error:
        dfmpc_onnx.batch(**{"sources": nets, "output": nets.parent / "run", **options})
    assert message in str(error.value)
    assert not (nets.parent / "run").exists()


# Ended by signals.

COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which whoever runs the tests may ignore
from dfmpc_onnx.cli import main
from dfmpc_onnx.jobs import processes
processes.PROGRAM = tuple(sys.argv[3:])
sys.argv[:] = ["dfmpc-onnx", "batch", sys.argv[1], "-o", sys.argv[2]]
main()
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to catch")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_whoever_ends_a_batch_ends_its_jobs_and_finds_what_is_done(
    nets: pathlib.Path, number: int, status: int
) -> None:
    (nets / "long.onnx").write_text("hang")
    run = nets.parent / "run"
    begun, done = run / "models" / "long.begun", run / "results.jsonl"
    command = [sys.executable, "-c", COMMAND, str(nets / "[al]*.onnx"), str(run), *STUB]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        while not (begun.exists() and done.read_bytes()) and process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (status, "interrupted: 1 of 2 done; the same command goes on\n")
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text()), 0)
    assert list(read_rows(run)) == ["a"]
    assert [line["name"] for line in csv.DictReader(io.StringIO((run / "results.csv").read_text()))] == ["a"]
    assert '<a href="models/a.onnx">' in (run / "index.html").read_text()


# Killed by signal 9.

RUN = """
import sys
import dfmpc_onnx
from dfmpc_onnx.jobs import processes
if sys.argv[3:]:
    processes.PROGRAM = tuple(sys.argv[3:])
dfmpc_onnx.batch(sys.argv[1], sys.argv[2], recipe="int8", preprocess="unit", workers=2)
"""


def killed(nets: pathlib.Path, run: pathlib.Path, seconds: float, *program: str) -> None:
    """A batch in a process of its own that is killed after so many seconds, if it runs as long."""
    command = [sys.executable, "-c", RUN, str(nets), str(run), *program]
    with subprocess.Popen(command, env=environment()) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()


def test_killed_again_and_again_it_comes_to_the_same_rows_and_bytes(nets: pathlib.Path) -> None:
    batch(nets, "undisturbed", recipe="int8", preprocess="unit", sweep=())
    moments, run = random.Random(21), nets.parent / "killed"
    for _ in range(3):
        killed(nets, run, moments.uniform(0.5, 1.5), *STUB)
    batch(nets, "killed", recipe="int8", preprocess="unit")
    assert made(run) == made(nets.parent / "undisturbed")


def test_real_models_killed_and_resumed_give_the_same_rows_and_bytes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the real worker
    nets = tmp_path / "nets"
    nets.mkdir()
    for name, model in {"chain": graphs.chain(), "folded": graphs.folded()}.items():
        onnx.save(model, nets / f"{name}.onnx")
    (nets / "hostile.onnx").write_bytes(b"\x08\x07" * 100)
    batch(nets, "undisturbed", recipe="int8", preprocess="unit")
    moments, run = random.Random(9), tmp_path / "killed"
    for _ in range(3):
        killed(nets, run, moments.uniform(1.0, 3.5))
    found = batch(nets, "killed", recipe="int8", preprocess="unit")
    assert found.counts == {"ok": 2, "below": 0, "refused": 1, "failed": 0}
    assert made(run) == made(tmp_path / "undisturbed")


def test_a_disk_that_takes_no_more_leaves_no_half_written_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.undo()  # the real worker
    net = graphs.Net()
    onnx.save(net.model(net.tail(net.block("x", 8), 40_000)), tmp_path / "net.onnx")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # a file may grow no further
    try:
        with pytest.raises(OptionError, match="its disk is full"):
            dfmpc_onnx.batch(tmp_path / "net.onnx", tmp_path / "run", recipe="int8", preprocess="unit")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert held(tmp_path / "run" / "models") == {}
    assert read_rows(tmp_path / "run") == {}


def test_weights_beside_a_model_count(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real worker
    onnx.save(graphs.chain(), tmp_path / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0)
    weights = (tmp_path / "net.bin").read_bytes()
    (tmp_path / "net.bin").unlink()

    def row() -> tuple[JobRow, int]:
        found = dfmpc_onnx.batch(tmp_path / "net.onnx", tmp_path / "run", recipe="int8", preprocess="unit")
        return found.rows[0], found.kept

    assert row()[0].status == "refused"
    (tmp_path / "net.bin").write_bytes(weights)
    assert row()[0].status == "ok"
    assert row()[1] == 1
