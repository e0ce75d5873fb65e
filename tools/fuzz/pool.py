"""Cases in worker processes, each under a limit of time and memory; what kills a worker is an outcome, too."""

from __future__ import annotations

import dataclasses
import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import os
import pathlib
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection

from tools.fuzz.grammars import GRAPHS, drawer
from tools.fuzz.trial import Case, Outcome, tried

SECONDS = 60.0  # of processor time for a case
PATIENCE = 10.0  # times as long by the clock: on a busy machine a process waits
MEGABYTES = 3000  # of data a worker may hold; a process with its libraries begins at about 300
# By which a process may grow in one case: for a map that is padded by 2^20 columns onnxruntime alone takes 1,270 on the
# second run of the float model, and a network is compared on several runs.
MOST_GROWTH = 2000


def work(seed: int, pipe: Connection, grammar: str = GRAPHS) -> None:
    """Run the cases whose numbers come in until None does; each is sent back as it begins, its outcome as it ends."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEGABYTES << 20, MEGABYTES << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what libraries print is not judged
        os.dup2(silence, stream)
    draw = drawer(grammar)
    while (number := pipe.recv()) is not None:
        began = time.process_time()
        case = draw(seed, number)
        pipe.send(case)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcome = tried(case)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        if grown > MOST_GROWTH:
            outcome = Outcome("defect", "memory", f"the process grew by {grown:.0f} MB")
        pipe.send(dataclasses.replace(outcome, seconds=time.process_time() - began))


@dataclasses.dataclass
class Worker:
    """A process, the pipe to it, and what it is at."""

    process: multiprocessing.process.BaseProcess
    pipe: Connection
    number: int = -1
    case: Case | None = None
    since: float = 0.0
    used: float = 0.0

    def begun(self) -> None:
        self.since, self.used = time.monotonic(), _processor_time(self.process.pid)

    def hangs(self) -> bool:
        if self.case is None:  # the process is starting, or draws the case
            return time.monotonic() - self.since > PATIENCE * 60
        used = _processor_time(self.process.pid) - self.used
        return used > SECONDS or time.monotonic() - self.since > PATIENCE * SECONDS


def _processor_time(pid: int | None) -> float:
    """Seconds that a process has computed for; those of the clock where the system does not tell."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return time.monotonic()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


Result = tuple[int, Case, Outcome]
Work = Callable[[int, Connection], None]


def results(seed: int, numbers: Sequence[int], count: int, work: Work = work) -> Iterator[Result]:
    """Every case with its number and outcome, as they end, run by `count` processes that do `work`."""
    waiting = iter(numbers)
    busy: list[Worker] = []

    def give(worker: Worker) -> None:
        number = next(waiting, None)
        worker.pipe.send(number)
        if number is not None:
            worker.number, worker.case = number, None
            worker.begun()
            busy.append(worker)

    def lost(worker: Worker, outcome: Outcome) -> Result:
        worker.process.join()
        busy.remove(worker)
        case = worker.case or Case("not made", "", b"", {}, None)
        give(_start(work, seed))
        return worker.number, case, outcome

    for _ in range(count):
        give(_start(work, seed))
    while busy:
        ready = multiprocessing.connection.wait([worker.pipe for worker in busy], timeout=1.0)
        for worker in [w for w in busy if w.pipe in ready]:
            try:
                said = worker.pipe.recv()
            except (EOFError, OSError):
                worker.process.join()
                yield lost(worker, Outcome("defect", "crash", f"the process ended with {worker.process.exitcode}"))
                continue
            if isinstance(said, Case):
                worker.case = said
                worker.begun()
                continue
            assert worker.case is not None  # a case is sent before its outcome
            busy.remove(worker)
            yield worker.number, worker.case, said
            give(worker)
        for worker in [w for w in busy if w.hangs()]:
            worker.process.kill()
            yield lost(worker, Outcome("defect", "hang", f"longer than {SECONDS:.0f} s"))


def _start(work: Work, seed: int) -> Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(seed, theirs), daemon=True)
    process.start()
    theirs.close()
    return Worker(process, ours)
