import math

import numpy as np
import pytest

from dfmpc_onnx.numerics.proportions import INTERVAL_TAIL, exact_interval, samples_for


def tail(share, hits, count):
    """The probability of so many hits or more."""
    return sum(math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(hits, count + 1))


@pytest.mark.parametrize(("hits", "count"), [(5, 10), (1, 10), (31, 32), (380, 400)])
def test_at_both_ends_what_was_counted_or_more_has_the_probability_of_the_tail(hits, count):
    low, high = exact_interval(hits, count)
    assert tail(low, hits, count) == pytest.approx(INTERVAL_TAIL, rel=1e-9)
    assert 1 - tail(high, hits + 1, count) == pytest.approx(INTERVAL_TAIL, rel=1e-9)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.994])
def test_it_holds_at_least_as_often_as_it_says(share):
    held = [exact_interval(hits, 32) for hits in range(33)]
    chance = [math.comb(32, k) * share**k * (1 - share) ** (32 - k) for k in range(33)]
    assert sum(p for p, (low, high) in zip(chance, held, strict=True) if low <= share <= high) >= 0.95


def test_where_all_or_none_are_hits_an_end_is_that_of_all_shares():
    assert exact_interval(0, 10)[0] == 0 and exact_interval(10, 10)[1] == 1
    assert exact_interval(10, 10)[0] == pytest.approx(INTERVAL_TAIL ** (1 / 10), rel=1e-12)


def test_many_samples_have_the_interval_of_a_normal_distribution():
    low, high = exact_interval(45_000, 50_000)
    half = 1.96 * np.sqrt(0.9 * 0.1 / 50_000)
    assert (low, high) == pytest.approx((0.9 - half, 0.9 + half), abs=1e-4)


def test_no_sample_tells_nothing():
    assert exact_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_so_many_hits_put_the_lower_end_at_the_share(share):
    count = samples_for(share)
    assert exact_interval(count, count)[0] >= share > exact_interval(count - 1, count - 1)[0]
