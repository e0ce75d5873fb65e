import io

import numpy as np
import pytest
from PIL import Image

from tools.zoo.tiles import as_png, cut, of_most_contrast, tiles


def encoded(pixels, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def decoded(content):
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


def test_tiles_are_parts_of_the_page_in_order():
    page = np.random.default_rng(0).integers(0, 256, (700, 1000, 3), np.uint8)
    found = cut(page)
    assert len(found) == 6
    assert np.array_equal(found[4], page[320:640, 320:640])


def test_a_small_page_is_filled_up_with_white():
    (tile,) = cut(np.zeros((50, 400, 3), np.uint8))
    assert tile.shape == (320, 320, 3) and not tile[:50].any() and (tile[50:] == 255).all()


def test_those_of_most_contrast_are_taken_and_empty_ones_never():
    found = [np.full((320, 320, 3), 128, np.uint8) for _ in range(7)]
    for strength, tile in enumerate(found):
        tile[::2] += np.uint8(10 * strength)
    assert [int(t.max()) - 128 for t in of_most_contrast(found)] == [60, 50, 40]
    assert len(of_most_contrast(found[-1:] * 6)) == 4


def test_a_large_page_is_made_smaller_first():
    page = np.full((1472, 1472, 3), 255, np.uint8)
    page[:640, :640] = np.kron(np.indices((64, 64)).sum(0) % 2 * 255, np.ones((10, 10)))[:, :, None]
    (tile,) = tiles(encoded(page))
    assert decoded(tile).shape == (320, 320, 3)


@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 4)])
def test_any_mode_becomes_rgb(shape):
    assert decoded(as_png(encoded(np.zeros(shape, np.uint8)))).shape == (30, 40, 3)


def test_what_is_no_picture_is_said_so():
    with pytest.raises(OSError, match="cannot identify image file"):
        as_png(b"no picture")
