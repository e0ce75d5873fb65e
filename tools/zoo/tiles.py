"""Pages of text cut into tiles of one size, as a text detector is fed them."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

Bytes = npt.NDArray[np.uint8]
SIDE = 320
SHORTER = 736  # what the shorter side of a page is scaled to at most, as the usual pipelines of text readers do
MOST = 4  # tiles of one page
LEAST_CONTRAST = 15.0  # standard deviation on the 0..255 scale, below which a tile holds next to nothing


def opened(content: bytes) -> Image.Image:
    """An image file as RGB; raises OSError or ValueError where it is none."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.convert("RGB")
    except (SyntaxError, Image.DecompressionBombError) as error:  # as Pillow says it of some damaged files
        raise ValueError(str(error)) from None


def encoded(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def as_png(content: bytes) -> bytes:
    """An image file as PNG in RGB."""
    return encoded(opened(content))


def tiles(content: bytes) -> list[bytes]:
    """The tiles of a page of most contrast, as PNG."""
    image = opened(content)
    scale = min(1.0, SHORTER / min(image.size))
    size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    return [encoded(Image.fromarray(tile)) for tile in of_most_contrast(cut(np.asarray(image)))]


def cut(page: Bytes) -> list[Bytes]:
    """Whole tiles of a page ``[height, width, 3]`` side by side; one that is smaller is filled up with white."""
    down, across = (max(size - SIDE + 1, 1) for size in page.shape[:2])
    found = []
    for top in range(0, down, SIDE):
        for left in range(0, across, SIDE):
            part = page[top : top + SIDE, left : left + SIDE]
            tile = np.full((SIDE, SIDE, 3), 255, np.uint8)
            tile[: part.shape[0], : part.shape[1]] = part
            found.append(tile)
    return found


def of_most_contrast(found: list[Bytes]) -> list[Bytes]:
    best = sorted(found, key=lambda tile: -float(tile.std()))[:MOST]
    return [tile for tile in best if tile.std() > LEAST_CONTRAST]
