"""The standard streams: progress and messages on standard error, the width of standard output, disks that are full."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from dfmpc_onnx.errors import printable


@contextlib.contextmanager
def progress(quiet: bool) -> Iterator[Callable[[str], None]]:
    """A line on standard error with the pass or layer at work, while the block runs and where that is a terminal."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda name: None
        return
    columns = (SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.completed} {task.description}", markup=False))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def tell(name: str) -> None:
            bar.update(task, description=printable(name)[-60:], advance=1)

        yield tell


def say(line: str) -> None:
    """A line on standard error; where nobody can be told, as on a full disk, nothing is lost but the line."""
    try:
        click.echo(line, err=True)
    except OSError:
        give_up(2)


def give_up(handle: int) -> None:
    """Let what is still to be written to a standard stream go nowhere: the interpreter would fail again at its end."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, handle)
        os.close(nowhere)


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


class _Output(Console):
    """A console that leaves it to the program what to do where its reader has gone."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def standard_output() -> Console:
    """Standard output; a line is as long as it has to be where that is no terminal, for files and grep."""
    console = _Output()
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return _Output(width=100_000)
