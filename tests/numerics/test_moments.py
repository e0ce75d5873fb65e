import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from dfmpc_onnx.numerics.moments import (
    clipped_gaussian,
    error_through,
    function_of_gaussian,
    leaky_gaussian,
    linear_moments,
    normal_cdf,
    normal_pdf,
)

INF = math.inf
means = st.floats(-8, 8)
deviations = st.floats(2.0**-6, 8)
BOUNDS = [(0, INF), (0, 6), (-1, 1), (-INF, 2), (-INF, INF), (0.5, 0.75), (-3, INF)]


def integrated(function, mean, std, kinks=()):
    """Mean and variance of ``function(x)`` by adaptive quadrature over twelve deviations, split at the kinks."""

    def average(g):
        cuts = sorted({-12.0, 12.0, *(z for k in kinks if abs(z := (k - mean) / std) < 12)})
        pairs = itertools.pairwise(cuts)
        return sum(integrate.quad(lambda z: g(mean + std * z) * density(z), a, b, epsabs=1e-12)[0] for a, b in pairs)

    expected = average(function)
    return expected, average(lambda x: (function(x) - expected) ** 2)


def density(z):
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def one(result):
    """The mean and variance of the only channel."""
    return tuple(float(a[0]) for a in result)


def channel(value):
    return np.array([value], np.float64)


def assert_moments(got, want, std, rel=1e-6, least=1e-9):
    assert got[0] == pytest.approx(want[0], rel=rel, abs=least * std)
    assert got[1] == pytest.approx(want[1], rel=rel, abs=least * std**2)


def test_the_normal_distribution_to_both_tails():
    z = np.array([-INF, -37.0, -8.0, -1.0, 0.0, 2.0, 8.0, 37.0, INF])
    np.testing.assert_allclose(normal_cdf(z), stats.norm.cdf(z), rtol=1e-12)
    np.testing.assert_allclose(normal_pdf(z), stats.norm.pdf(z), rtol=1e-12)
    assert normal_cdf(np.zeros((2, 3))).shape == (2, 3)


@pytest.mark.parametrize(("low", "high"), BOUNDS)
@given(mean=means, std=deviations)
def test_a_clipped_gaussian_is_the_integral(low, high, mean, std):
    got = one(clipped_gaussian(channel(mean), channel(std**2), low, high))
    finite = [b for b in (low, high) if math.isfinite(b)]
    assert_moments(got, integrated(lambda x: min(max(x, low), high), mean, std, finite), std)


@given(means, deviations)
def test_relu_is_the_rectified_gaussian_of_the_method(mean, std):
    z = mean / std
    cdf, pdf = stats.norm.cdf(z), stats.norm.pdf(z)
    first = mean * cdf + std * pdf
    second = (mean**2 + std**2) * cdf + mean * std * pdf
    scale = mean**2 + std**2
    got = one(clipped_gaussian(channel(mean), channel(std**2)))
    assert got[0] == pytest.approx(first, abs=1e-12 * math.sqrt(scale))
    assert got[1] == pytest.approx(second - first**2, abs=1e-12 * scale)


@given(means, deviations, st.sampled_from(BOUNDS))
def test_clipping_the_mirrored_gaussian_mirrors(mean, std, bounds):
    low, high = bounds
    plain = one(clipped_gaussian(channel(mean), channel(std**2), low, high))
    mirrored = one(clipped_gaussian(channel(-mean), channel(std**2), -high, -low))
    assert_moments((-mirrored[0], mirrored[1]), plain, std, rel=1e-9)


@given(means, deviations, st.integers(-10, 10))
def test_clipping_is_scale_equivariant(mean, std, power):
    factor = 2.0**power
    plain = one(clipped_gaussian(channel(mean), channel(std**2), -1, 2))
    scaled = one(clipped_gaussian(channel(mean * factor), channel((std * factor) ** 2), -factor, 2 * factor))
    assert scaled == pytest.approx((plain[0] * factor, plain[1] * factor**2), rel=1e-9, abs=1e-12 * factor)


