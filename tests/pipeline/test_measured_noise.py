"""What a built file shows makes of a plan's summed damages: its own SQNR, and a law for other plans."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfmpc_onnx.pipeline.measured_noise import NOT_MEASURED, MeasuredNoise

DECIBELS = st.floats(1.0, 80.0)
SHARES = st.floats(1e-9, 1.0)


@given(DECIBELS, SHARES, st.floats(0.0, 1.0))
def test_the_plan_of_the_file_is_predicted_what_the_file_showed(sqnr: float, damage: float, activations: float) -> None:
    assert MeasuredNoise.of_file(sqnr, damage, activations).sqnr_db(damage) == pytest.approx(sqnr)


@given(DECIBELS, SHARES, st.floats(0.0, 1.0), SHARES)
def test_rounded_activations_are_a_floor_that_no_plan_goes_below(
    sqnr: float, damage: float, activations: float, other: float
) -> None:
    found = MeasuredNoise.of_file(sqnr, damage, activations)
    assert 0 <= found.activations <= found.of(0.0) <= found.of(other)
    assert found.of(other) <= found.of(2 * other)


@given(DECIBELS, SHARES, st.floats(1.0, 40.0))
def test_damages_for_an_sqnr_give_that_sqnr(sqnr: float, damage: float, wanted: float) -> None:
    found = MeasuredNoise.of_file(sqnr, damage, 0.0)
    assert found.sqnr_db(found.damage_at(wanted)) == pytest.approx(wanted)


def test_what_activations_cost_alone_leaves_nothing_for_weights() -> None:
    found = MeasuredNoise.of_file(20.0, 0.01, 0.005)
    assert found.damage_at(40.0) < 0 < found.damage_at(20.0)


def test_a_plan_that_loses_nothing_shows_what_activations_cost() -> None:
    assert MeasuredNoise.of_file(30.0, 0.0, 0.0).sqnr_db(0.0) == pytest.approx(30.0)
    assert NOT_MEASURED.sqnr_db(0.0) == math.inf
    assert NOT_MEASURED.sqnr_db(0.01) == pytest.approx(20.0)


def test_more_noise_is_above_by_so_many_decibels() -> None:
    found = MeasuredNoise(2.0, 0.001)
    assert found.above(3.0).sqnr_db(0.01) == pytest.approx(found.sqnr_db(0.01) - 3.0)


@given(DECIBELS, SHARES, SHARES)
def test_where_activations_hide_what_weights_make_the_factor_is_a_half_at_most(
    sqnr: float, damage: float, activations: float
) -> None:
    noise = 10 ** (-sqnr / 10)
    found = MeasuredNoise.of_file(sqnr, damage, max(activations, 0.6) * noise)
    assert found.per_damage <= 0.5
