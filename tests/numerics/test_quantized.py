import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dfmpc_onnx.numerics.quantized import QuantizedWeight, dequantize, quantize
from tests.numerics.strategies import seeds, widths

KINDS = ["symmetric", "full range", "integer", "half step", "ternary"]
positive = st.floats(2.0**-10, 8.0, width=32)
factors = st.one_of(positive, positive.map(lambda x: -x), st.just(0.0), st.just(-0.0))


def limits(bits):
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


@st.composite
def quantized_weights(draw, kinds=KINDS):
    kind = draw(st.sampled_from(kinds))
    bits = 2 if kind == "ternary" else draw(widths)
    lowest, highest = limits(bits)
    per_channel = draw(st.booleans())
    shape = (3, 1, 1) if per_channel else (1, 1, 1)
    narrow = kind in ("symmetric", "ternary")
    codes = draw(hnp.arrays(np.int8, (3, 2, 2), elements=st.integers(lowest + narrow, highest)))
    zeros = {"integer": st.integers(lowest, highest).map(float), "half step": st.just(-0.5)}.get(kind, st.just(0.0))
    scale = draw(hnp.arrays(np.float32, shape, elements=positive))
    zero_point = draw(hnp.arrays(np.float32, shape, elements=zeros))
    return QuantizedWeight(codes, scale, zero_point, bits, ternary=kind == "ternary")


per_channel_factors = hnp.arrays(np.float32, (3, 1, 1), elements=factors)


@pytest.mark.parametrize("zero_point", [0, -0.5, 3, -2])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantize_rounds_ties_to_even_and_clips(bits, zero_point):
    lowest, highest = limits(bits)
    eighths = np.arange(-1200, 1201, dtype=np.float32) / 8  # exact in float32, and full of ties
    got = quantize(eighths, np.float32([0.5]), np.float32([zero_point]), bits)
    want = [min(max(round(w / 0.5 + zero_point), lowest), highest) for w in eighths.tolist()]
    assert got.dtype == np.int8 and got.tolist() == want


def test_quantize_leaves_the_weight_alone():
    weight = np.float32([1, 2, 3])
    quantize(weight, np.float32([1]), np.float32([5]), 2)
    assert weight.tolist() == [1, 2, 3]


def test_dequantize_is_the_affine_map():
    rng = np.random.default_rng(5)
    codes = rng.integers(-8, 8, (3, 2, 2)).astype(np.int8)
    scale, zero = np.float32([0.1, 2, 30]).reshape(3, 1, 1), np.float32([0, -0.5, 7]).reshape(3, 1, 1)
    got = dequantize(codes, scale, zero)
    assert got.dtype == np.float32
    for index in np.ndindex(codes.shape):
        want = float(scale[index[0], 0, 0]) * (int(codes[index]) - float(zero[index[0], 0, 0]))
        assert got[index] == pytest.approx(want, rel=1e-6)


@given(quantized_weights())
def test_what_codes_stand_for_has_these_codes(weight):
    values = weight.dequantize()
    assert np.array_equal(quantize(values, weight.scale, weight.zero_point, weight.bits), weight.codes)


@given(quantized_weights(), per_channel_factors)
def test_scaled_stands_for_the_weight_times_the_factor(weight, factor):
    got = weight.scaled(factor).dequantize()
    np.testing.assert_allclose(got, factor * weight.dequantize(), rtol=1e-6)


@given(quantized_weights(), per_channel_factors)
def test_scaled_is_safe_to_emit(weight, factor):
    got = weight.scaled(factor)
    lowest, highest = limits(weight.bits)
    assert (got.scale > 0).all() and got.scale.dtype == got.zero_point.dtype == np.float32
    assert got.scale.shape == got.zero_point.shape == np.broadcast_shapes(weight.scale.shape, factor.shape)
    assert got.codes.dtype == np.int8 and got.codes.shape == weight.codes.shape
    assert got.codes.min() >= lowest and got.codes.max() <= highest
    assert (got.bits, got.ternary) == (weight.bits, weight.ternary)


@given(quantized_weights(["symmetric", "ternary"]), per_channel_factors)
def test_scaled_keeps_symmetric_codes_symmetric(weight, factor):
    got = weight.scaled(factor)
    assert not got.zero_point.any()
    assert np.array_equal(got.codes, weight.codes * np.sign(factor).astype(np.int8))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("zero_point", ["0", "-0.5", "lowest", "highest"])
def test_every_code_there_is_can_be_mirrored(bits, zero_point):
    lowest, highest = limits(bits)
    zero = {"lowest": lowest, "highest": highest}.get(zero_point) or float(zero_point)
    weight = QuantizedWeight(np.arange(lowest, highest + 1).astype(np.int8), np.float32([1]), np.float32([zero]), bits)
    got = weight.scaled(np.float32([-1]))
    assert got.codes.tolist() == list(range(highest, lowest - 1, -1))
    assert np.array_equal(got.dequantize(), -weight.dequantize())


