"""Bars for the `progress` of quantize() and plan(): of rich, which is there, and of tqdm, for notebooks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dfmpc_onnx.errors import OptionError, printable
from dfmpc_onnx.pipeline.progress import ProgressReport

if TYPE_CHECKING:
    from rich.console import Console

LEAST_OF_NAME = 10
LONGEST_NAME = 50  # characters, so that a bar fits into a line of 80 beside its figures


@contextlib.contextmanager
def rich_progress(console: Console | None = None) -> Iterator[ProgressReport]:
    """A bar of rich with the share that is done, the time left and what is at work, while the block runs.

    console: where to draw; standard error if not given. The line is taken away at the end.
    """
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        BarColumn(bar_width=16),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.description}", markup=False),
    )
    with Bar(*columns, console=console or Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, name: bar.update(task, completed=done, total=total, description=short(name))


@contextlib.contextmanager
def tqdm_progress(**options: Any) -> Iterator[ProgressReport]:
    """A bar of tqdm, which in a notebook is a widget, while the block runs.

    options: as tqdm takes them. Raises OptionError where tqdm is not installed.
    """
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise OptionError("progress: tqdm is not installed; pip install tqdm, or take rich_progress") from None
    with tqdm(**{"total": 0, "leave": False, **options}) as bar:

        def report(done: int, total: int, name: str) -> None:
            bar.total, bar.n = total, done
            bar.set_description_str(short(name), refresh=False)
            bar.refresh()

        yield report


def short(name: str, width: int = LONGEST_NAME) -> str:
    """What is at work, in so many characters: the pass is whole, and a layer's name keeps its end."""
    name = printable(name)
    if len(name) <= width:
        return name
    step, sign, layer = name.partition(": ")
    room = max(width - len(step) - len(sign) - 2, LEAST_OF_NAME)
    return f"{step}{sign}..{layer[-room:]}" if sign else f"{name[: width - 2]}.."
