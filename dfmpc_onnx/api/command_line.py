"""The command line that a call comes from, for reports that say how they were made."""

from __future__ import annotations

import contextlib
import contextvars
import shlex
from collections.abc import Iterator, Sequence

PROGRAM_NAME = "dfmpc-onnx"
_TYPED: contextvars.ContextVar[str] = contextvars.ContextVar("typed", default="")


@contextlib.contextmanager
def typed(words: Sequence[str]) -> Iterator[None]:
    """Within the block the command line is known. words: what stands behind the name of the program."""
    token = _TYPED.set(shlex.join([PROGRAM_NAME, *words]))
    try:
        yield
    finally:
        _TYPED.reset(token)


def command_line() -> str:
    """As a shell takes it; "" where a script calls."""
    return _TYPED.get()
