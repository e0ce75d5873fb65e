"""The user's own images, read from an .npz or a folder."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import os
import pathlib
import zipfile

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.inputs.preprocess import Preprocess

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}


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
    if source.is_dir():
        return _read_folder(source, shape, preprocess)
    if source.is_file() and not zipfile.is_zipfile(source):  # np.load takes other files than .npz, too
        raise OptionError(f"{where}: not an .npz of plain arrays (x, and optionally y)")
    try:
        with np.load(source, allow_pickle=False) as data:
            if "x" not in data:
                raise OptionError(f"{where}: holds no array 'x'; it needs x (uint8 NHWC or float32) and optionally y")
            x, y = data["x"], data.get("y")
            if not all(
                isinstance(a, np.ndarray) for a in (x, y) if a is not None
            ):  # numpy gives other members as bytes
                raise ValueError
    except FileNotFoundError:
        raise OptionError(f"{where}: no such file or folder of images") from None
    except (OSError, ValueError, zipfile.BadZipFile, EOFError):
        raise OptionError(f"{where}: not an .npz of plain arrays (x, and optionally y)") from None
    except MemoryError:
        raise OptionError(f"{where}: its arrays are larger than the memory there is; give fewer images") from None
    if x.ndim == 0:
        raise OptionError(f"{where}: x is a single number; it must be uint8 NHWC, or float32 as the model takes it")
    if len(x) == 0:
        raise OptionError(f"{where}: holds no images")
    if y is not None and (y.shape != (len(x),) or y.dtype.kind not in "iu"):
        raise OptionError(f"{where}: y must hold one whole number for each of the {len(x)} images")
    if x.dtype == np.uint8:
        x = _to_layout(preprocess(x), shape, where)
    elif x.dtype.kind == "f":
        x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise OptionError(f"{where}: x holds NaN or infinity")
    else:
        raise OptionError(f"{where}: x is {x.dtype}; it must be uint8 NHWC, or float32 as the model takes it")
    if x.ndim != len(shape) or x.shape[1:2] != shape[1:2]:
        raise OptionError(f"{where}: images of shape {x.shape[1:]} do not fit the model's input {shape[1:]}")
    return Images(x, None if y is None else y.astype(np.int64), f"{len(x)} images of {source.name}")


def digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 over the names and contents of a folder's images and labels, or over an .npz's content."""
    source = pathlib.Path(path)
    if not source.is_dir():
        return hashlib.sha256(source.read_bytes()).hexdigest()
    hasher = hashlib.sha256()
    for file in sorted(p for p in source.iterdir() if p.suffix.lower() in SUFFIXES or p.name == "labels.csv"):
        content = file.read_bytes()
        hasher.update(f"{len(file.name.encode())} {file.name} {len(content)} ".encode())
        hasher.update(content)
    return hasher.hexdigest()


def _to_layout(x: npt.NDArray[np.float32], shape: tuple[int, ...], where: str) -> npt.NDArray[np.float32]:
    """NHWC as read to the network's layout."""
    if x.ndim != 4:
        raise OptionError(f"{where}: uint8 images must be [n, height, width, channels], not {list(x.shape)}")
    if len(shape) == 4 and shape[1] != x.shape[-1] and shape[-1] == x.shape[-1]:
        return x
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def _read_folder(folder: pathlib.Path, shape: tuple[int, ...], preprocess: Preprocess) -> Images:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise OptionError("reading image files needs Pillow; pip install Pillow") from None
    where = shown(str(folder))
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not files:
        raise OptionError(f"{where}: holds no image files ({', '.join(sorted(SUFFIXES))})")
    if len(shape) != 4:
        raise OptionError(f"{where}: the model's input {shape} is not an image; give an .npz")
    last = shape[1] not in (1, 3)
    height, width = (shape[1], shape[2]) if last else (shape[2], shape[3])
    channels = shape[3] if last else shape[1]
    labels = _labels(folder, where)
    rows, y = [], []
    for file in files:
        try:
            with Image.open(file) as image:
                rows.append(_crop(image.convert("L" if channels == 1 else "RGB"), height, width))
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, MemoryError):
            raise OptionError(f"{shown(str(file))}: not an image that can be read; take it out of the folder") from None
        if labels is not None:
            if file.name not in labels:
                raise OptionError(f"{where}: labels.csv has no row for '{shown(file.name)}'")
            y.append(labels[file.name])
    pixels = np.stack(rows)
    x = _to_layout(preprocess(pixels[..., None] if pixels.ndim == 3 else pixels), shape, where)
    known = None if labels is None else np.array(y, np.int64)
    return Images(x, known, f"{len(files)} images of {shown(folder.name)}/")


def _crop(image: object, height: int, width: int) -> npt.NDArray[np.uint8]:
    """The centre of an image: its shorter side resized to 256/224 of the input's, where it differs."""
    from PIL import Image

    assert isinstance(image, Image.Image)
    if (image.height, image.width) != (height, width):
        scale = max(round(height * 256 / 224) / image.height, round(width * 256 / 224) / image.width)
        size = max(round(image.width * scale), width), max(round(image.height * scale), height)
        if size != image.size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    return np.asarray(image)


def _labels(folder: pathlib.Path, where: str) -> dict[str, int] | None:
    table = folder / "labels.csv"
    if not table.exists():
        return None
    try:
        with table.open(newline="", encoding="utf-8") as stream:
            return {row["file"]: int(row["label"]) for row in csv.DictReader(stream)}
    except (KeyError, ValueError, TypeError, UnicodeDecodeError, csv.Error):
        raise OptionError(f"{where}: labels.csv must have the columns file and label (a whole number)") from None
