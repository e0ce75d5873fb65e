"""The file of learned images: an .npz of images as the network takes them, and of how they were learned.

What marks it is the array `learned`. Nobody may take its images for pictures of the user's: they hold what a network
remembers, so its answers on them show nothing.
"""

from __future__ import annotations

import io
import os
import pathlib

import msgspec
import numpy as np
import numpy.typing as npt

from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.inputs.npz import read_arrays
from dfmpc_onnx.model.plain_files import is_folder, why_unreadable
from dfmpc_onnx.numerics.arrays import Float32

MARK = "learned"  # the array that holds the record
LONGEST_RECORD = 100_000  # letters


class LearnedRecord(msgspec.Struct, frozen=True):
    """How images were learned.

    objective: zeroq, dsg, dsg-labelled or labelled. preprocess: what pixels go through before the network, at whose
    scale the images are; preprocess_by: how that came about. model_sha256: of the model; empty where it was no file.
    start: what the images were before, procedural or noise.
    """

    objective: str
    preprocess: str
    preprocess_by: str
    model_sha256: str
    steps: int
    learning_rate: float
    seed: int
    version: str
    start: str = "procedural"  # files of before had no other


def learned_bytes(x: Float32, y: npt.NDArray[np.int64] | None, record: LearnedRecord) -> bytes:
    """The content of the file. Of the same images and record it is the same to the byte."""
    stream = io.BytesIO()
    how = np.array(msgspec.json.encode(record).decode())
    if y is None:
        np.savez_compressed(stream, x=x, learned=how)
    else:
        np.savez_compressed(stream, x=x, y=y, learned=how)
    return stream.getvalue()


def learned_record(path: str | os.PathLike[str] | None) -> LearnedRecord | None:
    """How the images of an .npz were learned; None for a folder, for other files, and where nothing can be read.

    Raises OptionError for a file that is marked as learned, but does not say how.
    """
    source = pathlib.Path(path) if path is not None else None
    if source is None or is_folder(source) or why_unreadable(source) is not None:
        return None
    where = shown(str(source))
    try:
        found = read_arrays(str(source), where, [MARK]).get(MARK)
    except OptionError:  # no .npz: what reads the images reports it
        return None
    if found is None:
        return None
    text = str(found.reshape(-1)[0]) if found.size == 1 and found.dtype.kind == "U" else ""
    try:
        return msgspec.json.decode(text[:LONGEST_RECORD], type=LearnedRecord)
    except msgspec.DecodeError:
        raise OptionError(f"{where}: its images are marked as learned, but not how; learn them again") from None


def refuse_learned(path: str | os.PathLike[str] | None) -> None:
    """Raise OptionError where images that are to show how good a network is were learned from one."""
    if path is not None and learned_record(path) is not None:
        raise OptionError(
            f"{shown(str(path))}: holds learned images, and on what a network remembers its answers show nothing; give "
            "pictures of your own, or leave --images out"
        )
