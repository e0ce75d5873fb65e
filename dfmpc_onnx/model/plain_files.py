"""Whether a path names a file that can be read to its end: a pipe may never come to one, nor a device."""

from __future__ import annotations

import os
import pathlib
import stat


def why_unreadable(path: str | os.PathLike[str], most: int | None = None) -> str | None:
    """Why a path is no plain file, in words that follow its name; None where it is one.

    most: bytes that it may hold. Nothing is opened, which could wait for ever.
    """
    try:
        found = pathlib.Path(path).stat()
    except FileNotFoundError:
        return "no such file"
    except ValueError:  # a name with NUL in it
        return "no file has such a name"
    except OSError as error:  # a name that is too long, links in a circle
        return f"cannot be read ({error.strerror})"
    if stat.S_ISDIR(found.st_mode):
        return "is a folder"
    if not stat.S_ISREG(found.st_mode):
        return "is a device or a pipe"
    if most is not None and found.st_size > most:
        return f"is larger than {most // 2**20} MiB"
    return None


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a folder stands at a path; `Path.is_dir` raises where a name is too long."""
    return why_unreadable(path) == "is a folder"


def is_utf8(path: str | os.PathLike[str]) -> bool:
    """Whether a path can be handed to onnxruntime, which takes text in UTF-8; file systems take any bytes."""
    try:
        os.fspath(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
