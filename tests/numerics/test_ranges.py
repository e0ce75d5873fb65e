import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfmpc_onnx.numerics.moments import clipped_gaussian
from dfmpc_onnx.numerics.ranges import (
    LEVELS,
    REACH,
    equal_reach,
    moment_range,
    power_of_two_qparams,
    skewed_range,
    unsigned_qparams,
    without_room,
)
from tests.numerics.strategies import seeds

ends = st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-6)
INF = math.inf


def slow_range(mean, variance, low, high, deviations):
    bottoms = [max(m - deviations * math.sqrt(v), a) for m, v, a in zip(mean, variance, low, strict=True)]
    tops = [min(m + deviations * math.sqrt(v), b) for m, v, b in zip(mean, variance, high, strict=True)]
    return min(bottoms), max(tops)


@given(seeds, st.floats(0, 10), st.sampled_from([(-INF, INF), (0, INF), (0, 6), (-INF, 1), (-1, 1)]))
def test_the_widest_channel_within_the_bounds_of_the_activation(seed, deviations, bounds):
    rng = np.random.default_rng(seed)
    mean, variance = np.clip(rng.normal(0, 3, 5), *bounds), rng.gamma(1, size=5)
    low, high = (np.full(5, float(b)) for b in bounds)
    got = moment_range(mean, variance, low, high, deviations)
    assert got == pytest.approx(slow_range(mean, variance, low, high, deviations))
    assert bounds[0] <= got[0] <= mean.min() and mean.max() <= got[1] <= bounds[1]


def test_bounds_hold_for_each_channel_by_itself():
    got = moment_range(np.array([0.0, 5.0]), np.ones(2), np.array([0.0, -INF]), np.array([2.0, INF]), 3.0)
    assert got == (0.0, 8.0)


def test_eight_deviations_and_a_negative_variance_counts_as_none():
    free = np.array([-INF]), np.array([INF])
    assert moment_range(np.ones(1), np.full(1, 4.0), *free) == (-15.0, 17.0)
    assert moment_range(np.ones(1), np.full(1, -1e-12), *free) == (1.0, 1.0)


@given(ends, ends)
def test_zero_is_a_code_and_the_range_is_covered_to_half_a_step(a, b):
    low, high = min(a, b), max(a, b)
    scale, zero_point = unsigned_qparams(low, high)
    assert scale.dtype == np.float32 and zero_point.dtype == np.uint8 and scale > 0
    levels = float(scale) * (np.arange(LEVELS + 1) - int(zero_point))
    assert 0.0 in levels
    for x in np.linspace(min(low, 0), max(high, 0), 37):
        assert np.abs(levels - x).min() <= float(scale) * (0.5 + 1e-4)


@given(ends, ends)
def test_codes_of_16_bits_are_as_good_at_a_step_257_times_as_fine(a, b):
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    (coarse, _), (scale, zero) = (unsigned_qparams(low, high, bits) for bits in (8, 16))
    assert zero.dtype == np.uint16
    if high > low:
        assert float(scale) * 257 == pytest.approx(float(coarse), rel=1e-6)
        ends_of_codes = float(scale) * (0 - int(zero)), float(scale) * (65535 - int(zero))
        assert ends_of_codes == pytest.approx((low, high), abs=float(scale) * 0.51)


@given(ends, ends)
def test_no_code_is_wasted(a, b):
    """The levels span the range, with zero in it, and no more."""
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    scale, _ = unsigned_qparams(min(a, b), max(a, b))
    if high > low:
        assert float(scale) * LEVELS == pytest.approx(high - low, rel=1e-6)


@given(st.floats(1e-6, 1e6))
def test_the_zero_point_of_a_relu_is_zero_and_no_code_lies_above_its_range(high):
    scale, zero_point = unsigned_qparams(0.0, high)
    assert zero_point == 0 and float(scale) * LEVELS <= high


