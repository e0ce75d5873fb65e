import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfmpc_onnx.numerics.batch_norm import BatchNormParameters
from dfmpc_onnx.numerics.granularity import PerTensor
from dfmpc_onnx.numerics.recalibration import GAIN_LIMITS, READINGS, recalibrate, recalibrate_streams
from dfmpc_onnx.numerics.ternary import ternary
from tests.numerics.strategies import seeds

EPSILON = 1e-5
OUT, IN, TAPS = 4, 3, 9


def random_layer(seed):
    """Weight, its ternary form, the normalization, and the moments of the input."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((OUT, IN, TAPS)).astype(np.float32)
    gamma, beta, mean = rng.normal(size=(3, OUT))
    norm = BatchNormParameters(gamma, beta, mean, rng.uniform(0.3, 3, OUT), EPSILON)
    return weight, ternary(weight, PerTensor()).dequantize(), norm, rng.normal(size=IN), rng.uniform(0.1, 2, IN)


def slow(reading, w, q, m, s, mean, variance):
    """One output channel, as the docstring of the module has it."""
    taps = [(i, k) for i in range(IN) for k in range(TAPS)]

    def shift(rows):
        return sum(rows[i, k] * mean[i] for i, k in taps)

    def power(a, b):
        return sum(a[i, k] * b[i, k] * variance[i] for i, k in taps)

    if reading == "unchanged":
        return m, s
    if reading == "norm_ratio":
        ratio = np.sqrt(sum(q[t] ** 2 for t in taps) / sum(w[t] ** 2 for t in taps))
        return m * ratio, s * ratio
    if reading == "analytic":
        return shift(q), np.sqrt(power(q, q) + EPSILON)
    if reading == "analytic_ratio":
        return m + shift(q - w), s * np.sqrt(power(q, q) / power(w, w))
    a = power(q, w) / power(w, w)
    rest = q - a * w
    assert abs(power(rest, w)) < 1e-9
    return a * m + shift(rest), np.sqrt((a * s) ** 2 + power(rest, rest))


def assert_same(got, want, rtol=1e-5):
    np.testing.assert_allclose(got.mean, want.mean, rtol=rtol, atol=1e-5)
    np.testing.assert_allclose(got.std, want.std, rtol=rtol)


@pytest.mark.parametrize("reading", sorted(READINGS))
@pytest.mark.parametrize("seed", range(5))
def test_each_reading_is_its_loop(reading, seed):
    weight, quantized, norm, mean, variance = random_layer(seed)
    got = recalibrate(reading, weight, quantized, norm, mean, variance)
    rows = zip(weight.astype(np.float64), quantized.astype(np.float64), norm.mean, norm.std, strict=True)
    want = np.array([slow(reading, *row, mean, variance) for row in rows])
    assert_same(got, dataclasses.replace(norm, mean=want[:, 0], std=want[:, 1]))


@pytest.mark.parametrize("reading", sorted(READINGS))
def test_gamma_and_beta_are_kept(reading):
    weight, quantized, norm, mean, variance = random_layer(14)
    got = recalibrate(reading, weight, quantized, norm, mean, variance)
    assert np.array_equal(got.gamma, norm.gamma) and np.array_equal(got.beta, norm.beta)


@pytest.mark.parametrize("reading", sorted(READINGS - {"analytic"}))
@given(seed=seeds)
def test_an_unbroken_weight_changes_nothing(reading, seed):
    weight, _, norm, mean, variance = random_layer(seed)
    assert_same(recalibrate(reading, weight, weight, norm, mean, variance), norm)


def test_the_absolute_reading_forgets_what_was_measured():
    weight, _, norm, mean, variance = random_layer(15)
    got = recalibrate("analytic", weight, weight, norm, mean, variance)
    other = dataclasses.replace(norm, mean=norm.mean + 1, std=2 * norm.std)
    assert_same(recalibrate("analytic", weight, weight, other, mean, variance), got)
    assert not np.allclose(got.std, norm.std, rtol=0.01) and not np.allclose(got.mean, norm.mean, atol=0.01)


@pytest.mark.parametrize("reading", ["norm_ratio", "projection"])
@given(seed=seeds, a=st.floats(0.05, 20))
def test_a_scaled_weight_scales_what_was_measured(reading, seed, a):
    weight, _, norm, mean, variance = random_layer(seed)
    got = recalibrate(reading, weight, np.float32(a) * weight, norm, mean, variance)
    np.testing.assert_allclose(got.mean, a * norm.mean, rtol=1e-4, atol=1e-4 * a)
    np.testing.assert_allclose(got.std, a * norm.std, rtol=1e-5)


@pytest.mark.parametrize("reading", sorted(READINGS - {"unchanged"}))
@given(seed=seeds, a=st.integers(-6, 6).map(lambda k: np.float32(2.0**k)))
def test_the_deviation_follows_the_scale_of_the_codes(reading, seed, a):
    weight, quantized, norm, mean, variance = random_layer(seed)
    norm = dataclasses.replace(norm, epsilon=0.0)
    plain = recalibrate(reading, weight, quantized, norm, mean, variance)
    scaled = recalibrate(reading, weight, a * quantized, norm, mean, variance)
    np.testing.assert_allclose(scaled.std, a * plain.std, rtol=1e-5)


def test_epsilon_is_all_that_a_constant_input_leaves():
    weight, quantized, norm, mean, _ = random_layer(16)
    got = recalibrate("analytic", weight, quantized, norm, mean, np.zeros(IN))
    np.testing.assert_allclose(got.std, np.sqrt(EPSILON))


def test_analytic_is_what_independent_inputs_give():
    weight, quantized, norm, _, _ = random_layer(16)
    rng = np.random.default_rng(17)
    shape, scale = np.array([0.5, 1.0, 4.0]), np.array([2.0, 1.0, 0.25])  # gamma distributions, nothing like normal
    x = rng.gamma(shape[:, None], scale[:, None], (60_000, IN, TAPS))
    y = x.reshape(-1, IN * TAPS) @ quantized.reshape(OUT, -1).T
    got = recalibrate("analytic", weight, quantized, norm, shape * scale, shape * scale**2)
    np.testing.assert_allclose(got.mean, y.mean(axis=0), atol=0.02 * y.std())
    np.testing.assert_allclose(got.std, y.std(axis=0), rtol=0.02)


def test_the_projection_is_what_independent_inputs_give_where_the_norm_was_measured_on_them():
    weight, quantized, norm, mean, variance = random_layer(18)
    norm = dataclasses.replace(norm, epsilon=0.0)
    measured = recalibrate("analytic", weight, weight, norm, mean, variance)
    want = recalibrate("analytic", weight, quantized, norm, mean, variance)
    for reading in ("analytic_ratio", "projection"):
        assert_same(recalibrate(reading, weight, quantized, measured, mean, variance), want)


def test_a_reading_without_a_name():
    with pytest.raises(ValueError, match="no reading named guess; there are analytic,"):
        recalibrate("guess", *random_layer(19))


@dataclasses.dataclass(frozen=True)
class Streams:
    mean: np.ndarray
    variance: np.ndarray
    mean_hat: np.ndarray
    variance_hat: np.ndarray


def random_streams(seed):
    """Two streams of one network, and the mean and variance that its normalization holds."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(64, OUT)) * rng.uniform(0.5, 2, OUT) + rng.normal(size=OUT)
    y = rng.uniform(0.3, 2, OUT) * x + rng.normal(size=(64, OUT)) * rng.uniform(0, 3, OUT)
    found = Streams(x.mean(axis=0), x.var(axis=0), y.mean(axis=0), y.var(axis=0))
    return found, rng.normal(size=OUT), rng.uniform(0.2, 3, OUT)


