import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfmpc_onnx.numerics.bit_choice import CANDIDATE_WIDTHS, choose_bits

sizes = st.floats(1e-3, 1e3)
thresholds = st.floats(0, 1)
measured = st.lists(st.floats(0, 1), min_size=5, max_size=5).map(
    lambda lost: dict(zip(CANDIDATE_WIDTHS, lost, strict=True))
)
falling = st.lists(st.floats(0, 1), min_size=5, max_size=5).map(
    lambda lost: dict(zip(CANDIDATE_WIDTHS, sorted(lost, reverse=True), strict=True))
)
# Losses of a grid in its regular range: each bit more leaves a quarter.
regular = st.floats(-6, 2).map(lambda power: {bits: 10.0**power * 4.0 ** (2 - bits) for bits in CANDIDATE_WIDTHS})


def fewest(lost, threshold):
    """The fewest bits under the threshold, 8 where there are none."""
    return next((bits for bits in CANDIDATE_WIDTHS if lost[bits] <= threshold), 8)


@given(measured, thresholds, sizes)
def test_only_eight_bits_may_lose_more_than_the_threshold(lost, threshold, size):
    chosen = choose_bits(lost.__getitem__, threshold, size)
    assert chosen in CANDIDATE_WIDTHS
    assert chosen == 8 or lost[chosen] <= threshold


@given(measured, thresholds, sizes)
def test_each_width_is_tried_at_most_once_and_what_is_chosen_was_tried(lost, threshold, size):
    tried = []

    def lost_at(bits):
        tried.append(bits)
        return lost[bits]

    chosen = choose_bits(lost_at, threshold, size)
    assert len(set(tried)) == len(tried) and chosen in tried


@given(falling, thresholds, sizes)
def test_never_fewer_bits_than_the_threshold_demands(lost, threshold, size):
    assert choose_bits(lost.__getitem__, threshold, size) >= fewest(lost, threshold)


@given(regular, st.floats(1e-4, 1), st.floats(1, 100))
def test_an_average_layer_gets_the_fewest_bits_under_the_threshold_or_one_step_more(lost, threshold, size):
    least = CANDIDATE_WIDTHS.index(fewest(lost, threshold))
    assert CANDIDATE_WIDTHS.index(choose_bits(lost.__getitem__, threshold, size)) - least in (0, 1)


@given(regular, st.floats(1e-4, 1))
def test_what_a_tiny_layer_loses_is_worth_eight_bits(lost, threshold):
    # Two bits buy 15 / 16 of what is left at 6, which has to be worth more than they cost.
    assert choose_bits(lost.__getitem__, threshold, lost[6] / (2 * threshold)) == 8


@given(falling, thresholds, sizes, st.floats(1, 100))
def test_a_larger_layer_never_gets_more_bits(lost, threshold, size, factor):
    assert choose_bits(lost.__getitem__, threshold, size * factor) <= choose_bits(lost.__getitem__, threshold, size)


@given(regular, sizes)
def test_a_threshold_of_zero_takes_eight_bits(lost, size):
    assert choose_bits(lost.__getitem__, 0.0, size) == 8


def test_a_layer_that_loses_nothing_gets_two_bits():
    assert choose_bits(lambda bits: 0.0, 0.01, 1e-6) == 2


@pytest.mark.parametrize(("size", "bits"), [(100.0, 4), (1.0, 4), (0.3, 6), (0.001, 8)])
def test_the_smaller_the_layer_the_more_bits(size, bits):
    lost = {bits: 0.0078 * 4.0 ** (4 - bits) for bits in CANDIDATE_WIDTHS}
    assert choose_bits(lost.__getitem__, 0.01, size) == bits


def test_few_widths_are_tried_on_a_large_layer():
    tried = []

    def lost_at(bits):
        tried.append(bits)
        return 4.0**-bits

    assert choose_bits(lost_at, 4.0**-4, 10) == 4
    assert tried == [4]
