"""The engine of one machine: so many jobs at once as there are workers and memory, the largest first."""

from __future__ import annotations

import bisect
import concurrent.futures
from collections.abc import Callable, Generator, Sequence
from typing import Protocol

from dfmpc_onnx.jobs.job import Order
from dfmpc_onnx.jobs.processes import Processes
from dfmpc_onnx.report.batch_row import JobRow


class JobEngine(Protocol):
    """Runs jobs somewhere; rows come in the order in which jobs end. Who closes the iterator ends what still runs."""

    def run(self, orders: Sequence[Order]) -> Generator[JobRow, None, None]: ...


def need_of(order: Order) -> int:
    """Bytes of memory to keep free for a job."""
    return order.limits.need(order.job)


class LocalEngine:
    """workers: jobs at once, at most. memory: bytes for all of them together; a job that needs more runs alone. free:
    bytes that are free now, asked before a job begins beside others, since other programs take memory, too."""

    def __init__(
        self,
        workers: int,
        memory: int,
        processes: Callable[[], Processes] = Processes,
        free: Callable[[], int] | None = None,
    ) -> None:
        self._workers, self._memory, self._processes = workers, memory, processes
        self._free = free or (lambda: memory)

    def run(self, orders: Sequence[Order]) -> Generator[JobRow, None, None]:
        processes = self._processes()
        waiting = sorted(orders, key=need_of, reverse=True)
        needs = [-need_of(order) for order in waiting]  # rising, as bisect wants them
        running: dict[concurrent.futures.Future[JobRow], Order] = {}
        with concurrent.futures.ThreadPoolExecutor(self._workers) as pool:
            try:
                while waiting or running:
                    while (nth := self._next(needs, list(running.values()))) < len(waiting):
                        order = waiting.pop(nth)
                        del needs[nth]
                        running[pool.submit(processes.run, order)] = order
                    ended, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                    for future in ended:
                        del running[future]
                        yield future.result()
            finally:
                processes.end()

    def _next(self, needs: Sequence[int], running: Sequence[Order]) -> int:
        """Which of the jobs that wait is next: the largest that fits beside those that run; the first where none runs,
        however large it is. Their number where none is. needs: of those that wait, negative, the largest first."""
        if len(running) >= self._workers:
            return len(needs)
        if not running:
            return 0
        room = min(self._memory - sum(map(need_of, running)), self._free())
        return bisect.bisect_left(needs, -room)
