"""The user's own images, read from an .npz or a folder."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.inputs.image_files import ImageFolder, image_files, to_layout
from dfmpc_onnx.inputs.labels import TABLE
from dfmpc_onnx.inputs.npz import read_arrays
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.model.plain_files import is_folder, why_unreadable

FEWEST_TO_HOLD_BACK = 8  # images, below which all are needed for statistics
IN_MEMORY = "given_images.dfmpc.npz"  # the file that arrays are written to while a run lasts
HELD_BACK = 4  # one of so many is kept from statistics


@dataclasses.dataclass(frozen=True)
class Images:
    """A batch as a network takes it, with labels where they are known.

    x: float32 in the network's own layout, ``[n, ...]``. y: int64 ``[n]`` or None. origin: what they are, to print.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64] | None
    origin: str


def read_images(path: str | os.PathLike[str], shape: tuple[int, ...], preprocess: Preprocess) -> Images:
    """Images from an .npz with `x` (and `y`), or from a folder of image files (and labels.csv: file,label).

    shape: the network's input, batch first; dynamic dimensions made concrete. Raises OptionError.
    """
    source = pathlib.Path(path)
    where = shown(str(source))
    if is_folder(source):
        folder = ImageFolder.of(source, shape)
        (pixels,) = folder.read(len(folder.files))
        return Images(to_layout(preprocess(pixels), shape, where), folder.labels, folder.origin)
    check_file(source)
    arrays = read_arrays(str(source), where)
    if "x" not in arrays:
        raise OptionError(f"{where}: holds no array 'x'; it needs x (uint8 NHWC or float32) and optionally y")
    x = as_network_takes(arrays["x"], shape, preprocess, where)
    return Images(x, checked_labels(arrays.get("y"), len(x), where), origin_of(len(x), source))


def origin_of(count: int, source: pathlib.Path) -> str:
    """What the images of an .npz are, to print."""
    return f"{count} images given as arrays" if source.name == IN_MEMORY else f"{count} images of {shown(source.name)}"


def check_file(source: pathlib.Path) -> None:
    """Raise OptionError where no file of images is there that can be read."""
    reason = why_unreadable(source)
    if reason is not None:
        more = " or folder of images" if reason == "no such file" else ""
        raise OptionError(f"{shown(str(source))}: {reason}{more}")


def checked_labels(y: npt.NDArray[np.generic] | None, count: int, where: str) -> npt.NDArray[np.int64] | None:
    """The labels of an .npz; raises OptionError where they are no whole number for each image."""
    if y is not None and (y.shape != (count,) or y.dtype.kind not in "iu"):
        raise OptionError(f"{where}: y must hold one whole number for each of the {count} images")
    return None if y is None else y.astype(np.int64)


def held_back(count: int, least: int) -> npt.NDArray[np.intp]:
    """Which of the user's images are kept from statistics: every fourth; none where fewer than `least` would be left.

    By turns and not at the end, since images often come in order of what they show.
    """
    index = np.arange(HELD_BACK - 1, count, HELD_BACK)
    return index if count >= FEWEST_TO_HOLD_BACK and count - len(index) >= least else index[:0]


def unseen(count: int, least: int, read: int) -> npt.NDArray[np.intp]:
    """Which of the user's images statistics do not see: those held back, and those beyond the first `read` others."""
    kept = held_back(count, least)
    if not len(kept):
        return kept
    return np.sort(np.concatenate([kept, np.delete(np.arange(count), kept)[read:]]))


def holds_pixels(path: str | os.PathLike[str]) -> bool:
    """Whether images are pixels, so that a network gets them at the scale of a preprocess. Raises OptionError."""
    source = pathlib.Path(path)
    if source.is_dir() or why_unreadable(source) is not None:
        return True
    x = read_arrays(str(source), shown(str(source))).get("x")
    return x is None or x.dtype == np.uint8


def as_network_takes(
    x: npt.NDArray[np.generic], shape: tuple[int, ...], preprocess: Preprocess, where: str
) -> npt.NDArray[np.float32]:
    """The images of an .npz as the network takes them; raises OptionError where they do not fit."""
    if x.ndim == 0:
        raise OptionError(f"{where}: x is a single number; it must be uint8 NHWC, or float32 as the model takes it")
    if len(x) == 0:
        raise OptionError(f"{where}: holds no images")
    if x.dtype == np.uint8:
        made = to_layout(preprocess(np.asarray(x, np.uint8)), shape, where)
    elif x.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused as such
            made = x.astype(np.float32)
        if not np.isfinite(made).all():
            raise OptionError(f"{where}: x holds NaN or infinity")
    else:
        raise OptionError(f"{where}: x is {x.dtype}; it must be uint8 NHWC, or float32 as the model takes it")
    if made.ndim != len(shape) or made.shape[1:2] != shape[1:2]:
        raise OptionError(f"{where}: images of shape {made.shape[1:]} do not fit the model's input {shape[1:]}")
    return made


def digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 over the names and contents of a folder's images and labels, or over an .npz's content."""
    source = pathlib.Path(path)
    if not source.is_dir():
        with source.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    hasher = hashlib.sha256()
    for file in files_of(source):
        content = file.read_bytes()
        name = os.fsencode(file.name)
        hasher.update(b"%d %s %d " % (len(name), name, len(content)))
        hasher.update(content)
    return hasher.hexdigest()


def files_of(path: str | os.PathLike[str]) -> list[pathlib.Path]:
    """The files that images are read from: a folder's pictures and labels, or the .npz itself; sorted."""
    source = pathlib.Path(path)
    if not source.is_dir():
        return [source]
    table = source / TABLE
    return sorted([*image_files(source), *([table] if table.is_file() else [])])
