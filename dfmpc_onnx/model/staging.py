"""Folders in which a file is made before it takes its name, and what earlier runs left beside it.

A run that is killed cannot clean up behind itself; the next one of the same output does. It must not take away what
another run, still alive, is writing: each holds a lock on its folder, which the system lets go with the process.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator

SUFFIX = ".writing"
DIGITS = 12  # of the digest in the name of a data file


@contextlib.contextmanager
def staging_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder beside an output for the time of the block; those that killed runs left are removed first."""
    prefix = f".{path.name[:40]}."
    for left in path.parent.iterdir():
        if left.name.startswith(prefix) and left.name.endswith(SUFFIX) and not left.is_symlink():
            with _locked(left, wait=False) as mine:
                if mine:
                    shutil.rmtree(left, ignore_errors=True)
    with contextlib.ExitStack() as stack:
        while True:  # another run may take a folder away before it is locked
            made = tempfile.TemporaryDirectory(SUFFIX, prefix, path.parent, ignore_cleanup_errors=True)
            folder = pathlib.Path(stack.enter_context(made))
            stack.enter_context(_locked(folder, wait=True))
            if folder.is_dir():
                break
        yield folder


@contextlib.contextmanager
def publishing(folder: pathlib.Path) -> Iterator[None]:
    """While files take their names in a folder, no other run's do."""
    with _locked(folder, wait=True):
        yield


@contextlib.contextmanager
def _locked(folder: pathlib.Path, wait: bool) -> Iterator[bool]:
    """Hold a folder's lock within the block; whether it is held. Where the system has none, nobody is waited for."""
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        except OSError:
            held = False
        yield held
    finally:
        os.close(handle)


def data_name(path: pathlib.Path, digest: str) -> str:
    """The name of the file that holds an output's weights, by their digest."""
    return f"{path.name}.{digest[:DIGITS]}.data"


def remove_orphans(path: pathlib.Path, kept: Iterable[str]) -> None:
    """Remove data files that earlier runs made for an output and that no model in its folder names any more.

    kept: names of those that the output itself needs.
    """
    pattern = re.compile(re.escape(path.name) + rf"\.[0-9a-f]{{{DIGITS}}}\.data")
    wanted = set(kept)
    found = list(path.parent.iterdir())
    orphans = [file for file in found if pattern.fullmatch(file.name) and file.name not in wanted]
    if not orphans:
        return
    others = [file for file in found if file.suffix != ".data" and file.name != path.name and file.is_file()]
    for orphan in orphans:
        if not any(_names(other, orphan.name) for other in others):  # a copy of the model may still need it
            orphan.unlink(missing_ok=True)


def _names(model: pathlib.Path, name: str) -> bool:
    """Whether a file holds the name of another; True where it cannot be read, so that nothing is lost."""
    try:
        with model.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(os.fsencode(name)) >= 0
    except ValueError:  # an empty file
        return False
    except OSError:
        return True
