import hashlib

import numpy as np
import pytest
from PIL import Image

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.inputs.files import digest, read_images
from dfmpc_onnx.inputs.preprocess import Preprocess

UNIT, RAW = Preprocess.parse("unit"), Preprocess.parse("raw")
SHAPE = (1, 3, 8, 10)
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 10, 3), np.uint8)


def saved(tmp_path, **arrays):
    np.savez(tmp_path / "images.npz", **arrays)
    return tmp_path / "images.npz"


def test_bytes_are_preprocessed_and_laid_out_as_the_network_takes_them(tmp_path):
    images = read_images(saved(tmp_path, x=PIXELS, y=np.arange(4)), SHAPE, UNIT)
    assert np.allclose(images.x, PIXELS.transpose(0, 3, 1, 2) / 255)
    assert images.y.tolist() == [0, 1, 2, 3] and images.y.dtype == np.int64
    assert images.origin == "4 images of images.npz"
    last = read_images(saved(tmp_path, x=PIXELS), (1, 8, 10, 3), UNIT)
    assert np.allclose(last.x, PIXELS / 255)


def test_floats_are_taken_as_they_are(tmp_path):
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 10))
    images = read_images(saved(tmp_path, x=x), SHAPE, UNIT)
    assert np.array_equal(images.x, x.astype(np.float32)) and images.y is None


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"z": PIXELS}, "holds no array 'x'"),
        ({"x": PIXELS[:0]}, "holds no images"),
        ({"x": PIXELS.astype(np.int64)}, "x is int64; it must be uint8 NHWC, or float32"),
        ({"x": PIXELS[0]}, r"must be \[n, height, width, channels\]"),
        ({"x": PIXELS[..., :2]}, "do not fit the model's input"),
        ({"x": np.full((2, 3, 8, 10), np.nan)}, "NaN or infinity"),
        ({"x": PIXELS, "y": np.arange(3)}, "one whole number for each of the 4 images"),
        ({"x": PIXELS, "y": np.linspace(0, 1, 4)}, "one whole number"),
        ({"x": np.array([{}, {}], object)}, "not an .npz of plain arrays"),
    ],
)
def test_an_npz_that_does_not_fit_is_refused(tmp_path, arrays, said):
    with pytest.raises(OptionError, match=said):
        read_images(saved(tmp_path, **arrays), SHAPE, UNIT)


def test_files_that_are_no_npz_are_refused(tmp_path):
    with pytest.raises(OptionError, match="no such file or folder of images"):
        read_images(tmp_path / "none.npz", SHAPE, UNIT)
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "one.npy", PIXELS)
    good = saved(tmp_path, x=PIXELS).read_bytes()
    (tmp_path / "cut.npz").write_bytes(good[: len(good) // 2])
    for name in ("text.npz", "one.npy", "cut.npz"):
        with pytest.raises(OptionError, match=r"not an \.npz of plain arrays"):
            read_images(tmp_path / name, SHAPE, UNIT)


def folder(tmp_path, size=(10, 8), mode="RGB"):
    place = tmp_path / "pictures"
    place.mkdir(exist_ok=True)
    for i, suffix in enumerate((".png", ".bmp")):
        image = Image.fromarray(PIXELS[i]).convert(mode)
        (image if image.size == size else image.resize(size)).save(place / f"{i}{suffix}")
    return place


def test_a_folder_of_image_files(tmp_path):
    images = read_images(folder(tmp_path), SHAPE, RAW)
    assert np.array_equal(images.x, PIXELS[:2].transpose(0, 3, 1, 2).astype(np.float32))
    assert images.origin == "2 images of pictures/"


def test_other_sizes_are_resized_and_cropped_and_grey_is_one_channel(tmp_path):
    assert read_images(folder(tmp_path, (31, 17)), SHAPE, RAW).x.shape == (2, 3, 8, 10)
    assert read_images(folder(tmp_path), (1, 1, 8, 10), RAW).x.shape == (2, 1, 8, 10)
    assert read_images(folder(tmp_path), (1, 8, 10, 3), RAW).x.shape == (2, 8, 10, 3)


def test_labels_come_from_a_table(tmp_path):
    place = folder(tmp_path)
    (place / "labels.csv").write_text("file,label\n1.bmp,7\n0.png,3\n")
    assert read_images(place, SHAPE, RAW).y.tolist() == [3, 7]
    for text, said in (
        ("file,label\n0.png,3\n", "no row for '1.bmp'"),
        ("name,label\n0.png,3\n", "must have the columns"),
        ("file,label\n0.png,cat\n1.bmp,2\n", "must have the columns"),
    ):
        (place / "labels.csv").write_text(text)
        with pytest.raises(OptionError, match=said):
            read_images(place, SHAPE, RAW)


def test_a_folder_without_images_or_with_a_broken_one(tmp_path):
    with pytest.raises(OptionError, match="holds no image files"):
        read_images(tmp_path, SHAPE, RAW)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(OptionError, match="not an image that can be read"):
        read_images(tmp_path, SHAPE, RAW)
    with pytest.raises(OptionError, match=r"is not an image; give an \.npz"):
        read_images(tmp_path, (1, 7), RAW)


def test_the_digest_is_of_what_is_read(tmp_path):
    file, folder = saved(tmp_path, x=PIXELS), tmp_path / "folder"
    assert digest(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    folder.mkdir()
    found = set()
    for name, content in (("a.png", b"1"), ("b.png", b"2"), ("b.png", b"3"), ("labels.csv", b"4"), ("notes.txt", b"5")):
        (folder / name).write_bytes(content)
        found.add(digest(folder))
    assert len(found) == 4  # notes are not read
