"""What learning begins with; none of it needs PyTorch."""

import numpy as np
import pytest

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.inputs.spec import InputSpec
from dfmpc_onnx.learning.starting_images import find_start, starting_images

SHAPE = (1, 3, 16, 16)


def spec(preprocess="imagenet", shape=SHAPE):
    return InputSpec("x", shape, np.dtype(np.float32), Preprocess.parse(preprocess), resolved=shape)


@pytest.mark.parametrize("preprocess", ["imagenet", "raw", "caffe", "half"])
def test_gaussian_pixels_have_the_moments_of_photographs_under_the_preprocess(preprocess):
    found = starting_images(spec(preprocess), 2, 64, seed=0)
    mean, variance = Preprocess.parse(preprocess).moments(3)
    assert found.gaussian.shape == (64, 3, 16, 16)
    assert np.allclose(found.gaussian.mean(axis=(0, 2, 3)), mean, atol=0.05 * np.sqrt(variance.max()))
    assert np.allclose(found.gaussian.std(axis=(0, 2, 3)), np.sqrt(variance), rtol=0.05)


@pytest.mark.parametrize("preprocess", ["imagenet", "raw", "caffe"])
def test_images_start_within_what_bytes_become(preprocess):
    found = starting_images(spec(preprocess), 4, 1, seed=0)
    slack = 1e-5 * found.deviation
    assert (found.x >= found.low - slack).all() and (found.x <= found.high + slack).all()


def test_channels_last_have_their_bounds_there():
    found = starting_images(spec("imagenet", (1, 16, 16, 3)), 2, 2, seed=0)
    assert found.low.shape == (1, 1, 1, 3)


def test_vectors_have_no_bounds_and_the_moments_that_they_are_made_with():
    found = starting_images(spec(shape=(1, 40)), 8, 8, seed=0)
    assert found.low is None and found.high is None
    assert found.gaussian.shape == (8, 40) and 0.8 < found.deviation < 1.2


def test_the_seed_decides():
    first, again, other = (starting_images(spec(), 2, 2, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.x, again.x) and np.array_equal(first.gaussian, again.gaussian)
    assert not np.array_equal(first.x, other.x)


def test_noise_is_independent_pixels_with_the_moments_of_photographs_within_what_bytes_become():
    found = starting_images(spec("imagenet", (1, 3, 32, 32)), 16, 4, seed=0, start="noise")
    slack = 1e-5 * found.deviation
    assert (found.x >= found.low - slack).all() and (found.x <= found.high + slack).all()
    assert np.allclose(found.x.mean(axis=(0, 2, 3)), found.gaussian.mean(axis=(0, 2, 3)), atol=0.1)
    beside = np.corrcoef(found.x[..., :-1].ravel(), found.x[..., 1:].ravel())[0, 1]
    procedural = starting_images(spec("imagenet", (1, 3, 32, 32)), 16, 4, seed=0).x
    assert abs(beside) < 0.1 < np.corrcoef(procedural[..., :-1].ravel(), procedural[..., 1:].ravel())[0, 1]


def test_slack_is_measured_on_the_same_noise_whatever_is_moved():
    moved = [starting_images(spec(), 2, 8, seed=1, start=start) for start in ("procedural", "noise")]
    assert np.array_equal(moved[0].gaussian, moved[1].gaussian)
    assert not np.array_equal(moved[1].x, moved[1].gaussian[:2])


def test_vectors_of_noise_are_not_cut():
    assert starting_images(spec(shape=(1, 40)), 8, 8, seed=0, start="noise").x.shape == (8, 40)


def test_a_start_that_is_none_is_one_clear_line():
    assert find_start(" Noise ") == "noise"
    with pytest.raises(OptionError, match=r"start 'nose': no such start .*noise.*; give procedural or noise"):
        find_start("nose")
