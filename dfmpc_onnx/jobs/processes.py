"""One process a job, under limits, and a row whatever becomes of it.

Why a process that is started for each job, and no pool: the pools at hand (loky, `concurrent.futures`) keep their
processes. One that is killed there breaks the executor, and with it all jobs that run beside; none of them can end a
single job that takes too long; and a process that lives on carries the memory, the threads and whatever a hostile file
has left behind into the next job. A fresh interpreter costs about a second, has the same state for every job, and
nothing but its own job can be lost with it.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import IO, Any

import msgspec

from dfmpc_onnx.errors import printable
from dfmpc_onnx.jobs.job import Order
from dfmpc_onnx.jobs.worker import DISK_FULL, LONGEST_REASON, NO_MEMORY, megabytes
from dfmpc_onnx.memory import peak_memory
from dfmpc_onnx.model.staging import staging_folder
from dfmpc_onnx.report.batch_row import STAGES, JobRow, moment

# -P: a file of the user's that is called as a module of Python's must not stand in for it.
PROGRAM = (sys.executable, "-P", "-m", "dfmpc_onnx.jobs.worker")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
SHORTEST_LOOK, LONGEST_LOOK = 0.05, 1.0  # seconds between two looks at what a process takes
TAIL = 2000  # bytes of what a process printed before it died
SAYS_NO_MEMORY = ("bad_alloc", "MemoryError", "Cannot allocate memory")


class Processes:
    """The processes of jobs that run at present. program: what each is started with."""

    def __init__(self, program: Sequence[str] | None = None) -> None:
        self._program = program or PROGRAM
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False

    def run(self, order: Order) -> JobRow:
        """Do a job in a process of its own, and say what became of it. Several threads may call it."""
        began = time.monotonic()
        order = msgspec.structs.replace(order, parent=os.getpid())
        try:
            with tempfile.TemporaryFile() as said:
                columns = self._run(order, said)
        except OSError as error:  # where temporary files go is full, or not there
            columns = _failed("died", f"its process cannot be started ({error.strerror})")
        if columns["status"] not in ("ok", "below"):
            _clean(order)
        row = JobRow(name=order.job.name, model=order.job.model, **columns)
        return msgspec.structs.replace(
            row,
            seconds=round(time.monotonic() - began, 3),
            options=msgspec.json.encode(order.job.options, order="sorted").decode(),
            output=order.output if row.written else "",
            report=order.report if row.written and order.report and pathlib.Path(order.report).is_file() else "",
            ended=moment(),
        )

    def end(self) -> None:
        """Kill what runs; what is still to be started is not."""
        with self._lock:
            self._ended = True
            for process in self._running:
                process.kill()

    def _run(self, order: Order, said: IO[bytes]) -> dict[str, Any]:
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(order.limits.threads))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # this very package, wherever it lies
        with self._lock:
            if self._ended:
                return _failed("interrupted", "the batch was ended")
            try:
                process = subprocess.Popen(
                    self._program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, env=environment
                )
            except OSError as error:  # such as too many processes
                return _failed("died", f"its process cannot be started ({error.strerror})")
            self._running.add(process)
        try:
            with process, contextlib.suppress(BrokenPipeError):
                return self._wait(process, order, said)
        finally:
            process.kill()
            with self._lock:
                self._running.discard(process)
        return _failed("died", "its process did not begin")

    def _wait(self, process: subprocess.Popen[bytes], order: Order, said: IO[bytes]) -> dict[str, Any]:
        """The columns of its row. What is killed cannot say what memory it took, so it is looked at before."""
        given: bytes | None = msgspec.json.encode(order)
        left, pause, peak = order.limits.seconds, SHORTEST_LOOK, None
        while True:
            wait = pause if left is None else min(pause, left)
            try:
                lines, _ = process.communicate(given, timeout=wait)
                return _stages(lines, _death(process.returncode, said) | megabytes(peak))
            except subprocess.TimeoutExpired:
                given, peak = None, peak_memory(process.pid) or peak
            left = None if left is None else left - wait
            if left is not None and left <= 0:
                break
            pause = min(2 * pause, LONGEST_LOOK)
        process.kill()
        lines, _ = process.communicate()
        why = f"took longer than the limit of {order.limits.seconds:g} s"
        return _stages(lines, _failed("time-limit", why) | megabytes(peak))


def _stages(lines: bytes, otherwise: dict[str, Any]) -> dict[str, Any]:
    """The columns of a row from what a process wrote; those of `otherwise` where it did not come to its end."""
    begun, columns = [], otherwise
    for line in lines.splitlines():
        try:
            found = msgspec.json.decode(line)
        except msgspec.DecodeError:  # cut off as the process died
            continue
        if "stage" in found:
            begun.append(found["stage"])
        columns = found.get("row", columns)
    done = columns["status"] == "ok"
    stages = {stage: "ok" for stage in begun if stage in STAGES}
    if begun and not done:
        stages[begun[-1]] = "failed"
    return columns | stages


def _failed(code: str, reason: str) -> dict[str, Any]:
    return {"status": "failed", "code": code, "reason": reason}


def _death(status: int, said: IO[bytes]) -> dict[str, Any]:
    """What to say of a process that ended without a row. status: negative for the signal that ended it."""
    size = said.seek(0, os.SEEK_END)
    said.seek(max(size - TAIL, 0))
    text = said.read().decode("utf-8", "replace").strip()
    last = printable(text.splitlines()[-1])[:LONGEST_REASON] if text else ""
    if any(word in text for word in SAYS_NO_MEMORY):
        return _failed(NO_MEMORY, "not enough memory within the limit")
    how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
    return _failed("killed" if status < 0 else "died", f"its process {how}{f': {last}' if last else ''}")


def _clean(order: Order) -> None:
    """Remove what a process that was killed has left of its output."""
    for path in map(pathlib.Path, filter(None, (order.output, order.report))):
        with contextlib.suppress(OSError), staging_folder(path):
            pass


def is_disk_full(row: JobRow) -> bool:
    """Whether a job could not write its file because there is no room for it."""
    return row.code == DISK_FULL
