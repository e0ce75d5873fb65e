import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfmpc_onnx.numerics.granularity import PerAxis, PerTensor
from dfmpc_onnx.numerics.uniform import dorefa, symmetric, with_zero_channels
from tests.numerics.strategies import powers_of_two, sliced_weights, widths

GRANULARITIES = [PerTensor(), PerAxis(0), PerAxis(1)]
both = pytest.mark.parametrize("quantizer", [dorefa, symmetric])
WEIGHT = np.random.default_rng(4).standard_normal((4, 3, 3, 3)).astype(np.float32)


def nonzero_slices(weight, granularity):
    """Where the slice that a weight belongs to is not all zeros."""
    some = granularity.rows(weight).any(axis=1).reshape(granularity.scale_shape(weight.shape))
    return np.broadcast_to(some, weight.shape)


def slow_dorefa(row, bits):
    """Equation 6 as printed."""
    peak, levels = max(abs(w) for w in row), 2**bits - 1
    return [peak * (2 / levels * round(levels * (w / (2 * peak) + 0.5)) - 1) for w in row]


def slow_symmetric(row, bits):
    step = max(abs(w) for w in row) / (2 ** (bits - 1) - 1)
    return [step * round(w / step) for w in row]


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize(
    ("quantizer", "reference", "bits"),
    [(dorefa, slow_dorefa, k) for k in range(2, 8)] + [(symmetric, slow_symmetric, k) for k in range(2, 9)],
)
def test_every_weight_goes_where_the_equation_says(quantizer, reference, bits, granularity):
    got = granularity.rows(quantizer(WEIGHT, bits, granularity).dequantize())
    want = [reference(row, bits) for row in granularity.rows(WEIGHT).tolist()]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_eight_bits_of_dorefa_are_the_integer_grid():
    got, want = dorefa(WEIGHT, 8, PerAxis(0)), symmetric(WEIGHT, 8, PerAxis(0))
    assert np.array_equal(got.codes, want.codes) and np.array_equal(got.scale, want.scale)
    assert not got.zero_point.any()


@pytest.mark.parametrize("bits", range(2, 8))
def test_the_levels_of_dorefa_are_the_odd_multiples_of_half_a_step(bits):
    levels = dorefa(np.linspace(-3, 3, 4001, dtype=np.float32), bits, PerTensor()).dequantize()
    odd = np.arange(-(2**bits) + 1, 2**bits, 2)
    np.testing.assert_allclose(np.unique(levels), 3 * odd / (2**bits - 1), rtol=1e-6)


@both
@given(case=sliced_weights(), bits=widths)
def test_the_form_of_the_result(quantizer, case, bits):
    weight, granularity = case
    got = quantizer(weight, bits, granularity)
    assert got.codes.dtype == np.int8 and got.codes.shape == weight.shape
    assert got.codes.min() >= -(2 ** (bits - 1)) and got.codes.max() <= 2 ** (bits - 1) - 1
    assert got.scale.dtype == got.zero_point.dtype == np.float32
    assert got.scale.shape == got.zero_point.shape == granularity.scale_shape(weight.shape)
    assert (got.scale > 0).all() and got.bits == bits and not got.ternary


@both
@given(case=sliced_weights(), bits=widths)
def test_the_error_is_at_most_half_a_step(quantizer, case, bits):
    weight, granularity = case
    got = quantizer(weight, bits, granularity)
    assert (np.abs(got.dequantize() - weight) <= got.scale * np.float32(0.5 + 1e-4)).all()


@both
@given(case=sliced_weights(), bits=widths)
def test_the_largest_weight_of_a_slice_is_a_level(quantizer, case, bits):
    weight, granularity = case
    rows, got = (granularity.rows(a) for a in (weight, quantizer(weight, bits, granularity).dequantize()))
    peak = np.abs(rows).max(axis=1)
    kept = peak > 0
    np.testing.assert_allclose(np.abs(got).max(axis=1)[kept], peak[kept], rtol=1e-6)