@given(quantized_weights(["integer", "full range"]), per_channel_factors)
def test_scaled_keeps_a_whole_zero_point_whole_and_within_the_codes(weight, factor):
    zero = weight.scaled(factor).zero_point
    lowest, highest = limits(weight.bits)
    assert np.array_equal(zero, np.rint(zero)) and zero.min() >= lowest and zero.max() <= highest


@given(quantized_weights(["half step"]), per_channel_factors)
def test_scaled_keeps_the_half_step_except_in_a_dead_channel(weight, factor):
    zero = weight.scaled(factor).zero_point
    assert np.array_equal(zero, np.where(factor == 0, 0, -0.5))


@given(quantized_weights(), per_channel_factors)
def test_scaling_by_a_sign_twice_changes_nothing_but_dead_channels(weight, factor):
    sign = np.sign(factor)
    twice = weight.scaled(sign).scaled(sign)
    np.testing.assert_array_equal(twice.dequantize(), sign**2 * weight.dequantize())


def test_a_factor_of_zero_gives_codes_at_the_zero_point_and_scale_one():
    codes = np.int8([[3, -4], [1, 2]])
    weight = QuantizedWeight(codes, np.float32([[2], [2]]), np.float32([[1], [1]]), 3)
    got = weight.scaled(np.float32([[0], [3]]))
    assert got.codes.tolist() == [[0, 0], [1, 2]]
    assert got.scale.tolist() == [[1], [6]] and got.zero_point.tolist() == [[0], [1]]


def test_a_factor_per_channel_splits_a_scale_of_the_whole_tensor():
    weight = QuantizedWeight(np.int8([[1, -1], [0, 1]]), np.float32([[2]]), np.float32([[0]]), 2, ternary=True)
    got = weight.scaled(np.float32([[0.5], [-3]]))
    assert got.scale.tolist() == [[1], [6]] and got.dequantize().tolist() == [[1, -1], [0, -6]]


@given(seeds)
def test_scaled_by_one_is_the_same_weight(seed):
    rng = np.random.default_rng(seed)
    weight = QuantizedWeight(rng.integers(-8, 8, (3, 4)).astype(np.int8), np.float32([[0.3]]), np.float32([[2]]), 4)
    got = weight.scaled(np.ones((1, 1), np.float32))
    assert np.array_equal(got.codes, weight.codes) and np.array_equal(got.scale, weight.scale)
    assert np.array_equal(got.zero_point, weight.zero_point)


least_scales = hnp.arrays(np.float32, (3, 1, 1), elements=st.one_of(st.just(0.0), st.floats(2.0**-10, 64.0, width=32)))


@given(quantized_weights(), least_scales)
def test_widened_has_scales_of_at_least_what_is_asked_for_and_codes_of_its_width(weight, least):
    got = weight.widened(least)
    lowest, highest = limits(weight.bits)
    assert (got.scale >= least).all() and (got.bits, got.ternary) == (weight.bits, weight.ternary)
    assert got.codes.dtype == np.int8 and got.codes.min() >= lowest and got.codes.max() <= highest
    assert got.zero_point.min() >= lowest and got.zero_point.max() <= highest
    assert not weight.ternary or np.abs(got.codes).max() <= 1


@given(quantized_weights(), least_scales)
def test_widening_costs_at_most_half_a_step_and_only_where_the_scale_was_finer(weight, least):
    got, old = weight.widened(least), weight.dequantize()
    error, finer = np.abs(got.dequantize() - old), np.broadcast_to(weight.scale < least, old.shape)
    assert (error <= np.float32(0.5 + 1e-5) * got.scale).all()
    assert not error[~finer].any()


@given(quantized_weights(["integer", "full range", "symmetric", "ternary"]), least_scales)
def test_widening_keeps_a_whole_zero_point(weight, least):
    got = weight.widened(least)
    assert np.array_equal(got.zero_point, np.broadcast_to(weight.zero_point, got.zero_point.shape))


@given(quantized_weights(), per_channel_factors, least_scales)
def test_what_was_scaled_and_mirrored_can_be_widened(weight, factor, least):
    got = weight.scaled(factor).widened(least)
    lowest, highest = limits(weight.bits)
    assert got.codes.min() >= lowest and got.codes.max() <= highest
    assert (np.abs(got.dequantize() - weight.scaled(factor).dequantize()) <= np.float32(0.5 + 1e-5) * got.scale).all()


def test_a_channel_that_is_far_finer_than_the_step_becomes_zero_on_every_grid():
    for zero in (0, -8, 3, -0.5):
        weight = QuantizedWeight(np.int8([[-8, 7, 0]]), np.float32([[1e-6]]), np.float32([[zero]]), 4)
        assert not weight.widened(np.float32([[1]])).dequantize().any()
