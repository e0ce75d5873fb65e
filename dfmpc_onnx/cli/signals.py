"""Signals that ask a process to end, as exceptions: what it has begun is cleaned up, and it says so in one line."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

ENDING = ("SIGTERM", "SIGHUP")  # SIGINT is an exception of Python's own


class Ended(KeyboardInterrupt):
    """Somebody asked the process to end. status: as shells name it, 128 and the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.status = 128 + number


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Within the block signals are raised where the process stands; those that it was started to ignore stay ignored.

    Behind it there is nothing left to clean up, and the interpreter's own end would print where it stood.
    """
    numbers = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]
    taken = [n for n in numbers if signal.getsignal(n) is signal.SIG_DFL]
    try:
        for number in taken:
            signal.signal(number, _raise)
    except ValueError:  # another thread than the main one, which alone is asked
        taken = []
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
        if taken and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Ended(number)


def status(error: KeyboardInterrupt) -> int:
    """The exit status of a process that was asked to end."""
    return error.status if isinstance(error, Ended) else 130