def slow_streams(m0, v0, m1, v1, mean, variance):
    gain = min(max((v0 / v1) ** 0.5, GAIN_LIMITS[0]), GAIN_LIMITS[1])
    r = ((variance + EPSILON) / (v0 + EPSILON)) ** 0.5
    return m1 * r + (mean - m0 * r) / gain, max((variance + EPSILON) / gain**2 - EPSILON, 0), gain


@given(seeds)
def test_streams_are_the_loop(seed):
    found, mean, variance = random_streams(seed)
    got = recalibrate_streams(found, mean, variance, EPSILON)
    want = [slow_streams(*row, e, v) for *row, e, v in zip(*dataclasses.astuple(found), mean, variance, strict=True)]
    np.testing.assert_allclose(np.stack([got.mean, got.variance, got.scale], axis=1), want, rtol=1e-9, atol=1e-12)


@given(seeds)
def test_equal_streams_change_nothing(seed):
    found, mean, variance = random_streams(seed)
    same = Streams(found.mean, found.variance, found.mean, found.variance)
    got = recalibrate_streams(same, mean, variance, EPSILON)
    np.testing.assert_allclose(got.mean, mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got.variance, variance, rtol=1e-9)
    np.testing.assert_allclose(got.scale, 1)


@given(seeds, st.floats(0.25, 4), st.floats(-3, 3))
def test_a_stream_that_is_only_scaled_and_moved_is_brought_back(seed, a, b):
    """Both normalizations then give the same number for the same pixel."""
    found, mean, variance = random_streams(seed)
    x = found.mean + np.array([[-1.0], [0.0], [2.0]])
    v = found.variance
    got = recalibrate_streams(Streams(found.mean, v, a * found.mean + b, a * a * v), mean, variance, EPSILON)
    r = np.sqrt((variance + EPSILON) / (v + EPSILON))
    before = (r * x - mean) / np.sqrt(variance + EPSILON)
    after = (r * (a * x + b) - got.mean) / np.sqrt(got.variance + EPSILON)
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-9)


def test_a_stream_without_variance_keeps_the_gain_and_moves_the_mean():
    found, mean, variance = random_streams(20)
    dead = dataclasses.replace(found, variance_hat=np.zeros(OUT))
    got = recalibrate_streams(dead, mean, variance, EPSILON)
    assert got.scale.tolist() == [1] * OUT
    np.testing.assert_allclose(got.variance, variance)


@pytest.mark.parametrize("epsilon", [EPSILON, 0.0])
@pytest.mark.parametrize("variance", [0.0, 1e-9])
def test_a_stream_that_stands_still_moves_the_mean_as_it_is(epsilon, variance):
    """Its own deviation is none, so a shift is not counted in it."""
    found, mean, trained = random_streams(21)
    still = dataclasses.replace(found, variance=np.full(OUT, variance), variance_hat=np.full(OUT, variance))
    got = recalibrate_streams(still, mean, trained, epsilon)
    np.testing.assert_allclose(got.mean - mean, found.mean_hat - found.mean, rtol=1e-9)


@given(seeds, st.floats(1e-6, 1e6))
def test_the_gain_stays_within_its_limits(seed, power):
    found, mean, variance = random_streams(seed)
    got = recalibrate_streams(dataclasses.replace(found, variance_hat=found.variance * power), mean, variance, EPSILON)
    assert (got.scale >= GAIN_LIMITS[0]).all() and (got.scale <= GAIN_LIMITS[1]).all()
    assert (got.variance >= 0).all()