@pytest.mark.parametrize(("low", "high"), BOUNDS)
@pytest.mark.parametrize("variance", [0.0, -1e-18])
def test_a_constant_is_clipped_and_stays_constant(low, high, variance):
    mean = np.array([-5.0, 0.0, 0.6, 5.0])
    got = clipped_gaussian(mean, np.full(4, variance), low, high)
    assert got[0].tolist() == np.clip(mean, low, high).tolist() and got[1].tolist() == [0] * 4


def test_without_bounds_nothing_changes():
    mean, variance = np.array([-3.0, 0.0, 100.0]), np.array([1.0, 0.25, 9.0])
    got = clipped_gaussian(mean, variance, -INF, INF)
    np.testing.assert_allclose(got, (mean, variance), rtol=1e-12)


def test_a_small_variance_far_above_the_bound_survives():
    got = one(clipped_gaussian(channel(100.0), channel(1e-8)))
    assert got == pytest.approx((100.0, 1e-8), rel=1e-3)


@pytest.mark.parametrize("bounds", [(1000.0, INF), (-INF, 1000.0), (1000.0, 2000.0)])
def test_a_small_variance_at_a_distant_bound_survives(bounds):
    got = one(clipped_gaussian(channel(1000.0), channel(1e-8), *bounds))
    assert got[1] == pytest.approx(1e-8 * (0.5 - 1 / (2 * math.pi)), rel=1e-6)


def test_a_gaussian_far_outside_sits_on_the_bound():
    got = clipped_gaussian(np.array([-50.0, 50.0]), np.ones(2), 0.0, 6.0)
    np.testing.assert_allclose(got, ([0, 6], [0, 0]), atol=1e-12)


@given(means, deviations, st.floats(-2, 2))
def test_a_leaky_gaussian_is_the_integral(mean, std, slope):
    got = one(leaky_gaussian(channel(mean), channel(std**2), slope))
    want = integrated(lambda x: x if x > 0 else slope * x, mean, std, [0])
    # E[x^2] - E[x]^2 in float64 loses what the square of the mean is larger by.
    assert got[0] == pytest.approx(want[0], rel=1e-6, abs=1e-9 * std)
    assert got[1] == pytest.approx(want[1], rel=1e-6, abs=1e-9 * std**2 + 1e-13 * mean**2)


@given(means, deviations)
def test_slopes_with_a_name(mean, std):
    m, v = channel(mean), channel(std**2)
    tolerance = 1e-12 * (mean**2 + std**2)
    assert one(leaky_gaussian(m, v, 1.0)) == pytest.approx((mean, std**2), abs=max(tolerance, 1e-12))
    assert one(leaky_gaussian(m, v, 0.0)) == pytest.approx(one(clipped_gaussian(m, v)), abs=max(tolerance, 1e-12))
    folded = stats.foldnorm(abs(mean) / std, scale=std)
    assert one(leaky_gaussian(m, v, -1.0)) == pytest.approx((folded.mean(), folded.var()), rel=1e-6, abs=1e-9 * std)


