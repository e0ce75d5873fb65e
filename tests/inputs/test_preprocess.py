import numpy as np
import pytest

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.inputs.preprocess import NAMES, PIXEL_MEAN, PIXEL_STD, Preprocess

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3), np.uint8)
IMAGENET_MEAN, IMAGENET_STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
FORMULAS = {
    "imagenet": lambda x: (x / 255 - IMAGENET_MEAN) / IMAGENET_STD,
    "lite": lambda x: (x - 127) / 128,
    "keras": lambda x: x / 127.5 - 1,
    "unit": lambda x: x / 255,
    "raw": lambda x: x,
    "caffe": lambda x: (x - 255 * IMAGENET_MEAN)[..., ::-1],
    "half": lambda x: x / 255 - 0.5,
    "unit:bgr": lambda x: x[..., ::-1] / 255,
    "caffe:rgb": lambda x: x - 255 * IMAGENET_MEAN,
    "imagenet:bgr": lambda x: ((x / 255 - IMAGENET_MEAN) / IMAGENET_STD)[..., ::-1],
    "1,2,3/4,5,6:bgr": lambda x: ((x - [1, 2, 3]) / [4, 5, 6])[..., ::-1],
    "123.7,116.3,103.5/58.4,57.1,57.4": lambda x: (x - [123.7, 116.3, 103.5]) / [58.4, 57.1, 57.4],
    "128/64": lambda x: (x - 128) / 64,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_formula(name):
    got = Preprocess.parse(name)(PIXELS)
    assert got.dtype == np.float32 and got.shape == PIXELS.shape
    assert np.allclose(got, FORMULAS[name](PIXELS.astype(float)), atol=1e-4)


def test_every_name_has_a_formula_here():
    assert set(NAMES) <= set(FORMULAS)


@pytest.mark.parametrize("name", FORMULAS)
def test_moments_and_bounds_are_those_of_the_formula(name):
    preprocess = Preprocess.parse(name)
    mean, variance = preprocess.moments(3)
    low, high = preprocess.bounds(3)
    centre, spread = np.array(PIXEL_MEAN), np.array(PIXEL_STD)
    assert np.allclose(mean, FORMULAS[name](centre), atol=1e-4)
    assert np.allclose(np.sqrt(variance), FORMULAS[name](centre + spread) - FORMULAS[name](centre), atol=1e-4)
    assert mean.shape == variance.shape == (3,)
    assert np.allclose(low, FORMULAS[name](np.zeros(3)), atol=1e-4)
    assert np.allclose(high, FORMULAS[name](np.full(3, 255.0)), atol=1e-4)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("unit", "unit"),
        ("unit:rgb", "unit"),
        ("caffe:bgr", "caffe"),
        ("caffe:rgb", "caffe:rgb"),
        ("1/2:bgr", "1/2:bgr"),
    ],
)
def test_the_name_says_the_order_where_it_is_not_the_usual_one(text, name):
    found = Preprocess.parse(text)
    assert found.name == name and Preprocess.parse(name) == found


def test_the_order_of_one_channel_does_not_matter():
    grey = PIXELS[..., :1]
    assert np.array_equal(Preprocess.parse("unit:bgr")(grey), Preprocess.parse("unit")(grey))


def test_a_name_in_either_order_knows_colours_and_lists_do_not():
    assert Preprocess.parse("imagenet:bgr").own_channels is None
    assert Preprocess.parse("1,2,3/4:bgr").own_channels == 3


def test_a_grey_image_takes_the_mean_of_the_colours():
    got = Preprocess.parse("imagenet")(np.full((1, 2, 2, 1), 100, np.uint8))
    assert np.allclose(got, (100 / 255 - IMAGENET_MEAN.mean()) / IMAGENET_STD.mean(), atol=1e-4)
    assert Preprocess.parse("imagenet").moments(1)[0].shape == (1,)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "image",
        "1,2,3",
        "1,2/3,4,5",
        "a/b",
        "1/0",
        "1/-2",
        "nan/1",
        "1/inf",
        "1,2,3,/1",
        "1/2/3",
        "unit:grb",
        ":bgr",
    ],
)
def test_what_makes_no_sense_is_refused_naming_what_would(text):
    with pytest.raises(OptionError, match=r"give auto, one of imagenet, .* or MEAN/STD"):
        Preprocess.parse(text)
