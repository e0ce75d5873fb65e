"""A folder of image files, as pixels of one size."""

from __future__ import annotations

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.extras import install_command
from dfmpc_onnx.inputs.labels import TABLE, read_labels
from dfmpc_onnx.model.plain_files import why_unreadable

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "PPM", "GIF", "TIFF")  # for others Pillow may start programs
FARTHEST_RESIZED = 3.0  # times larger or smaller than the network takes, beyond which the user hears of it
MOST_PIXELS = 2**27  # of one image, as it is and as it is resized


def image_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files whose names end as an image's, sorted. Raises OptionError where the folder cannot be read."""
    try:
        return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise OptionError(f"{shown(str(folder))}: cannot be read ({error.strerror})") from None


def no_image_files(folder: pathlib.Path) -> OptionError:
    """The mistake of a folder without pictures."""
    return OptionError(f"{shown(str(folder))}: holds no image files ({', '.join(sorted(SUFFIXES))})")


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """A folder of image files for a network that takes pictures of a height and width.

    labels: int64 of each file, where there is a table of them. sizes: width and height of the
    images as they are, with how many are of each.
    """

    folder: pathlib.Path
    files: list[pathlib.Path]
    labels: npt.NDArray[np.int64] | None
    height: int
    width: int
    grey: bool
    sizes: Mapping[tuple[int, int], int]

    @classmethod
    def of(cls, folder: pathlib.Path, shape: tuple[int, ...]) -> ImageFolder:
        """shape: the network's input. Raises OptionError."""
        try:
            import PIL.Image  # noqa: F401
        except ImportError:
            raise OptionError(f"reading image files needs Pillow; {install_command('images')}") from None
        where = shown(str(folder))
        files = image_files(folder)
        if not files:
            raise no_image_files(folder)
        if len(shape) != 4:
            raise OptionError(f"{where}: the model's input {shape} is not an image; give an .npz")
        last = shape[1] not in (1, 3)
        height, width = (shape[1], shape[2]) if last else (shape[2], shape[3])
        grey = (shape[3] if last else shape[1]) == 1
        table = read_labels(folder, where)
        missing = next((file for file in files if table is not None and file.name not in table), None)
        if missing is not None:
            raise OptionError(f"{where}: {TABLE} has no row for '{shown(missing.name)}'")
        labels = None if table is None else np.array([table[file.name] for file in files], np.int64)
        sizes = Counter(_stated_size(file) or (width, height) for file in files)
        return cls(folder, files, labels, height, width, grey, sizes)

    def read(self, at_once: int) -> Iterator[npt.NDArray[np.uint8]]:
        """Pixels ``[n, height, width, channels]`` of so many images at a time, in order. Raises OptionError."""
        for start in range(0, len(self.files), at_once):
            files = self.files[start : start + at_once]
            pixels = np.stack([_read_image(file, self.height, self.width, self.grey) for file in files])
            yield pixels[..., None] if pixels.ndim == 3 else pixels

    @property
    def origin(self) -> str:
        """What they are, to print, and that they are resized."""
        text = f"{len(self.files)} images of {shown(self.folder.name)}/"
        if self.sizes.keys() == {(self.width, self.height)}:
            return text
        ends = sorted(self.sizes, key=lambda size: (min(size), size))
        found = " to ".join(dict.fromkeys(_by(size) for size in (ends[0], ends[-1])))
        return f"{text} ({found}, resized to {self.height}x{self.width})"

    @property
    def warnings(self) -> tuple[str, ...]:
        """That the network takes pictures of quite another size; a crop of usual size goes without."""
        taken = min(self.height, self.width)
        far = {
            size: count
            for size, count in self.sizes.items()
            if not 1 / FARTHEST_RESIZED <= min(size) / taken <= FARTHEST_RESIZED
        }
        if not far:
            return ()
        part = "" if len(far) == len(self.sizes) else f"{sum(far.values())} of {len(self.files)} "
        most = _by(max(far, key=lambda size: (far[size], size)))
        are = most if len(far) == 1 else f"of other sizes, such as {most},"
        return (
            f"{part}images of {shown(self.folder.name)}/ are {are} and the model takes "
            f"{self.height}x{self.width}: they are resized, and may not look like what the model was trained on; give "
            f"images of that size, or --input-shape where the model takes others",
        )


def _by(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def to_layout(x: npt.NDArray[np.float32], shape: tuple[int, ...], where: str) -> npt.NDArray[np.float32]:
    """NHWC as read to the network's layout."""
    if x.ndim != 4:
        raise OptionError(f"{where}: uint8 images must be [n, height, width, channels], not {list(x.shape)}")
    if len(shape) == 4 and shape[1] != x.shape[-1] and shape[-1] == x.shape[-1]:
        return x
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def _stated_size(file: pathlib.Path) -> tuple[int, int] | None:
    """Width and height of an image by its header; None where it cannot be read, which is refused when it is."""
    from PIL import Image

    if why_unreadable(file) is not None:
        return None
    try:
        Image.init()
        with Image.open(file, formats=[kind for kind in FORMATS if kind in Image.OPEN]) as image:
            return image.size
    except Exception:  # as in `_read_image`
        return None


def _read_image(file: pathlib.Path, height: int, width: int, grey: bool) -> npt.NDArray[np.uint8]:
    from PIL import Image

    name = shown(str(file))
    reason = why_unreadable(file)
    if reason is not None:
        raise OptionError(f"{name}: {reason}, not an image; take it out of the folder")
    Image.init()  # which formats there are depends on how Pillow was built
    try:
        with Image.open(file, formats=[kind for kind in FORMATS if kind in Image.OPEN]) as image:
            size = _resized(image.size, height, width)
            if max(image.width * image.height, size[0] * size[1]) <= MOST_PIXELS:
                return _crop(_eight_bits(image, grey), size, height, width)
            stated = f"{image.width}x{image.height}"
    # Pillow's decoders raise whatever they trip over, from struct.error to SyntaxError; its warning of a bomb is an
    # error where a program says so.
    except Exception:
        raise OptionError(f"{name}: not an image that can be read; take it out of the folder") from None
    raise OptionError(f"{name}: {stated} pixels are too many, or too long for their width; take it out of the folder")


def _eight_bits(image: Image.Image, grey: bool) -> Image.Image:
    """An image in grey or RGB; Pillow would clip 16 bits a pixel at 255, and warn of transparent palettes."""
    from PIL import Image

    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("L" if grey else "RGB")


def _resized(size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """Width and height of an image once its shorter side is 256/224 of the input's; as it is where that fits."""
    if size == (width, height):
        return size
    scale = max(round(height * 256 / 224) / size[1], round(width * 256 / 224) / size[0])
    return max(round(size[0] * scale), width), max(round(size[1] * scale), height)


def _crop(image: Image.Image, size: tuple[int, int], height: int, width: int) -> npt.NDArray[np.uint8]:
    """The centre of an image, resized before where its size is another."""
    from PIL import Image

    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    if image.size != (width, height):
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    return np.asarray(image)
