"""Arrays read from an .npz that anybody may have written: sizes are judged before anything is read.

numpy's own reader raises what Python's zip, tokenizer and parser do, warns on standard error, and reads what a small
file inflates to before its size is compared with anything.
"""

from __future__ import annotations

import math
import re
import zipfile
from typing import IO

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.memory import free_memory

MAGIC = b"\x93NUMPY"
LONGEST_HEADER = 10_000  # bytes, as in numpy
STATED_TYPE = re.compile(r"'descr': *'([<>|=]?[biufcmMSUV]\d{0,9}(?:\[\w+\])?)'")
STATED_ORDER = re.compile(r"'fortran_order': *(True|False)")
STATED_SHAPE = re.compile(r"'shape': *\(([\dL, ]*)\)")
ENCRYPTED = 1  # a bit of a member's flags


def read_arrays(path: str, where: str) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays `x` and `y` of an .npz, as far as it has them. Raises OptionError; nothing is unpickled."""
    wrong = OptionError(f"{where}: not an .npz of plain arrays (x, and optionally y)")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            found: dict[str, npt.NDArray[np.generic]] = {}
            for name in ("x", "y"):
                if name in members:
                    info = archive.getinfo(members[name])
                    if info.flag_bits & ENCRYPTED:
                        raise OptionError(f"{where}: is encrypted; save it without a password")
                    with archive.open(info) as stream:
                        found[name] = _read_array(stream, info.file_size, where)
            return found
    except MemoryError:
        raise _too_large(where) from None
    except OptionError:
        raise
    # zlib, bz2 and lzma have errors of their own; zipfile adds RuntimeError and NotImplementedError.
    except Exception:
        raise wrong from None


def _read_array(stream: IO[bytes], size: int, where: str) -> npt.NDArray[np.generic]:
    """One array; raises ValueError or TypeError where it is no plain one, OptionError where it is too large."""
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
    dtype = np.dtype(kind[1])
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > free_memory() or max(shape, default=0) >= 2**63:
        raise _too_large(where)
    if claimed != size - len(start) - len(length) - header:
        raise ValueError("fewer or more values than its shape wants")
    values = np.frombuffer(stream.read(claimed), dtype)  # raises where the file is cut short
    return values.reshape(shape, order="F" if order[1] == "True" else "C")


def _too_large(where: str) -> OptionError:
    return OptionError(f"{where}: its arrays are larger than the memory there is; give fewer images")
