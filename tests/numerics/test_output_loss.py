"""The one definition of what an output loses, and how far its two shares lie apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfmpc_onnx.numerics.output_loss import JudgedOutput, output_loss


def logits(images=16, classes=10):
    """Logits that differ between the classes far more than between the images, and the same with a small error."""
    rng = np.random.default_rng(0)
    plain = 4 * rng.standard_normal(classes) + rng.standard_normal((images, classes))
    return plain, plain + 0.1 * rng.standard_normal(plain.shape)


def slow(plain, hat):
    """Error over variance, entry by entry: of all values together, and of what the images differ by."""
    error = sum((b - a) ** 2 for a, b in zip(plain.ravel(), hat.ravel(), strict=True))
    whole = sum((a - plain.mean()) ** 2 for a in plain.ravel())
    between = sum((plain[i, c] - plain[:, c].mean()) ** 2 for i, c in np.ndindex(plain.shape))
    return error / whole, error / between


def test_the_two_shares_of_the_same_logits_have_names_of_their_own():
    plain, hat = logits()
    loss = output_loss(plain, hat)
    whole, between = slow(plain, hat)
    assert loss.share_of_variance == pytest.approx(whole) and loss.share_between_images == pytest.approx(between)
    assert loss.share_between_images > 5 * loss.share_of_variance
    assert loss.vector and loss.strictness(4) == 1


@given(st.integers(0, 2**31), st.integers(2, 6), st.integers(2, 6))
def test_what_lies_between_images_is_never_more_than_all(seed, images, classes):
    rng = np.random.default_rng(seed)
    plain, noise = rng.standard_normal((2, images, classes))
    loss = output_loss(plain, plain + 0.1 * noise)
    assert loss.share_between_images >= loss.share_of_variance * (1 - 1e-9)


@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (4, 2, 9), (1, 7), (7,)])
def test_maps_lists_and_single_images_have_one_share(shape):
    rng = np.random.default_rng(0)
    plain = rng.standard_normal(shape)
    loss = output_loss(plain, plain + 0.1 * rng.standard_normal(shape))
    assert 0 < loss.share_of_variance == loss.share_between_images < 0.5


def test_maps_and_lists_are_taken_more_strictly():
    plain = np.random.default_rng(0).standard_normal((4, 3, 5, 5))
    loss = output_loss(plain, plain)
    assert not loss.vector and loss.strictness(4) == 4
    assert loss.share_of_variance == loss.share_between_images == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_lost(bad):
    plain, hat = logits()
    hat[3, 4] = bad
    loss = output_loss(plain, hat)
    assert loss.share_of_variance == loss.share_between_images == 1


@pytest.mark.parametrize("plain", [np.zeros((2, 0)), np.ones((3, 4))])
def test_where_nothing_varies_nothing_is_lost(plain):
    loss = output_loss(plain, plain + 1)
    assert loss.share_of_variance == loss.share_between_images == 0


@pytest.mark.parametrize("shape", [(6, 12), (1, 12), (4, 7, 12), (3, 4, 5, 12)])
def test_where_the_last_axis_is_pooled_an_error_may_be_given_in_any_basis(shape):
    """Rows of another length, of the same squares: R with R R' = W W'."""
    rng = np.random.default_rng(0)
    plain, weight = rng.standard_normal(shape), rng.standard_normal((3, shape[-1]))
    error = 0.1 * rng.standard_normal((*shape[:-1], 3))
    judged = JudgedOutput(plain)
    assert judged.pools_last_axis
    narrow = judged.loss_of_error(error @ np.linalg.cholesky(weight @ weight.T))
    want = judged.loss(plain + error @ weight)
    assert narrow.share_of_variance == pytest.approx(want.share_of_variance)
    assert narrow.share_between_images == pytest.approx(want.share_between_images)


@pytest.mark.parametrize("shape", [(4, 12, 7), (7,)])
def test_the_last_axis_is_not_pooled_where_it_holds_the_channels_or_the_images(shape):
    assert not JudgedOutput(np.random.default_rng(0).standard_normal(shape)).pools_last_axis
