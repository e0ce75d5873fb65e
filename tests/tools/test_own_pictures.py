import numpy as np
import onnx
import pytest
from PIL import Image

from dfmpc_onnx.inputs.preprocess import Preprocess
from tests.tools.nets import BARS, detector, page
from tools.zoo.own_pictures import GREY, OwnPictures, cut

UNIT = Preprocess.parse("unit")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "text").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(page()).save(tmp_path / "text" / name)
    onnx.save(detector(), tmp_path / "det.onnx")
    return tmp_path


def test_lines_keep_their_proportions_and_the_rest_is_grey():
    tile = np.zeros((320, 320, 3), np.uint8)
    tile[100:120, 40:120] = 255
    (line,) = cut(tile, np.array([[40.0, 100, 120, 120]]), 48, 320)
    # 20 high and 80 wide, with 10 around: 40 by 100, so 48 by 120.
    assert line.shape == (48, 320, 3)
    assert (line[:, 120:] == GREY).all() and not (line[:, :120] == GREY).all(axis=(0, 2)).any()
    assert line[24, 60].tolist() == [255] * 3


def test_the_beginning_of_a_line_too_long_is_taken():
    tile = np.tile(np.arange(320, dtype=np.float64) * 0.7, (320, 1))[:, :, None].repeat(3, axis=2).astype(np.uint8)
    (line,) = cut(tile, np.array([[10.0, 100, 310, 120]]), 48, 192)
    assert line[24, 0, 0] == pytest.approx(0, abs=1) and line[24, -1, 0] == pytest.approx(160 * 0.7, abs=2)


def test_what_is_too_low_or_upright_is_no_line():
    boxes = np.array([[10.0, 10, 60, 13], [10.0, 10, 20, 60]])
    assert cut(np.zeros((320, 320, 3), np.uint8), boxes, 48, 320) == []


def test_lines_are_those_that_the_detector_finds(folder):
    own = OwnPictures(folder, folder / "det.onnx", "keras")
    x = own.inputs("lines", (1, 3, 48, 320), UNIT)
    assert x is not None and x.shape == (2 * BARS, 3, 48, 320) and x.dtype == np.float32
    assert x[:, :, 24, 30] == pytest.approx(1.0)


def test_no_lines_without_a_detector(folder):
    assert OwnPictures(folder).inputs("lines", (1, 3, 48, 320), UNIT) is None


def test_pictures_are_read_from_the_folder_of_their_kind(folder):
    x = OwnPictures(folder).inputs("text", (1, 3, 320, 320), UNIT)
    assert x is not None and x.shape == (2, 3, 320, 320)
    assert OwnPictures(folder).missing() == ["faces"]
