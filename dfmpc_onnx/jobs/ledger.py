"""The rows of a batch on disk: a line of JSON each, appended and on the disk as soon as its job has ended.

A line that a crash has cut off is left out, and the next row takes its place. Each shard has a file of its own, so that
several machines may write into one folder; whoever reads takes them all together.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import msgspec

from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.jobs.job import PLACES
from dfmpc_onnx.jobs.sources import Shard
from dfmpc_onnx.model.plain_files import is_folder
from dfmpc_onnx.report.batch_row import JobRow

RESULTS = re.compile(r"results(\.\d+-of-(\d+))?\.jsonl")


def check_folder(folder: pathlib.Path, files: Sequence[str]) -> None:
    """Raise OptionError where it is a file, or a folder that is no batch's and holds what one would write over.

    files: names of what it writes beside its models and reports.
    """
    try:
        if folder.exists() and not is_folder(folder):
            raise OptionError(f"{shown(str(folder))}: is a file; give a folder for the results")
        there = {path.name for path in folder.iterdir()} if is_folder(folder) else set()
        held = [name for name in files if name in there]
        held += [place for place in PLACES if place in there and any((folder / place).iterdir())]
    except OSError:  # opening the ledger says it
        return
    if held and not any(RESULTS.fullmatch(name) for name in there):
        raise OptionError(
            f"{shown(str(folder))}: holds {held[0]} already, and no results.jsonl of a batch; choose another folder"
        )


def read_rows(folder: pathlib.Path) -> dict[str, JobRow]:
    """The last row of each job in a folder, by its name. Raises OptionError where no folder or no rows are there."""
    if not is_folder(folder):
        raise OptionError(f"{shown(str(folder))}: no such folder; give the folder of a batch")
    found = [path for path in sorted(folder.iterdir()) if RESULTS.fullmatch(path.name)]
    if not found:
        raise OptionError(f"{shown(str(folder))}: holds no results.jsonl; give the folder of a batch")
    rows: dict[str, JobRow] = {}
    for path in found:
        of_file = {row.name: row for row in _lines(path)}  # the last line counts, also where a clock was set back
        for row in of_file.values():
            before = rows.get(row.name)
            if before is None or before.ended <= row.ended:
                rows[row.name] = row
    return rows


def _lines(path: pathlib.Path) -> Iterator[JobRow]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise OptionError(f"{shown(str(path))}: cannot be read ({error.strerror})") from None
    for line in data.splitlines():
        with contextlib.suppress(msgspec.DecodeError, msgspec.ValidationError):
            yield msgspec.json.decode(line, type=JobRow)


class Ledger:
    """The file that the rows of one batch, or of one shard, go to; open to one batch at a time."""

    def __init__(self, stream: BinaryIO, path: pathlib.Path) -> None:
        self._stream, self._where = stream, shown(str(path))

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: pathlib.Path, shard: Shard) -> Iterator[Ledger]:
        """Raises OptionError where it cannot be written to, or another batch is at work on jobs of this one."""
        path = folder / f"results{shard.suffix}.jsonl"
        with contextlib.ExitStack() as stack:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                stream = stack.enter_context(path.open("a+b", buffering=0))
                _lock(stream, folder)
                _check_other_parts(folder, shard)
                _cut_torn_line(stream)
            except OSError as error:
                raise OptionError(f"{shown(str(path))}: cannot be written ({error.strerror})") from None
            yield cls(stream, path)

    def append(self, row: JobRow) -> None:
        """Add a row; it is on the disk when this returns. Raises OptionError, and adds nothing, where that is full."""
        line, end = msgspec.json.encode(row) + b"\n", self._stream.seek(0, os.SEEK_END)
        try:
            if self._stream.write(line) != len(line):
                raise OSError(28, "No space left on device")
            os.fsync(self._stream.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._stream.truncate(end)
            raise OptionError(f"{self._where}: cannot be written ({error.strerror})") from None


def _lock(stream: BinaryIO, folder: pathlib.Path, *, alone: bool = True) -> None:
    """Hold the file as long as it is open, alone or with others that do not write to it; the system lets it go with the
    process, however that ends."""
    try:
        import fcntl
    except ImportError:  # Windows: nobody is kept out
        return
    try:
        fcntl.flock(stream.fileno(), (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OptionError(f"{shown(str(folder))}: another batch is at work there; choose another folder") from None
    except OSError:  # storage that several machines share may have no locks: nobody is kept out
        return


def _check_other_parts(folder: pathlib.Path, shard: Shard) -> None:
    """Raise OptionError where a batch is at work that divides the jobs otherwise, so that both would do the same."""
    for path in sorted(folder.iterdir()):
        found = RESULTS.fullmatch(path.name)
        if found is not None and int(found[2] or 1) != shard.count:
            with path.open("rb") as stream:
                _lock(stream, folder, alone=False)


def _cut_torn_line(stream: BinaryIO) -> None:
    """Take away what stands behind the last line break: a line that a crash has cut off."""
    end = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    whole = stream.read().rfind(b"\n") + 1
    if whole < end:
        stream.truncate(whole)