def test_a_slope_for_each_channel_against_samples():
    mean, variance, slope = np.array([-1.0, 0.5, 2.0]), np.array([4.0, 1.0, 0.0]), np.array([0.25, -0.5, 0.1])
    x = mean + np.sqrt(variance) * np.random.default_rng(6).standard_normal((200_000, 3))
    y = np.where(x > 0, x, slope * x)
    got = leaky_gaussian(mean, variance, slope)
    np.testing.assert_allclose(got[0], y.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(got[1], y.var(axis=0), rtol=0.02, atol=1e-12)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("function", [sigmoid, np.tanh, lambda x: x * sigmoid(x), lambda x: np.log1p(np.exp(x))])
@given(mean=st.floats(-4, 4), std=st.floats(0.05, 1.5))
def test_smooth_activations_are_the_integral(function, mean, std):
    got = one(function_of_gaussian(channel(mean), channel(std**2), function))
    assert_moments(got, integrated(function, mean, std), 1.0, rel=1e-4)


@given(means, deviations)
def test_polynomials_are_exact(mean, std):
    def cubic(x):
        return x**3 - 2 * x

    # Moments of a normal variable: E x^3 = m^3 + 3 m s^2, and Var from the Hermite coefficients of the cubic.
    slope, curve, third = (3 * mean**2 + 3 * std**2 - 2) * std, 3 * mean * std**2, std**3
    want = mean**3 + 3 * mean * std**2 - 2 * mean, slope**2 + 2 * curve**2 + 6 * third**2
    got = one(function_of_gaussian(channel(mean), channel(std**2), cubic))
    assert got == pytest.approx(want, rel=1e-9, abs=1e-9 * (1 + abs(mean) ** 3 + std**3))


@given(means, deviations)
def test_a_kink_costs_about_a_hundredth(mean, std):
    m, v = channel(mean), channel(std**2)
    got, want = one(function_of_gaussian(m, v, lambda x: np.maximum(x, 0))), one(clipped_gaussian(m, v))
    assert got[0] == pytest.approx(want[0], abs=0.01 * std) and got[1] == pytest.approx(want[1], abs=0.01 * std**2)


def test_a_function_of_a_constant():
    got = function_of_gaussian(np.array([0.5, -2.0]), np.array([0.0, -1e-18]), np.tanh)
    np.testing.assert_allclose(got[0], np.tanh([0.5, -2.0]), rtol=1e-12)
    np.testing.assert_allclose(got[1], 0, atol=1e-24)


@pytest.mark.parametrize("grouped", [False, True])
def test_linear_moments_is_the_loop(grouped):
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((4, 3, 9)).astype(np.float32)
    shape = (4, 3) if grouped else (3,)
    mean, variance, bias = rng.standard_normal(shape), rng.gamma(1, size=shape), rng.standard_normal(4)
    got = linear_moments(rows, mean, variance, bias)
    for o in range(4):
        e, v = (mean[o], variance[o]) if grouped else (mean, variance)
        want_mean, want_variance = bias[o], 0.0
        for i in range(3):
            for w in rows[o, i].tolist():
                want_mean += w * e[i]
                want_variance += w * w * v[i]
        assert got[0][o] == pytest.approx(want_mean) and got[1][o] == pytest.approx(want_variance)
    assert np.allclose(linear_moments(rows, mean, variance)[0], got[0] - bias)


@pytest.mark.parametrize(
    ("function", "slope"),
    [
        (lambda x: np.maximum(x, 0), lambda x: x > 0),
        (lambda x: np.clip(x, 0, 1), lambda x: (x > 0) & (x < 1)),
        (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
        (lambda x: 3 * x, lambda x: 3.0 + 0 * x),
    ],
)
@given(means, deviations)
def test_an_error_passes_by_the_square_of_the_slope(function, slope, mean, std):
    left, *behind = error_through(channel(mean), channel(std**2), function)
    got = left[0]
    points = mean + std * np.linspace(-8, 8, 20_001)
    weights = stats.norm.pdf(np.linspace(-8, 8, 20_001))
    want = float(np.square(slope(points)) @ weights / weights.sum())
    assert got == pytest.approx(want, abs=0.06 * max(float(np.square(slope(points)).max()), 1e-9) + 1e-9)
    assert_moments(one(behind), integrated(function, mean, std, kinks=(0, 1)), std, rel=0.02, least=1e-7)


def test_without_variance_an_error_passes_by_the_slope_at_the_mean():
    got, _, variance = error_through(np.array([2.0, -2.0]), np.zeros(2), lambda x: np.maximum(x, 0))
    np.testing.assert_allclose(variance, 0.0, atol=1e-12)
    np.testing.assert_allclose(got, [1.0, 0.0], atol=1e-6)


def test_where_a_function_leaves_float64_nothing_is_finite_and_nobody_is_warned():
    left, mean, variance = error_through(np.array([800.0]), np.array([1e4]), np.exp)
    assert not np.isfinite([left, mean, variance]).any()