@given(st.floats(1e-6, 1e6))
def test_the_zero_point_of_what_is_never_positive_is_the_last_code(low):
    scale, zero_point = unsigned_qparams(-low, -low / 2)
    assert zero_point == LEVELS and float(scale) * LEVELS == pytest.approx(low, rel=1e-6)


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.integers(-20, 20))
def test_a_scaled_range_has_the_same_zero_point(low, high, power):
    scale, zero_point = unsigned_qparams(-low, high)
    wide_scale, wide_zero_point = unsigned_qparams(-low * 2.0**power, high * 2.0**power)
    assert wide_zero_point == zero_point and wide_scale == scale * np.float32(2.0**power)


def test_a_range_without_width():
    assert unsigned_qparams(0.0, 0.0) == (1, 0)


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero_point"), [(0, 255, 1, 0), (-128, 127, 1, 128), (-255, -3, 1, 255), (2, 510, 2, 0)]
)
def test_plain_ranges(low, high, scale, zero_point):
    assert unsigned_qparams(low, high) == (scale, zero_point)


@given(st.floats(-0.9, 3.0), st.floats(0.1, 5.0), st.floats(0.2, 2.0), st.floats(-1.0, 1.0))
def test_a_rectified_channel_reaches_to_four_deviations_of_what_was_cut(t, deviation, gamma, beta):
    centre = np.array([t * deviation])
    mean, variance = clipped_gaussian(centre, np.array([deviation**2]))
    std = np.sqrt(variance)
    for sign in (1, -1):
        low, high = skewed_range(mean, std, np.array([sign * gamma]), np.array([beta]))
        ends = [beta + sign * gamma * (x - mean[0]) / std[0] for x in (0.0, (t + 4) * deviation)]
        assert np.allclose((low, high), (min(ends), max(ends)), rtol=1e-3, atol=1e-3)


def test_a_channel_that_is_never_or_always_above_0_has_a_finite_range():
    rare, always = (skewed_range(np.array([m]), np.array([s]), np.ones(1), np.zeros(1)) for m, s in ((0, 0), (1e9, 1)))
    assert np.isfinite(rare).all() and rare[1] < 20
    assert np.allclose(always, (-8, 4), atol=1e-6)


def slow_reach(mean, std, epsilon):
    channels = range(len(mean[0]))
    reach = [max((abs(m[j]) + 8 * s[j]) / 8 for m, s in zip(mean, std, strict=True)) for j in channels]
    shortest = sorted(reach)[len(reach) // 2] / 16
    most = [min(s[j] / (2 * e**0.5) for s, e in zip(std, epsilon, strict=True)) for j in channels]
    return [min(max(reach[j], shortest), most[j]) for j in channels]


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3, 0.3])
def test_equal_reach_is_that_of_the_reader_that_saw_the_channel_reach_farthest(epsilon):
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=(3, 7)), np.exp(rng.normal(size=(3, 7), scale=2)) + epsilon**0.5
    want = slow_reach(mean.tolist(), std.tolist(), [epsilon] * 3)
    assert np.allclose(equal_reach(mean, std, np.full(3, epsilon)), want)


def test_behind_equal_reach_the_variance_stays_above_epsilon():
    mean, std = np.array([[1e6, 0.0, 3.0]]), np.array([[1e-3, 1e-3, 1.0]])
    a = equal_reach(mean, std, np.array([1e-6]))
    assert np.all(np.square(std / a) > 3e-6)


def test_equal_reach_leaves_what_it_cannot_measure():
    assert equal_reach(np.array([[np.inf, 0.0]]), np.array([[0.0, 0.0]]), np.array([0.0])).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("peak", [1e-30, 0.3, 1.0, 127.0, 127 * 1.5, 128 * 1.5, 1e30])
def test_a_power_of_two_covers_a_range_and_half_of_it_does_not(peak):
    for low, high in ((-peak, peak / 2), (0.0, peak)):
        scale, zero = power_of_two_qparams(low, high)
        assert np.frexp(scale)[0] == 0.5 and zero == 0 and zero.dtype == np.int8
        assert (127 * scale >= peak * (1 - 2e-5) and 127 * scale / 2 < peak) or peak in (1e-30, 1e30)
    assert power_of_two_qparams(0.0, 0.0) == (1, 0)
    assert without_room((-3.0, 6.0)) == (-3.0 / REACH, 6.0 / REACH)
