import itertools

import numpy as np
import pytest
from hypothesis import given

from dfmpc_onnx.numerics.granularity import PerAxis, PerTensor
from dfmpc_onnx.numerics.ternary import ternary, ternary_optimal
from tests.numerics.strategies import powers_of_two, seeds, sliced_weights

GRANULARITIES = [PerTensor(), PerAxis(0), PerAxis(1)]
ONE = np.float32([1])


def optimal(weight, granularity):
    return ternary_optimal(weight, ONE, granularity)


both = pytest.mark.parametrize("quantizer", [ternary, optimal])


def slow_ternary(row):
    threshold = 0.7 * sum(abs(w) for w in row) / len(row)
    codes = [int(w > threshold) - int(w < -threshold) for w in row]
    kept = [abs(w) for w in row if abs(w) > threshold]
    return codes, sum(kept) / len(kept)


def brute_force(row, h):
    """The least loss over all codes in {-1, 0, 1}^n, each with the alpha of least squares."""
    losses = [sum(h * row**2)]
    for codes in itertools.product((-1, 0, 1), repeat=len(row)):
        t = np.array(codes)
        if (mass := sum(h * t * t)) > 0:
            alpha = sum(h * row * t) / mass
            losses.append(sum(h * (row - alpha * t) ** 2))
    return min(losses)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_the_threshold_rule(granularity):
    weight = np.random.default_rng(1).standard_normal((4, 3, 3, 3)).astype(np.float32)
    got = ternary(weight, granularity)
    codes, scales = granularity.rows(got.codes), got.scale.reshape(-1)
    for row, code, scale in zip(granularity.rows(weight).tolist(), codes.tolist(), scales, strict=True):
        want_codes, want_scale = slow_ternary(row)
        assert code == want_codes and scale == pytest.approx(want_scale, rel=1e-6)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@given(seed=seeds)
def test_optimal_is_the_best_of_all_codes_and_scales(granularity, seed):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((2, 2, 1)).astype(np.float32)
    weight[rng.random(weight.shape) < 0.2] = 0
    h = rng.gamma(0.5, size=weight.shape).astype(np.float32)
    h[rng.random(weight.shape) < 0.2] = 0
    got = ternary_optimal(weight, h, granularity).dequantize()
    for w, m, q in zip(*(granularity.rows(a).astype(np.float64) for a in (weight, h, got)), strict=True):
        m = m if m.any() else np.ones_like(m)
        assert sum(m * (w - q) ** 2) == pytest.approx(brute_force(w, m), rel=1e-9, abs=1e-12)


@given(seeds)
def test_optimal_is_the_best_for_a_row_of_seven(seed):
    rng = np.random.default_rng(seed)
    row, h = (a.astype(np.float32).astype(np.float64) for a in (rng.standard_normal(7), rng.gamma(0.5, size=7)))
    got = ternary_optimal(row.astype(np.float32), h.astype(np.float32), PerTensor()).dequantize()
    codes = np.array([t for t in itertools.product((-1.0, 0.0, 1.0), repeat=7) if any(t)])
    gains = (codes @ (h * row)) ** 2 / (codes**2 @ h)  # what the best alpha takes off the loss
    assert sum(h * (row - got) ** 2) == pytest.approx(sum(h * row**2) - max(gains), rel=1e-9, abs=1e-12)


def test_the_second_moment_of_an_input_channel_broadcasts():
    weight = np.random.default_rng(2).standard_normal((4, 3, 2, 2)).astype(np.float32)
    h = np.float32([0.1, 5, 1]).reshape(1, 3, 1, 1)
    got = ternary_optimal(weight, h, PerAxis(0))
    want = ternary_optimal(weight, np.tile(h, (4, 1, 2, 2)), PerAxis(0))
    assert np.array_equal(got.codes, want.codes) and np.array_equal(got.scale, want.scale)
    assert not np.array_equal(got.scale, optimal(weight, PerAxis(0)).scale)


def test_where_no_input_has_energy_all_count_alike():
    weight = np.random.default_rng(3).standard_normal((2, 8)).astype(np.float32)
    got = ternary_optimal(weight, np.zeros(1, np.float32), PerAxis(0))
    assert np.array_equal(got.dequantize(), optimal(weight, PerAxis(0)).dequantize())


@given(sliced_weights())
def test_optimal_never_loses_to_the_rule(case):
    weight, granularity = case
    rule, best = (np.square(q(weight, granularity).dequantize() - weight).sum() for q in (ternary, optimal))
    assert best <= rule * (1 + 1e-5)


@both
@given(case=sliced_weights())
def test_the_form_of_the_result(quantizer, case):
    weight, granularity = case
    got = quantizer(weight, granularity)
    assert set(np.unique(got.codes)) <= {-1, 0, 1}
    assert got.codes.dtype == np.int8 and got.codes.shape == weight.shape
    assert got.scale.dtype == np.float32 and got.scale.shape == granularity.scale_shape(weight.shape)
    assert (got.scale > 0).all() and not got.zero_point.any()
    assert got.bits == 2 and got.ternary


@both
@given(case=sliced_weights())
def test_a_code_is_zero_or_has_the_sign_of_its_weight(quantizer, case):
    weight, granularity = case
    codes = quantizer(weight, granularity).codes
    assert np.array_equal(codes, np.sign(weight) * np.abs(codes))


@both
@given(case=sliced_weights())
def test_the_largest_weight_of_a_slice_is_kept(quantizer, case):
    weight, granularity = case
    got = quantizer(weight, granularity)
    for row, codes in zip(granularity.rows(weight), granularity.rows(got.codes), strict=True):
        assert np.abs(codes).max() == np.abs(row).max().astype(bool)


@both
@given(case=sliced_weights())
def test_idempotent(quantizer, case):
    weight, granularity = case
    once = quantizer(weight, granularity)
    twice = quantizer(once.dequantize(), granularity)
    assert np.array_equal(once.codes, twice.codes)
    np.testing.assert_allclose(twice.scale, np.where(_used(once, granularity), once.scale, 1), rtol=1e-6)


def _used(quantized, granularity):
    used = granularity.rows(quantized.codes).any(axis=1)
    return used.reshape(quantized.scale.shape)


@both
@given(case=sliced_weights(), factor=powers_of_two)
def test_a_scaled_weight_has_the_same_codes_and_a_scaled_scale(quantizer, case, factor):
    weight, granularity = case
    plain, scaled = quantizer(weight, granularity), quantizer(weight * factor, granularity)
    assert np.array_equal(plain.codes, scaled.codes)
    assert np.array_equal(plain.dequantize() * factor, scaled.dequantize())


@both
@given(case=sliced_weights())
def test_the_negative_weight_has_the_negative_codes(quantizer, case):
    weight, granularity = case
    plain, negative = quantizer(weight, granularity), quantizer(-weight, granularity)
    assert np.array_equal(plain.codes, -negative.codes) and np.array_equal(plain.scale, negative.scale)


@both
def test_a_slice_of_zeros_gets_scale_one(quantizer):
    weight = np.float32([[0, 0], [3, -3]])
    got = quantizer(weight, PerAxis(0))
    assert got.scale.tolist() == [[1], [3]] and got.codes.tolist() == [[0, 0], [1, -1]]
