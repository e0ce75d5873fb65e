"""Arrays read from an .npz that anybody may have written: sizes are judged before anything is read.

numpy's own reader raises what Python's zip, tokenizer and parser do, warns on standard error, and reads what a small
file inflates to before its size is compared with anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.errors import DfmpcError, OptionError
from dfmpc_onnx.memory import free_memory

MAGIC = b"\x93NUMPY"
LONGEST_HEADER = 10_000  # bytes, as in numpy
STATED_TYPE = re.compile(r"'descr': *'([<>|=]?[biufcmMSUV]\d{0,9}(?:\[\w+\])?)'")
STATED_ORDER = re.compile(r"'fortran_order': *(True|False)")
STATED_SHAPE = re.compile(r"'shape': *\(([\dL, ]*)\)")
ENCRYPTED = 1  # a bit of a member's flags


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array of an .npz as its header states it. rows: that many along the first axis at a time, in order."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    rows: Callable[[int], Iterator[npt.NDArray[np.generic]]]


def read_arrays(path: str, where: str, names: Sequence[str] = ("x", "y")) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of these names of an .npz, as far as it has them. Raises OptionError; nothing is unpickled."""
    with _errors_named(where), zipfile.ZipFile(path) as archive:
        found: dict[str, npt.NDArray[np.generic]] = {}
        for name in names:
            info = _member(archive, name, where)
            if info is not None:
                with archive.open(info) as stream:
                    found[name] = _read_array(stream, info.file_size, where)
        return found


def stored_array(path: str, where: str, name: str) -> StoredArray | None:
    """An array of an .npz that is read row by row, so that its size does not matter; None where there is none.

    Raises OptionError, as the iterators of rows do.
    """
    with _errors_named(where), zipfile.ZipFile(path) as archive:
        info = _member(archive, name, where)
        if info is None:
            return None
        with archive.open(info) as stream:
            head = _header(stream, info.file_size)
            _check_size(head, info.file_size, math.prod(head.shape[1:]), where)

    def rows(count: int) -> Iterator[npt.NDArray[np.generic]]:
        if head.by_columns or not head.shape:
            whole = read_arrays(path, where, [name])[name]
            yield from (whole[start : start + count] for start in range(0, len(whole), count))
            return
        row = math.prod(head.shape[1:]) * head.dtype.itemsize
        if row * count > free_memory():
            raise _too_large(where)
        with _errors_named(where), zipfile.ZipFile(path) as archive, archive.open(info) as stream:
            stream.read(head.length)
            for start in range(0, head.shape[0], count):
                size = min(count, head.shape[0] - start)
                yield np.frombuffer(stream.read(size * row), head.dtype).reshape(size, *head.shape[1:])

    return StoredArray(head.shape, head.dtype, rows)


@contextlib.contextmanager
def _errors_named(where: str) -> Iterator[None]:
    """What goes wrong in reading within the block, as one OptionError."""
    try:
        yield
    except MemoryError:
        raise _too_large(where) from None
    except DfmpcError:  # of this module, and of what is done with rows while the file is open
        raise
    # zlib, bz2 and lzma have errors of their own; zipfile adds RuntimeError and NotImplementedError.
    except Exception:
        raise OptionError(
            f"{where}: not an .npz of plain arrays (x, and optionally y); give one, or a folder of pictures"
        ) from None


def _member(archive: zipfile.ZipFile, name: str, where: str) -> zipfile.ZipInfo | None:
    members = {member.removesuffix(".npy"): member for member in archive.namelist()}
    if name not in members:
        return None
    info = archive.getinfo(members[name])
    if info.flag_bits & ENCRYPTED:
        raise OptionError(f"{where}: is encrypted; save it without a password")
    return info


@dataclasses.dataclass(frozen=True)
class _Header:
    """length: bytes in front of the values. by_columns: whether the first axis varies fastest."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    by_columns: bool
    length: int


def _header(stream: IO[bytes], size: int) -> _Header:
    """What an array says of itself; raises ValueError or TypeError where it is no plain one."""
    start = stream.read(8)
    if start[:6] != MAGIC or start[6:7] not in (b"\x01", b"\x02", b"\x03"):
        raise ValueError("no array")
    length = stream.read(2 if start[6] == 1 else 4)
    header = int.from_bytes(length, "little")
    if header > LONGEST_HEADER:
        raise ValueError("a header that is too long")
    text = stream.read(header).decode("utf-8")
    kind, order, dims = (pattern.search(text) for pattern in (STATED_TYPE, STATED_ORDER, STATED_SHAPE))
    if kind is None or order is None or dims is None:
        raise ValueError("no plain array")
    shape = tuple(int(word.rstrip("L")) for word in dims[1].replace(" ", "").split(",") if word)
    return _Header(shape, np.dtype(kind[1]), order[1] == "True", len(start) + len(length) + header)


def _check_size(head: _Header, size: int, at_once: int, where: str) -> None:
    """at_once: values that are to be held. Raises OptionError, or ValueError where the file holds others."""
    claimed = math.prod(head.shape) * head.dtype.itemsize
    fits = claimed == size - head.length
    if (at_once * head.dtype.itemsize if fits else claimed) > free_memory() or max(head.shape, default=0) >= 2**63:
        raise _too_large(where)
    if not fits:
        raise ValueError("fewer or more values than its shape wants")


def _read_array(stream: IO[bytes], size: int, where: str) -> npt.NDArray[np.generic]:
    """One array; raises ValueError or TypeError where it is no plain one, OptionError where it is too large."""
    head = _header(stream, size)
    _check_size(head, size, math.prod(head.shape), where)
    values = np.frombuffer(stream.read(size - head.length), head.dtype)  # raises where the file is cut short
    return values.reshape(head.shape, order="F" if head.by_columns else "C")


def _too_large(where: str) -> OptionError:
    return OptionError(f"{where}: its arrays are larger than the memory there is; give fewer images")
