"""What is shown on standard error while a command runs: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator

from dfmpc_onnx.api.progress_bars import rich_progress, short
from dfmpc_onnx.cli.console import give_up, say
from dfmpc_onnx.pipeline.progress import ProgressReport, no_report

QUIET_SECONDS = 30.0  # between two lines where there is no terminal: who looks into a log knows that it goes on


@contextlib.contextmanager
def progress(verbosity: int, *, alone: bool = False) -> Iterator[ProgressReport]:
    """What a run shall report to, while the block runs.

    verbosity: -1 for nothing, 0 for a bar, 1 for a line a step, too. alone: nothing but one JSON object is wanted.
    """
    if verbosity > 0:
        yield _Lines(0.0)
    elif verbosity < 0 or alone:
        yield no_report
    elif not _is_terminal():
        yield _Lines(QUIET_SECONDS)
    else:
        from rich.console import Console

        class Messages(Console):
            def on_broken_pipe(self) -> None:
                give_up(2)  # rich would end the program, whose work goes on without somebody to watch

        with rich_progress(Messages(stderr=True)) as report:
            yield report


def _is_terminal() -> bool:
    from rich.console import Console

    return sys.stderr is not None and Console(stderr=True).is_terminal


class _Lines:
    """Plain lines, at most one in so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began = self._last = time.monotonic()

    def __call__(self, done: int, total: int, name: str) -> None:
        now = time.monotonic()
        if not name or now - self._last < self._seconds:
            return
        self._last = now
        took = now - self._began
        left = f", about {took / done * (total - done):.0f} s left" if done and self._seconds else ""
        before, behind = f"{done} of {total}: ", f" ({took:.0f} s{left})"
        room = shutil.get_terminal_size().columns - len(before) - len(behind) if _is_terminal() else len(name)
        say(f"{before}{short(name, room)}{behind}")
