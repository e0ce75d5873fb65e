"""What learning begins with; none of it needs PyTorch."""

import numpy as np
import pytest

from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.inputs.spec import InputSpec
from dfmpc_onnx.learning.starting_images import starting_images

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