@both
@given(case=sliced_weights(), bits=widths)
def test_idempotent(quantizer, case, bits):
    weight, granularity = case
    once = quantizer(weight, bits, granularity)
    twice = quantizer(once.dequantize(), bits, granularity)
    alive = nonzero_slices(weight, granularity)
    assert np.array_equal(once.codes[alive], twice.codes[alive])
    np.testing.assert_allclose(twice.dequantize()[alive], once.dequantize()[alive], rtol=1e-6)


@both
@given(case=sliced_weights(), bits=widths, factor=powers_of_two)
def test_a_scaled_weight_has_the_same_codes_and_a_scaled_scale(quantizer, case, bits, factor):
    weight, granularity = case
    plain, scaled = quantizer(weight, bits, granularity), quantizer(weight * factor, bits, granularity)
    assert np.array_equal(plain.codes, scaled.codes)
    alive = nonzero_slices(weight, granularity)
    assert np.array_equal((plain.dequantize() * factor)[alive], scaled.dequantize()[alive])


@given(sliced_weights(), widths)
def test_symmetric_mirrors_the_negative_weight_and_never_uses_the_lowest_code(case, bits):
    weight, granularity = case
    plain, negative = symmetric(weight, bits, granularity), symmetric(-weight, bits, granularity)
    assert np.array_equal(plain.codes, -negative.codes) and np.array_equal(plain.scale, negative.scale)
    assert plain.codes.min() > -(2 ** (bits - 1)) and not plain.zero_point.any()


@given(sliced_weights(), st.integers(2, 7))
def test_dorefa_mirrors_the_negative_weight_except_on_a_tie(case, bits):
    weight, granularity = case
    plain, negative = dorefa(weight, bits, granularity), dorefa(-weight, bits, granularity)
    steps = weight / plain.scale
    tie = np.abs(steps - np.rint(steps)) < 1e-4
    assert np.array_equal(plain.codes[~tie], -1 - negative.codes[~tie])
    assert (np.abs(plain.codes + 1 + negative.codes) <= 1).all()


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_slice_of_zeros_stays_zero_on_the_integer_grid(bits):
    got = symmetric(np.float32([[0, 0], [1, -1]]), bits, PerAxis(0))
    assert got.scale[0, 0] == 1 and got.dequantize().tolist() == [[0, 0], [1, -1]]


def test_weights_too_small_for_a_step_become_zero():
    tiny = np.float32([1e-45, 0, -1e-45])
    got = symmetric(tiny, 8, PerTensor())
    assert got.scale == 1 and not got.codes.any()


def test_pruned_channels_are_zero_on_a_half_step_grid_that_serves_the_whole_tensor():
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    weight[1], weight[2] = 0, 1e-9
    plain = dorefa(weight, 6, PerTensor())
    got = with_zero_channels(plain, weight, 0)
    assert not got.dequantize()[1:3].any()
    assert np.array_equal(got.dequantize()[[0, 3]], plain.dequantize()[[0, 3]])
    assert got.scale.shape == got.zero_point.shape == (4, 1, 1, 1) and len(set(got.scale.reshape(-1))) == 1


def test_grids_that_hold_zero_and_tensors_without_pruned_channels_are_left_alone():
    weight = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    for quantized in (dorefa(weight, 4, PerTensor()), symmetric(weight, 4, PerTensor())):
        assert with_zero_channels(quantized, weight, 0) is quantized
    weight[1] = 0
    of_integers = symmetric(weight, 4, PerTensor())
    assert with_zero_channels(of_integers, weight, 0) is of_integers


def test_channels_that_decayed_are_zero_as_pruned_ones_are():
    """Half a step is a hundred times as large as such a weight, and a small running variance would show it."""
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    step = float(dorefa(weight, 7, PerTensor()).scale.item())
    weight[1] *= 5e-3 * step / np.abs(weight[1]).max()
    got = with_zero_channels(dorefa(weight, 7, PerTensor()), weight, 0).dequantize()
    assert not got[1].any() and got[[0, 2, 3]].all()
