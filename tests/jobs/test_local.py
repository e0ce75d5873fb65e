"""Jobs side by side: the largest first, and never more at once than workers and memory allow."""

from __future__ import annotations

import threading

import pytest

from dfmpc_onnx.jobs import local
from dfmpc_onnx.jobs.job import Job, JobLimits, Order
from dfmpc_onnx.jobs.local import LocalEngine, need_of
from dfmpc_onnx.jobs.processes import Processes
from dfmpc_onnx.report.batch_row import JobRow


class Counted(Processes):
    """In place of processes: notes what runs at once, and waits until as many are there as can be."""

    def __init__(self, barrier: threading.Barrier) -> None:
        super().__init__()
        self.begun: list[str] = []
        self.at_once: list[frozenset[str]] = []
        self.ended = False
        self._inside: set[str] = set()
        self._guard, self._barrier = threading.Lock(), barrier

    def run(self, order: Order) -> JobRow:
        with self._guard:
            self.begun.append(order.job.name)
            self._inside.add(order.job.name)
            self.at_once.append(frozenset(self._inside))
        self._barrier.wait(10)
        with self._guard:
            self._inside.discard(order.job.name)
        return JobRow(name=order.job.name, model="")

    def end(self) -> None:
        self.ended = True


def orders(**memory: int) -> list[Order]:
    return [Order(Job(name, ""), "", limits=JobLimits(memory=need)) for name, need in memory.items()]


def test_the_largest_come_first() -> None:
    counted = Counted(threading.Barrier(1))
    rows = list(LocalEngine(1, 100, lambda: counted).run(orders(a=10, b=30, c=20)))
    assert counted.begun == [row.name for row in rows] == ["b", "c", "a"]
    assert counted.ended


def test_no_more_run_at_once_than_fit() -> None:
    counted = Counted(threading.Barrier(2))
    list(LocalEngine(4, 100, lambda: counted).run(orders(a=60, b=50, c=40, d=30)))
    assert max(map(len, counted.at_once)) == 2
    assert all({"a", "b"} - names for names in counted.at_once)


def test_a_job_that_fits_nowhere_runs_alone() -> None:
    counted = Counted(threading.Barrier(1))
    list(LocalEngine(2, 100, lambda: counted).run(orders(a=1000, b=2000)))
    assert max(map(len, counted.at_once)) == 1


def test_no_job_begins_beside_others_while_other_programs_hold_the_memory() -> None:
    counted = Counted(threading.Barrier(1))
    list(LocalEngine(2, 100, lambda: counted, free=lambda: 30).run(orders(a=50, b=40, c=40)))
    assert max(map(len, counted.at_once)) == 1


def test_what_runs_is_ended_where_nobody_wants_more_rows() -> None:
    counted = Counted(threading.Barrier(1))
    rows = LocalEngine(1, 100, lambda: counted).run(orders(a=1, b=1, c=1))
    next(rows)
    rows.close()
    assert counted.ended and len(counted.begun) < 3


def test_an_estimate_grows_with_the_model() -> None:
    limits = JobLimits()
    assert limits.need(Job("a", "", size=10**6)) < limits.need(Job("b", "", size=10**9))
    assert JobLimits(memory=5).need(Job("b", "", size=10**9)) == 5


@pytest.mark.parametrize("workers", [1, 3])
def test_every_job_has_its_row(workers: int) -> None:
    counted = Counted(threading.Barrier(1))
    rows = list(LocalEngine(workers, 10**9, lambda: counted).run(orders(**{f"j{n}": n for n in range(9)})))
    assert sorted(row.name for row in rows) == [f"j{n}" for n in range(9)]


def test_what_is_looked_at_for_a_job_does_not_grow_with_those_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each job is too large to run beside another, so those that wait are looked through whenever one has begun."""
    asked: list[Order] = []
    monkeypatch.setattr(local, "need_of", lambda order: asked.append(order) or need_of(order))
    engine = LocalEngine(2, 100, lambda: Counted(threading.Barrier(1)))
    assert len(list(engine.run(orders(**{f"j{n}": 60 for n in range(200)})))) == 200
    assert len(asked) <= 5 * 200
