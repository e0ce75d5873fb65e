import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfmpc_onnx.numerics.moment_match import (
    FREEDOM,
    INDEPENDENT,
    MEAN_TOLERANCE,
    VARIANCE_TOLERANCE,
    WORST,
    mismatch,
    shares,
)
from tests.numerics.strategies import seeds


def moments(seed, channels=6):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 2, channels), rng.uniform(0.2, 5, channels)


def slow(mean, variance, predicted_mean, predicted_variance):
    found = []
    for m, v, pm, pv in zip(mean, variance, predicted_mean, predicted_variance, strict=True):
        z = (m - pm) / math.sqrt(pv) / MEAN_TOLERANCE, math.log(v / pv) / VARIANCE_TOLERANCE
        found.append(sum((FREEDOM + 1) / 2 * math.log(1 + x * x / FREEDOM) for x in z))
    return found


@given(seeds, seeds)
def test_channel_by_channel_it_is_students_log_likelihood(seed, other):
    measured, predicted = moments(seed), moments(other)
    assert mismatch(*measured, *predicted) == pytest.approx(slow(*measured, *predicted), rel=1e-3, abs=1e-9)


@given(seeds)
def test_what_is_as_predicted_has_no_mismatch(seed):
    assert np.array_equal(mismatch(*moments(seed), *moments(seed)), np.zeros(6))


@given(seeds, seeds, st.floats(1e-3, 1e3), st.floats(-5, 5))
def test_units_do_not_matter(seed, other, scale, offset):
    (m, v), (pm, pv) = moments(seed), moments(other)
    moved = mismatch(scale * m + offset, scale**2 * v, scale * pm + offset, scale**2 * pv)
    assert np.allclose(moved, mismatch(m, v, pm, pv), rtol=1e-6, atol=1e-6)


@given(seeds, st.floats(0.1, 3), st.floats(1.1, 4))
def test_what_is_farther_fits_worse(seed, shift, ratio):
    m, v = moments(seed)
    near, far = (mismatch(m, v, m + k * shift * np.sqrt(v), v) for k in (1, 2))
    assert (near > 0).all() and (far > near).all()
    near, far = (mismatch(m, v, m, v * ratio**k) for k in (1, 2))
    assert (near > 0).all() and (far > near).all()


def test_one_channel_that_is_wholly_off_does_not_outweigh_the_others():
    m, v = np.zeros(6), np.ones(6)
    off = v * [1e6, 1, 1, 1, 1, 1]
    assert mismatch(m, v, m, off).mean() < mismatch(m, v, m, v * 4).mean() * 3


def test_dead_channels_say_nothing():
    m, v = np.array([0.0, 0.0, 7.0, 0.0]), np.array([1.0, 2.0, 1e-9, 3.0])
    assert len(mismatch(m, v, np.zeros(4), v + 1)) == 3
    assert mismatch(np.zeros(2), np.zeros(2), np.ones(2), np.ones(2)).size == 0
    assert mismatch(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0)).size == 0
    assert mismatch(np.zeros(2), np.array([np.nan, 1.0]), np.ones(2), np.ones(2)).size == 0
    assert mismatch(np.zeros(2), np.array([-1.0, -1.0]), np.ones(2), np.ones(2)).size == 0


def test_a_prediction_that_is_not_finite_is_the_worst():
    got = mismatch(np.zeros(3), np.ones(3), np.array([np.nan, np.inf, 0]), np.array([1.0, 1.0, np.inf]))
    assert got.tolist() == [WORST] * 3


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=6), st.integers(1, 100))
def test_shares_are_probabilities_in_the_order_of_the_mismatches(mismatches, channels):
    found = shares(np.array(mismatches), channels)
    assert found.sum() == pytest.approx(1) and (found >= 0).all()
    order = np.argsort(mismatches)
    assert (np.diff(found[order]) <= 0).all()
    assert np.allclose(found, shares(np.array(mismatches) + 5.0, channels))


def test_more_channels_make_surer_but_count_only_so_far():
    one, six, many = (shares(np.array([0.0, 0.5]), n)[0] for n in (1, int(INDEPENDENT), 500))
    assert one < six == many == pytest.approx(1 / (1 + math.exp(-3)))
