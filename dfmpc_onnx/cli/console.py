"""Progress on standard error, and the width of standard output."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

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


def standard_output() -> Console:
    """Standard output; a line is as long as it has to be where that is no terminal, for files and grep."""
    console = Console()
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(width=100_000)
