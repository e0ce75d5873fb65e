"""Images to compare networks on: seeded noise with the spectrum of photographs, or the user's own."""

from __future__ import annotations

import csv
import dataclasses
import os
import pathlib
import zipfile

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.graph import shown
from dfmpc_onnx.preprocess import PIXEL_MEAN, PIXEL_STD, Preprocess
from dfmpc_onnx.procedural import dead_leaves, noise_fields
from dfmpc_onnx.settings import Settings

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}


@dataclasses.dataclass(frozen=True)
class Images:
    """A batch as a network takes it, with labels where they are known.

    x: float32 in the network's own layout, ``[n, ...]``. y: int64 ``[n]`` or None. origin: what they are, to print.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64] | None
    origin: str


def noise_images(count: int, shape: tuple[int, ...], preprocess: Preprocess, seed: int) -> Images:
    """Seeded 1/f noise for a network input of `shape` (batch first, channels second).

    Inputs with 1 or 3 channels and two more dimensions are photographs' pixels after the preprocess; a network of
    any other input gets fields of mean 0 and deviation 1.
    """
    if len(shape) < 3:
        generator = np.random.default_rng(seed)
        x = generator.standard_normal((count, *shape[1:])).astype(np.float32)
        return Images(x, None, f"{count} seeded Gaussian vectors")
    channels, space = shape[1], shape[2:]
    layout_last = channels not in (1, 3) and shape[-1] in (1, 3) and len(shape) == 4
    if layout_last:
        channels, space = shape[-1], shape[1:-1]
    fields = noise_fields(count, channels, space, seed)
    origin = f"{count} seeded 1/f-noise images"
    if channels in (1, 3) and len(space) == 2:
        mean = np.array(PIXEL_MEAN if channels == 3 else [np.mean(PIXEL_MEAN)])
        std = np.array(PIXEL_STD if channels == 3 else [np.mean(PIXEL_STD)])
        pixels = np.clip(np.moveaxis(fields, 1, -1) * std + mean, 0, 255)
        x = preprocess(pixels)
        return Images(x if layout_last else np.ascontiguousarray(np.moveaxis(x, -1, 1)), None, origin)
    return Images(fields.astype(np.float32), None, f"{count} seeded 1/f-noise fields")


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
            x = data["x"]
            y = data.get("y")
    except FileNotFoundError:
        raise OptionError(f"{where}: no such file or folder of images") from None
    except (OSError, ValueError, zipfile.BadZipFile, EOFError):
        raise OptionError(f"{where}: not an .npz of plain arrays (x, and optionally y)") from None
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
    if x.ndim != len(shape) or x.shape[1] != shape[1]:
        raise OptionError(f"{where}: images of shape {x.shape[1:]} do not fit the model's input {shape[1:]}")
    return Images(x, None if y is None else y.astype(np.int64), f"{len(x)} images of {source.name}")


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
        raise OptionError("reading image files needs Pillow; pip install 'dfmpc-onnx[images]'") from None
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
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
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


DEFAULT_SIDE = 224  # of dynamic height and width
FEWEST_IMAGES, MOST_IMAGES = 16, 64
PIXELS = 16 * 224 * 224


@dataclasses.dataclass(frozen=True)
class Batch:
    """Inputs to collect statistics with. feeds: by input name; origin: what they are; warnings: what was assumed."""

    feeds: dict[str, npt.NDArray[np.generic]]
    origin: str
    warnings: tuple[str, ...] = ()


def input_batch(graph: gs.Graph, settings: Settings, count: int = 0) -> Batch:
    """Procedural inputs for every input of a graph.

    Pictures of fallen shapes for ``[n, 1 or 3, h, w]`` (or channels last), 1/f fields for any other float input of
    rank 3 and more, Gaussian vectors below, zeros for integers. Dynamic height and width become 224, other dynamic
    dimensions 1, unless settings.input_shapes says otherwise. count: how many; 0 takes 16, and up to 64 of small
    pictures. A fixed batch dimension decides by itself. Raises OptionError where a given shape does not fit.
    """
    feeds: dict[str, npt.NDArray[np.generic]] = {}
    origins, warnings = [], []
    for tensor in graph.inputs:
        shape, assumed = concrete_shape(tensor, settings)
        if assumed:
            warnings.append(f"input '{shown(tensor.name)}': dynamic size taken as {'x'.join(map(str, shape[1:]))}; "
                            f"give --input-shape for another")
        fixed = tensor.shape and isinstance(tensor.shape[0], int) and tensor.shape[0] > 0 and len(shape) > 1
        area = int(np.prod(shape[2:])) if len(shape) > 2 else 1
        number = shape[0] if fixed else count or int(np.clip(PIXELS // max(area, 1), FEWEST_IMAGES, MOST_IMAGES))
        x, origin = _procedural(tensor, (number, *shape[1:]), settings)
        feeds[tensor.name] = x
        origins.append(origin)
    return Batch(feeds, ", ".join(origins), tuple(warnings))


def concrete_shape(tensor: gs.Tensor, settings: Settings) -> tuple[tuple[int, ...], bool]:
    """A graph input's shape with every dimension known, and whether a height or width had to be assumed."""
    given = settings.input_shapes.get(tensor.name)
    if tensor.shape is None:
        if given is None:
            raise OptionError(f"input '{shown(tensor.name)}' has no shape; give --input-shape {tensor.name}:1x3x224x224")
        return given, False
    if given is not None:
        if len(given) != len(tensor.shape):
            raise OptionError(
                f"input shape for '{shown(tensor.name)}': {len(given)} dimensions given, it has {len(tensor.shape)}"
            )
        return given, False
    known = [d if isinstance(d, int) and d > 0 else None for d in tensor.shape]
    last = len(known) == 4 and known[3] in (1, 3) and known[1] not in (1, 3)
    channel = 3 if last else 1
    spatial = [i for i in range(1, len(known)) if i != channel]
    assumed = len(known) > 2 and any(known[i] is None for i in spatial)
    filled = [
        d if d is not None else 1 if i == 0 else 3 if i == channel and len(known) == 4 else DEFAULT_SIDE
        if len(known) > 2 else 1
        for i, d in enumerate(known)
    ]
    return tuple(filled), assumed


def _procedural(
    tensor: gs.Tensor, shape: tuple[int, ...], settings: Settings
) -> tuple[npt.NDArray[np.generic], str]:
    dtype = np.dtype(np.float32 if tensor.dtype is None else tensor.dtype)
    if dtype.kind != "f":
        return np.zeros(shape, dtype), f"zeros for '{shown(tensor.name)}'"
    if len(shape) == 4 and (shape[1] in (1, 3) or shape[3] in (1, 3)):
        last = shape[1] not in (1, 3)
        height, width = (shape[1], shape[2]) if last else (shape[2], shape[3])
        pixels = dead_leaves(shape[0], height, width, settings.seed)
        if shape[3 if last else 1] == 1:
            pixels = np.rint(pixels.mean(axis=3, keepdims=True)).astype(np.uint8)
        x = settings.preprocess(pixels)
        x = x if last else np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        return x.astype(dtype), f"{shape[0]} procedural images of {height}x{width}"
    if len(shape) >= 3:
        fields = noise_fields(shape[0], shape[1], shape[2:], settings.seed)
        return fields.astype(dtype), f"{shape[0]} procedural 1/f fields"
    generator = np.random.default_rng(settings.seed)
    return generator.standard_normal(shape).astype(dtype), f"{shape[0]} Gaussian vectors"
