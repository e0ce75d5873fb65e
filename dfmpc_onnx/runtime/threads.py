"""How many threads a call may take, and the one place that sets the threads of BLAS.

The number that a call asks for is held in a context variable: each thread and each asyncio task has its own, so calls
that run side by side do not see each other's. A thread that is started within a call does not inherit it.

onnxruntime takes its number session by session. The pools of BLAS belong to the process, so there one rule holds for
all: as long as somebody asks for a limit, the smallest of those asked for is set; when the last one leaves, the pools
get back the sizes that they had before the first. Who asks for nothing computes within the limits of others, which
changes how sums are rounded as another seed does. Calls that all ask for one thread get the bytes that each gets alone.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import threadpoolctl

from dfmpc_onnx.errors import OptionError

P = ParamSpec("P")
R = TypeVar("R")
# More than the processors gain nothing, and onnxruntime waits for ever for a thread that the system does not start.
MOST_THREADS = max(64, os.cpu_count() or 1)

_ASKED: contextvars.ContextVar[int | None] = contextvars.ContextVar("dfmpc_onnx.threads", default=None)


def check_threads(threads: int | None) -> int | None:
    """The number as given; raises OptionError where it is no number of threads."""
    if threads is None or (isinstance(threads, int) and not isinstance(threads, bool) and 0 <= threads <= MOST_THREADS):
        return threads
    raise OptionError(
        f"threads '{threads}': not understood; give 1 to {MOST_THREADS}, or 0 for as many as the machine has"
    )


def thread_count() -> int | None:
    """The threads that the call around asks for; None for as many as the machine has."""
    return _ASKED.get() or None


@contextlib.contextmanager
def limit_threads(threads: int | None) -> Iterator[None]:
    """Within the block sessions and BLAS take so many threads; 0: as many as the machine has; None: as around it."""
    threads = check_threads(threads)
    if threads is None:
        yield
        return
    token = _ASKED.set(threads)
    try:
        with limit_blas(threads) if threads else contextlib.nullcontext():
            yield
    finally:
        _ASKED.reset(token)


def takes_threads(call: Callable[P, R]) -> Callable[P, R]:
    """A function whose keyword `threads` holds for all that it does, as `limit_threads` says."""

    @functools.wraps(call)
    def within(*args: P.args, **kwargs: P.kwargs) -> R:
        threads: Any = kwargs.get("threads")
        with limit_threads(threads):
            return call(*args, **kwargs)

    return within


class _Pools:
    """The pools of BLAS, and the limits that are asked for at present."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._limits: list[int] = []
        self._restore: Callable[[], None] = lambda: None
        self._controller: Any = None

    def enter(self, limit: int) -> None:
        with self._lock:
            if not self._limits:
                self._controller = threadpoolctl.ThreadpoolController()
                _take_control()
                self._restore = self._controller.limit(limits=limit, user_api="blas").restore_original_limits
            self._limits.append(limit)
            self._set()

    def leave(self, limit: int) -> None:
        with self._lock:
            self._limits.remove(limit)
            if self._limits:
                self._set()
            else:
                _take_control()
                self._restore()
                _take_control()  # and leave it to whoever comes next

    def _set(self) -> None:
        _take_control()
        self._controller.limit(limits=min(self._limits), user_api="blas")


def _take_control() -> None:
    """Let this thread set the threads of OpenBLAS: threadpoolctl (3.7 and newer) ignores all threads but the first."""
    clear = getattr(getattr(threadpoolctl, "OpenBLASController", None), "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)


_POOLS = _Pools()


@contextlib.contextmanager
def limit_blas(limit: int) -> Iterator[None]:
    """Within the block BLAS takes at most so many threads, in the whole process; the smallest of such limits holds."""
    _POOLS.enter(limit)
    try:
        yield
    finally:
        _POOLS.leave(limit)
