"""The standard streams: messages on standard error, the width of standard output, readers that left, full disks."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import textwrap
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from dfmpc_onnx.errors import what_and_tip

if TYPE_CHECKING:  # rich takes a third of the time that --help may take
    from rich.console import Console

COLOURS = {"error": "red", "defect": "red", "failed": "red", "warning": "yellow", "tip": "cyan"}


def say(line: str) -> None:
    """A line on standard error; where it cannot be written, as on a full disk, the run goes on without it.

    The word in front of its colon, such as ``error``, is coloured on a terminal that wants colours.
    """
    line = _for_terminal(line)
    kind, sign, rest = line.partition(":")
    if sign and kind in COLOURS and "NO_COLOR" not in os.environ:
        line = click.style(f"{kind}:", fg=COLOURS[kind], bold=True) + rest
    try:
        click.echo(line, err=True)
    except OSError:
        give_up(2)


def _for_terminal(line: str) -> str:
    """A message in lines of the terminal's width, broken between words, where standard error is one."""
    if "\n" in line or sys.stderr is None or not sys.stderr.isatty():
        return line
    return textwrap.fill(
        line, shutil.get_terminal_size().columns, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
    )


def say_error(message: str) -> None:
    """What is wrong, and in a line of its own what to do about it."""
    what, tip = what_and_tip(message)
    say(f"error: {what}")
    if tip:
        say(f"tip: {tip}")


def give_up(handle: int) -> None:
    """Let what is still to be written to a standard stream go nowhere: the interpreter would fail again at its end."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, handle)
        os.close(nowhere)


@contextlib.contextmanager
def reader_may_leave() -> Iterator[None]:
    """Within the block the reader of standard output may go away: what comes behind it decides the exit status."""
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        give_up(1)


def prepare_streams() -> None:
    """Make the standard streams safe to write to.

    A stream that the caller has closed leaves its number to the next file that is opened, such as a model, and what
    onnxruntime prints would go there.
    """
    for handle in range(3):
        try:
            os.fstat(handle)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name may hold what the terminal's encoding does not
            stream.reconfigure(errors="backslashreplace")


def silence_warnings() -> None:
    """Keep what numpy and Pillow warn of off standard error, for a process that is this command line and no more.

    What the user asks of Python itself (``-W``) stays.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def standard_output(*, error: bool = False) -> Console:
    """Standard output, or standard error where that carries a file; a line is as long as it has to be where that is
    no terminal, for files and grep. It leaves it to the program what to do where its reader has gone."""
    from rich.console import Console

    class Output(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    console = Output(stderr=error)
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Output(width=100_000, stderr=error)
