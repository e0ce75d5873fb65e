"""Image files of any kind: pixels, or one refusal that names the file."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.inputs.image_files import ImageFolder

SHAPE = (1, 3, 8, 10)
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8)


def read(folder):
    (pixels,) = ImageFolder.of(folder, SHAPE).read(1)
    return pixels[0]


def refused(folder):
    with pytest.raises(OptionError) as caught:
        read(folder)
    assert "x.png" in str(caught.value) and "take it out of the folder" in str(caught.value)
    return str(caught.value)


def test_sixteen_bits_a_pixel_are_scaled_and_not_clipped(tmp_path):
    Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257).save(tmp_path / "x.png")
    assert np.array_equal(read(tmp_path)[..., 1], PIXELS[..., 0])


def test_a_palette_with_transparent_colours_is_read_without_a_warning(tmp_path):
    small = Image.fromarray(PIXELS).quantize(16)
    small.save(tmp_path / "x.png", transparency=bytes(range(16)))
    assert np.array_equal(read(tmp_path), np.asarray(small.convert("RGB")))


@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "JPEG"), ("1", "PNG"), ("LA", "PNG"), ("RGB", "GIF")])
def test_other_modes_are_converted(tmp_path, mode, kind):
    Image.fromarray(PIXELS).convert(mode).save(tmp_path / "x.png", kind)
    assert read(tmp_path).shape == PIXELS.shape


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF"])
def test_files_cut_short_are_refused(tmp_path, kind):
    Image.fromarray(np.tile(PIXELS, (9, 9, 1))).save(tmp_path / "x.png", kind)
    whole = (tmp_path / "x.png").read_bytes()
    (tmp_path / "x.png").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path)


def claiming(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(100_000, 100_000), (12_000, 12_000), (2**31 - 1, 1), (20_000_000, 1)])
def test_sizes_that_memory_has_no_room_for_are_refused_before_a_pixel_is_made(tmp_path, size):
    """The last is small, but its shorter side would be made as long as the input's."""
    (tmp_path / "x.png").write_bytes(claiming(*size))
    refused(tmp_path)


def test_what_would_start_another_program_is_no_image(tmp_path):
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    refused(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    assert "is a device or a pipe" in refused(tmp_path)


@pytest.mark.parametrize(
    ("sides", "origin", "said"),
    [
        ([8, 60, 60], "(8x8 to 60x60, resized to 8x10)", "2 of 3 images of pictures/ are 60x60 and the model takes"),
        (
            [50, 60, 60],
            "(50x50 to 60x60, resized to 8x10)",
            "images of pictures/ are of other sizes, such as 60x60, and",
        ),
        ([60, 60], "(60x60, resized to 8x10)", "images of pictures/ are 60x60 and the model takes"),
        ([8, 9], "(8x8 to 9x9, resized to 8x10)", None),
    ],
)
def test_sizes_of_all_images_are_looked_at(tmp_path, sides, origin, said):
    """Of one image of the model's size and nine larger ones nothing was said."""
    (folder := tmp_path / "pictures").mkdir()
    for index, side in enumerate(sides):
        Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(folder / f"{index}.png")
    found = ImageFolder.of(folder, SHAPE)
    assert found.origin == f"{len(sides)} images of pictures/ {origin}"
    assert len(found.warnings) == bool(said) and all(text.startswith(said) for text in found.warnings)
