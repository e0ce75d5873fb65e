"""Shares of answers that change: the law of other networks, and what counting adds to it."""

import numpy as np
import pytest

from dfmpc_onnx.numerics.changed_answers import LARGEST_TANGENT, ErrorLaw, ScoreSums, changed_share

LAW = ErrorLaw(mean=-0.8, deviation=0.25, freedom=10)
RANDOM = np.random.default_rng(0)


def tangent(want, got, pieces=1):
    sums = ScoreSums(want.shape[1])
    for a, b in zip(np.array_split(want, pieces), np.array_split(got, pieces), strict=True):
        sums.add(a, b)
    return sums.tangent


def test_without_a_count_the_odds_are_the_tangent_times_a_factor_that_scatters():
    low, middle, high = changed_share(LAW, 0.01)
    factor = 10**0.25
    assert middle == pytest.approx(0.01 * 10**-0.8, rel=0.02)
    # Student's t with 10 degrees of freedom holds 95 % within 2.228 deviations.
    assert middle / low == pytest.approx(factor**2.228, rel=0.02) == pytest.approx(high / middle, rel=0.02)


def test_a_few_counted_answers_narrow_the_interval_and_hundreds_decide():
    alone, few, many = (changed_share(LAW, 0.05, 0, count) for count in (0, 24, 500))
    assert alone[2] - alone[0] > few[2] - few[0] > many[2] - many[0]
    low, middle, high = changed_share(LAW, 0.001, 100, 1000)  # whatever the law expects
    assert low < 0.1 < high and middle == pytest.approx(0.1, abs=0.01) and high - low < 0.05


def test_half_of_few_answers_changed_outweighs_a_small_error():
    assert changed_share(LAW, 0.03, 8, 16)[2] > 0.5


def test_the_tangent_is_noise_over_signal_without_what_changes_no_answer():
    want = RANDOM.standard_normal((400, 10))
    noise = 0.05 * RANDOM.standard_normal(want.shape)
    assert tangent(want, want + noise) == pytest.approx(0.05, rel=0.1)
    assert tangent(want, want + RANDOM.standard_normal((400, 1))) == pytest.approx(0, abs=1e-6)
    centred = want - want.mean(axis=0)
    assert tangent(centred, 1.7 * centred) == pytest.approx(0, abs=1e-6)
    shifted = want + 5 * np.arange(10)  # a class that is always high hides no noise
    assert tangent(shifted, shifted + noise) == pytest.approx(0.05, rel=0.1)
    assert tangent(want, want + noise, pieces=7) == pytest.approx(tangent(want, want + noise))


def test_scores_that_have_nothing_in_common_have_the_largest_tangent():
    want = RANDOM.standard_normal((50, 4))
    assert tangent(want, -want) == LARGEST_TANGENT
    assert changed_share(LAW, LARGEST_TANGENT)[0] > 0.9


@pytest.mark.parametrize("got", [np.full((5, 3), np.nan), np.full((5, 3), np.inf)])
def test_where_nothing_can_be_measured_there_is_none(got):
    with np.errstate(invalid="ignore"):
        assert tangent(RANDOM.standard_normal((5, 3)), got) is None
    assert tangent(np.ones((1, 3)), np.ones((1, 3))) is None
    assert tangent(np.tile([1.0, 2.0, 3.0], (5, 1)), RANDOM.standard_normal((5, 3))) is None
