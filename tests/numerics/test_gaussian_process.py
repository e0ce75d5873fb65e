import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfmpc_onnx.numerics import gaussian_process as gp
from dfmpc_onnx.numerics.lags import transposed
from tests.numerics.strategies import seeds

CLIPS = {"relu": (0.0, math.inf), "relu6": (0.0, 6.0), "hardtanh": (-1.0, 1.0)}
means = st.floats(-3, 6)
deviations = st.floats(0.1, 3)


def clip(low, high):
    return lambda x: np.clip(x, low, high)


def pairs(seed, channels=4, twins=False):
    """Lags of a window ``[1, 3]`` whose two pixels have a positive joint covariance, and that covariance."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((channels, 2 * channels))
    if twins:
        # The second network is the first with a little noise.
        half = channels // 2
        root[half:] = root[:half] + 0.2 * rng.standard_normal((half, 2 * channels))
    shifted = np.concatenate([root[:, channels:], root[:, :channels] * 0.3], axis=1)
    both = np.concatenate([root, shifted])
    joint = both @ both.T / (2 * channels)
    here = (joint[:channels, :channels] + joint[channels:, channels:]) / 2
    joint[:channels, :channels] = joint[channels:, channels:] = here
    across = joint[:channels, channels:]
    # The mean of two blocks need not fit what is off the diagonal; half of it does.
    across *= 0.5
    joint[channels:, :channels] = across.T
    assert np.linalg.eigvalsh(joint).min() > 0
    return np.stack([here, across, across.T])[None].astype(np.float32), joint


# Activations


@given(means, deviations)
@pytest.mark.parametrize("name", CLIPS)
def test_clipping_in_closed_form_and_by_quadrature_agree(name, mean, std):
    low, high = CLIPS[name]
    given = np.array([mean]), np.array([std**2])
    exact, summed = gp.clip_activation(*given, low, high), gp.function_activation(*given, clip(low, high))
    tolerance = 0.02 * std
    np.testing.assert_allclose(summed.mean, exact.mean, atol=tolerance)
    np.testing.assert_allclose(summed.variance, exact.variance, atol=tolerance * std)
    np.testing.assert_allclose(summed.gain, exact.gain, atol=0.05)
    # Quadrature of a kink converges slowly, and the slower the higher the order.
    np.testing.assert_allclose(summed.series[:2], exact.series[:2], atol=0.05 * std)


def test_a_smooth_function_is_known_to_all_digits():
    mean, variance = np.array([0.3, -1.0]), np.array([0.25, 0.49])
    found = gp.function_activation(mean, variance, np.exp)
    # E[exp(m + s z) He_n(z)] = exp(m + s^2 / 2) s^n
    n = np.arange(1, gp.ORDER + 1)[:, None]
    norms = np.sqrt([[float(math.factorial(i))] for i in range(1, gp.ORDER + 1)])
    centre = np.exp(mean + variance / 2)
    np.testing.assert_allclose(found.mean, centre, rtol=1e-10)
    np.testing.assert_allclose(found.variance, centre**2 * np.expm1(variance), rtol=1e-9)
    np.testing.assert_allclose(found.series, centre * variance ** (n / 2) / norms, rtol=1e-9)
    np.testing.assert_allclose(found.gain, centre, rtol=1e-10)


@given(means, deviations)
@pytest.mark.parametrize("name", CLIPS)
def test_a_series_never_has_more_than_the_variance(name, mean, std):
    found = gp.clip_activation(np.array([mean]), np.array([std**2]), *CLIPS[name])
    assert np.square(found.series).sum() <= found.variance[0] * (1 + 1e-6) + 1e-6 * std**2
    assert 0 <= found.gain[0] <= 1


def test_the_identity_is_linear():
    found = gp.clip_activation(np.array([0.4]), np.array([2.25]), -math.inf, math.inf)
    np.testing.assert_allclose(found.series[:, 0], [1.5, 0, 0, 0, 0, 0])
    assert (found.mean[0], found.variance[0], found.gain[0]) == pytest.approx((0.4, 2.25, 1.0))


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("twins", [False, True])
def test_an_activated_covariance_is_that_of_activated_samples(name, twins):
    lags, joint = pairs(1, 4, twins)
    mean, variance = np.array([-0.4, 0.7, -0.3, 0.8]), np.diagonal(lags[0, 0]).astype(np.float64)
    if twins:
        mean[2:] = mean[:2] + 0.05
    activation = gp.clip_activation(mean, variance, *CLIPS[name])
    got = gp.activate(lags, variance, activation, 2)
    x = np.random.default_rng(2).multivariate_normal(np.tile(mean, 2), joint, size=400_000)
    want = np.cov(np.clip(x, *CLIPS[name]).T)
    scale = np.sqrt(np.outer(variance, variance)).max()
    np.testing.assert_allclose(got[0, 0], want[:4, :4], atol=0.012 * scale)
    np.testing.assert_allclose(got[0, 1], want[:4, 4:], atol=0.012 * scale)
    np.testing.assert_allclose(activation.mean, np.clip(x, *CLIPS[name])[:, :4].mean(axis=0), atol=0.01)


def test_a_smooth_activation_of_samples():
    lags, joint = pairs(3)
    mean, variance = np.array([-0.4, 0.7, -0.3, 0.8]), np.diagonal(lags[0, 0]).astype(np.float64)
    got = gp.activate(lags, variance, gp.function_activation(mean, variance, np.tanh), 0)
    x = np.tanh(np.random.default_rng(4).multivariate_normal(np.tile(mean, 2), joint, size=400_000))
    want = np.cov(x.T)
    np.testing.assert_allclose(got[0, 0], want[:4, :4], atol=0.01)
    np.testing.assert_allclose(got[0, 1], want[:4, 4:], atol=0.01)


@given(seeds, st.sampled_from([0, 2, 4]))
def test_activate_keeps_the_variance_and_the_symmetry(seed, twins):
    lags, _ = pairs(seed)
    mean, variance = np.random.default_rng(seed).standard_normal(4), np.diagonal(lags[0, 0]).astype(np.float64)
    activation = gp.clip_activation(mean, variance, 0.0, math.inf)
    got = gp.activate(lags, variance, activation, twins)
    np.testing.assert_allclose(np.diagonal(got[0, 0]), activation.variance, rtol=1e-6)
    np.testing.assert_allclose(transposed(got), got, atol=1e-6)


def test_equal_twins_stay_equal():
    lags, _ = pairs(5, 2)
    mean, variance = np.array([0.2, -0.5]), np.diagonal(lags[0, 0]).astype(np.float64)
    both = np.tile(lags, (1, 1, 2, 2))
    activation = gp.clip_activation(np.tile(mean, 2), np.tile(variance, 2), 0.0, 6.0)
    got = gp.activate(both, np.tile(variance, 2), activation, 2)
    blocks = [got[:, :, a : a + 2, b : b + 2] for a in (0, 2) for b in (0, 2)]
    for block in blocks[1:]:
        np.testing.assert_allclose(block, blocks[0], atol=1e-6)


def test_the_identity_leaves_a_covariance_alone():
    lags, _ = pairs(6)
    variance = np.diagonal(lags[0, 0]).astype(np.float64)
    activation = gp.clip_activation(np.zeros(4), variance, -math.inf, math.inf)
    np.testing.assert_allclose(gp.activate(lags, variance, activation, 2), lags, atol=1e-5)


def test_blocks_of_lags_do_not_show(monkeypatch):
    lags, _ = pairs(7)
    variance = np.diagonal(lags[0, 0]).astype(np.float64)
    activation = gp.clip_activation(np.zeros(4), variance, 0.0, math.inf)
    want = gp.activate(lags, variance, activation, 2)
    monkeypatch.setattr(gp, "ELEMENTS_AT_ONCE", 1)
    assert np.array_equal(gp.activate(lags, variance, activation, 2), want)


def test_a_dead_channel_stays_dead():
    lags, _ = pairs(8)
    lags[:, :, 1] = lags[:, :, :, 1] = 0
    variance = np.diagonal(lags[0, 0]).astype(np.float64)
    got = gp.activate(lags, variance, gp.clip_activation(np.full(4, -0.1), variance, 0.0, math.inf), 2)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got[:, :, 1], 0, atol=1e-7)


# The prior


@pytest.mark.parametrize("size", [(32, 32), (7, 12), (1, 1)])
def test_the_prior_has_the_colours_at_one_pixel_and_falls_with_the_distance(size):
    colours = np.array([[1.0, 0.4], [0.4, 2.0]])
    lags = gp.natural_prior(*size, colours)
    assert lags.shape == (*size, 2, 2)
    np.testing.assert_allclose(lags[0, 0], colours, rtol=1e-6)
    shape = lags[:, :, 0, 0]
    np.testing.assert_allclose(lags, shape[:, :, None, None] * colours, rtol=1e-4, atol=1e-6)
    assert (np.diff(shape[0, : (size[1] + 1) // 2]) < 0).all()
    np.testing.assert_allclose(transposed(lags), lags, atol=1e-5)
    assert (np.fft.fft2(shape).real > -1e-4).all()


# Patches


@pytest.mark.parametrize(("kernel", "dilations"), [((1, 1), (1, 1)), ((3, 2), (1, 1)), ((2, 3), (2, 1))])
def test_a_patch_is_a_loop_over_its_entries(kernel, dilations):
    rng = np.random.default_rng(9)
    lags = rng.standard_normal((7, 6, 2, 2)).astype(np.float32)
    got = gp.patch_covariance(lags, kernel, dilations)
    entries = list(itertools.product(range(2), range(kernel[0]), range(kernel[1])))
    assert got.shape == (len(entries), len(entries))
    for (i, (a, ya, xa)), (j, (b, yb, xb)) in itertools.product(enumerate(entries), repeat=2):
        d = (yb - ya) * dilations[0] % 7, (xb - xa) * dilations[1] % 6
        assert got[i, j] == lags[*d, a, b]


def test_a_patch_beyond_the_window_has_its_farthest_lag():
    lags = np.float32([4, 2, 1, 1, 2]).reshape(1, 5, 1, 1)
    got = gp.patch_covariance(lags, (1, 5), (1, 1))
    assert got[0].tolist() == [4, 2, 1, 1, 1]


@given(seeds)
def test_the_nearest_covariance_is_positive(seed):
    matrix = np.random.default_rng(seed).standard_normal((3, 5, 5))
    matrix = matrix + matrix.swapaxes(1, 2)
    got = gp.nearest_covariance(matrix)
    assert np.linalg.eigvalsh(got).min() > -1e-9
    # The distance to the nearest is that of the eigenvalues below zero.
    values = np.minimum(np.linalg.eigvalsh(matrix), 0)
    np.testing.assert_allclose(np.square(got - matrix).sum(), np.square(values).sum(), rtol=1e-6)


@given(seeds)
def test_a_covariance_is_its_own_nearest(seed):
    root = np.random.default_rng(seed).standard_normal((3, 5, 7))
    matrix = root @ root.swapaxes(1, 2)
    np.testing.assert_allclose(gp.nearest_covariance(matrix), matrix, rtol=1e-9, atol=1e-9)


def test_large_matrices_are_left_as_they_are():
    matrix = -np.eye(gp.SMALL + 1)[None]
    assert gp.nearest_covariance(matrix) is matrix


# What a BatchNormalization measured


def measurable(seed, out=3, n=8):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((n, 2 * n))
    return root @ root.T / n, rng.standard_normal(n), rng.standard_normal((out, n)), rng.standard_normal(out)


def deviations_of(covariance, rows):
    return np.sqrt(np.diagonal(rows @ covariance @ rows.T))


@given(seeds)
def test_fewer_rows_than_entries_have_what_was_measured_afterwards(seed):
    covariance, mean, rows, true_mean = measurable(seed)
    true_std = deviations_of(covariance, rows) * np.random.default_rng(seed).uniform(0.5, 2, 3)
    got, centre = gp.condition_on_measurements(covariance, mean, rows, true_mean, true_std)
    np.testing.assert_allclose(deviations_of(got, rows), true_std, rtol=0.05)
    np.testing.assert_allclose(rows @ centre, true_mean, atol=0.05 * np.abs(true_mean - rows @ mean).max() + 1e-9)
    np.testing.assert_allclose(got, got.T, atol=1e-9)
    assert np.linalg.eigvalsh(got).min() > -1e-9


@given(seeds)
def test_what_was_derived_right_is_left_alone(seed):
    covariance, mean, rows, _ = measurable(seed)
    got, centre = gp.condition_on_measurements(covariance, mean, rows, rows @ mean, deviations_of(covariance, rows))
    np.testing.assert_allclose(got, covariance, atol=1e-8)
    np.testing.assert_allclose(centre, mean, atol=1e-8)


def test_entries_that_no_row_sees_are_left_alone():
    covariance, mean, rows, true_mean = measurable(10)
    covariance[:4, 4:] = covariance[4:, :4] = 0
    rows[:, 4:] = 0
    got, centre = gp.condition_on_measurements(covariance, mean, rows, true_mean, 1.5 * deviations_of(covariance, rows))
    np.testing.assert_allclose(got[4:], covariance[4:], atol=1e-12)
    np.testing.assert_allclose(centre[4:], mean[4:])


def test_the_correction_is_bounded():
    covariance, mean, rows, true_mean = measurable(11)
    derived = deviations_of(covariance, rows)
    for far, most in ((1e6, 5.0), (0.0, 0.2)):
        got, _ = gp.condition_on_measurements(covariance, mean, rows, true_mean, far * derived)
        np.testing.assert_allclose(deviations_of(got, rows), most * derived, rtol=0.05)


def test_an_input_without_variance_is_no_trouble():
    _, mean, rows, true_mean = measurable(12)
    got, centre = gp.condition_on_measurements(np.zeros((8, 8)), mean, rows, true_mean, np.ones(3))
    assert not got.any() and np.array_equal(centre, mean)
