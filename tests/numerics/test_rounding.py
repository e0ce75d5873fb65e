import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfmpc_onnx.numerics import rounding
from dfmpc_onnx.numerics.grids import ternary_grid, uniform_grid
from dfmpc_onnx.numerics.rounding import (
    COLUMNS_AT_ONCE,
    DAMPING,
    FEW_LEVELS,
    FeedbackRounder,
    feedback_of,
)
from tests.numerics.strategies import seeds


def random_layer(seed, groups=2, out=3, k=6):
    """A weight and the second moment of correlated inputs."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((groups, out, k)).astype(np.float32)
    root = rng.standard_normal((groups, k, k + 2))
    return weight, root @ root.transpose(0, 2, 1) / k


def grid_of(weight, bits):
    rows = weight.reshape(-1, weight.shape[2])
    return uniform_grid(rows, np.ones(1), bits)


def slow_rounding(row, grid, r, hat):
    """Optimal brain quantization: round one weight, let the others make it good, take its row off the inverse."""
    k = len(row)
    inverse = np.linalg.inv(hat + DAMPING * np.trace(hat) / k * np.eye(k))
    work, codes = row.astype(np.float64), np.zeros(k)
    scale, zero = float(grid.scale[r, 0]), float(grid.zero_point[r, 0])
    for i in sorted(range(k), key=lambda i: -hat[i, i]):
        codes[i] = min(max(round(work[i] / scale + zero), grid.lowest), grid.highest)
        work -= (work[i] - (codes[i] - zero) * scale) / inverse[i, i] * inverse[i]
        inverse = inverse - np.outer(inverse[i], inverse[:, i]) / inverse[i, i]
        inverse[i, i] = 1  # done with; never read again
    return codes


def output_error(weight, codes, grid, hat):
    values = grid.values(codes.reshape(-1, codes.shape[2])).reshape(codes.shape)
    difference = (weight - values).astype(np.float64)
    return np.einsum("goi,gij,goj->", difference, hat, difference)


def round_with_feedback(weight, grid, hat):
    """On the grid as it is, without a search for a better one: as if each had levels enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounding, "FINE", 2)
        found = FeedbackRounder(weight, hat).on_best_grid(grid)
    assert np.array_equal(found.grid.scale, grid.scale) and np.array_equal(found.grid.zero_point, grid.zero_point)
    return found.codes.reshape(weight.shape)


def round_on_best_grid(weight, grid, hat):
    found = FeedbackRounder(weight, hat).on_best_grid(grid)
    return found.grid, found.codes


@pytest.mark.parametrize("k", [1, 5, 130, 300])
def test_the_factor_is_a_root_of_the_moment(k):
    _, hat = random_layer(27, k=k)
    feedback = feedback_of(hat)
    for g in range(len(hat)):
        order, diagonal = feedback.order[g], np.diagonal(hat[g])
        assert sorted(order) == list(range(k)) and (np.diff(diagonal[order]) <= 0).all()
        assert feedback.damp[g] == pytest.approx(DAMPING * diagonal.mean())
        root = feedback.factor[g].astype(np.float64) * feedback.pivots[g]
        assert np.array_equal(root, np.triu(root)) and (feedback.pivots[g] > 0).all()
        np.testing.assert_allclose(np.diagonal(feedback.factor[g]), 1, rtol=1e-6)
        damped = hat[g][np.ix_(order, order)] + DAMPING * diagonal.mean() * np.eye(k)
        np.testing.assert_allclose(root @ root.T, damped, atol=1e-4 * diagonal.mean())


@pytest.mark.parametrize(("entry", "off"), [(0.0, 0.0), (1.0, 1.0), (1.0, 1.2), (1e6, -1e9)])
def test_a_moment_that_is_not_positive_gets_a_factor_all_the_same(entry, off):
    """Dead inputs, equal inputs, and what rounding makes of a singular matrix."""
    hat = np.full((2, 4, 4), off)
    hat[:, range(4), range(4)] = entry
    feedback = feedback_of(hat)
    assert np.isfinite(feedback.factor).all() and (feedback.pivots > 0).all()


@pytest.mark.parametrize("bits", ["ternary", 2, 3, 4, 6, 8])
@pytest.mark.parametrize("groups", [1, 3])
def test_the_error_is_that_of_the_codes(bits, groups):
    weight, hat = random_layer(40, groups=groups, out=5, k=COLUMNS_AT_ONCE + 30)
    found = FeedbackRounder(weight, hat).on_best_grid(first_grid(weight, bits))
    want = row_errors(weight, found.grid, found.codes, hat).reshape(found.error.shape)
    np.testing.assert_allclose(found.error, want, rtol=2e-3)


def test_grids_that_are_sought_together_are_those_that_are_sought_alone():
    weight, hat = random_layer(41, groups=2, out=4, k=30)
    first = [first_grid(weight, bits) for bits in WIDTHS]
    for thorough in (True, False):
        together = FeedbackRounder(weight, hat).on_best_grids(first, thorough=thorough)
        for grid, found in zip(first, together, strict=True):
            alone = FeedbackRounder(weight, hat).on_best_grid(grid, thorough=thorough)
            assert np.array_equal(found.codes, alone.codes)
            np.testing.assert_allclose(found.grid.scale, alone.grid.scale, rtol=1e-6)
            assert np.array_equal(found.grid.zero_point, alone.grid.zero_point)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@given(seed=seeds)
def test_rounding_is_optimal_brain_quantization_weight_by_weight(bits, seed):
    weight, hat = random_layer(seed)
    grid = grid_of(weight, bits)
    got = round_with_feedback(weight, grid, hat)
    for g, o in np.ndindex(weight.shape[:2]):
        assert np.array_equal(got[g, o], slow_rounding(weight[g, o], grid, g * 3 + o, hat[g]))


def test_blocks_do_not_show():
    weight, hat = random_layer(28, groups=1, out=2, k=2 * COLUMNS_AT_ONCE + 9)
    grid = grid_of(weight, 4)
    got = round_with_feedback(weight, grid, hat)
    for o in range(2):
        assert np.array_equal(got[0, o], slow_rounding(weight[0, o], grid, o, hat[0]))


@given(seeds, st.integers(2, 8))
def test_independent_inputs_leave_nothing_to_make_good(seed, bits):
    weight, hat = random_layer(seed)
    diagonal = hat * np.eye(hat.shape[1])
    grid = grid_of(weight, bits)
    got = round_with_feedback(weight, grid, diagonal)
    assert np.array_equal(got.reshape(-1, 6), grid.codes(weight.reshape(-1, 6)))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_output_suffers_less_than_from_the_nearest_codes(bits):
    weight, hat = random_layer(29, groups=4, out=16, k=48)
    grid = grid_of(weight, bits)
    feedback = round_with_feedback(weight, grid, hat)
    nearest = grid.codes(weight.reshape(-1, 48)).reshape(weight.shape)
    assert output_error(weight, feedback, grid, hat) < 0.8 * output_error(weight, nearest, grid, hat)


@given(seeds)
def test_levels_are_left_alone_and_codes_stay_on_the_grid(seed):
    weight, hat = random_layer(seed)
    grid = ternary_grid(np.abs(weight).mean(axis=2).reshape(-1, 1))
    got = round_with_feedback(weight, grid, hat)
    assert set(np.unique(got)) <= {-1, 0, 1}
    levels = grid.values(got.reshape(-1, 6)).reshape(weight.shape)
    assert np.array_equal(round_with_feedback(levels, grid, hat), got)


def test_the_weight_itself_is_not_touched():
    weight, hat = random_layer(30)
    before = weight.copy()
    round_with_feedback(weight, grid_of(weight, 3), hat)
    assert np.array_equal(weight, before)


# The search for a grid


def first_grid(weight, bits):
    """bits: or "ternary"."""
    if bits == "ternary":
        return ternary_grid(np.abs(weight).mean(axis=2).reshape(-1, 1))
    return grid_of(weight, bits)


def row_errors(weight, grid, codes, hat):
    """``(w - w^) H (w - w^)'`` of each row."""
    difference = weight.astype(np.float64).reshape(len(codes), -1) - grid.values(codes).astype(np.float64)
    moments = np.repeat(hat, weight.shape[1], axis=0)
    return np.einsum("ri,rij,rj->r", difference, moments, difference)


WIDTHS = ["ternary", 2, 3, 4, 6, 8]


@pytest.mark.parametrize("bits", WIDTHS)
@given(seed=seeds)
def test_no_row_is_worse_off_than_on_the_first_grid(bits, seed):
    weight, hat = random_layer(seed)
    first = first_grid(weight, bits)
    plain = round_with_feedback(weight, first, hat).reshape(-1, weight.shape[2])
    grid, codes = round_on_best_grid(weight, first, hat)
    power = np.einsum("goi,gij,goj->go", weight, hat, weight).reshape(-1)
    # Errors are differences of powers in float64, but scales are float32.
    assert (row_errors(weight, grid, codes, hat) <= row_errors(weight, first, plain, hat) + 1e-6 * power).all()


@pytest.mark.parametrize("bits", WIDTHS)
@given(seed=seeds)
def test_the_best_grid_is_a_grid_of_the_same_form(bits, seed):
    weight, hat = random_layer(seed)
    first = first_grid(weight, bits)
    grid, codes = round_on_best_grid(weight, first, hat)
    assert (grid.bits, grid.ternary, grid.lowest, grid.highest) == (
        first.bits,
        first.ternary,
        first.lowest,
        first.highest,
    )
    assert codes.shape == (weight.shape[0] * weight.shape[1], weight.shape[2])
    assert grid.scale.dtype == grid.zero_point.dtype == codes.dtype == np.float32
    assert grid.scale.shape == grid.zero_point.shape == first.scale.shape and (grid.scale > 0).all()
    for whole in (codes, grid.zero_point):
        assert np.array_equal(whole, np.rint(whole))
        assert whole.min() >= grid.lowest and whole.max() <= grid.highest
    if bits == "ternary":
        assert set(np.unique(codes)) <= {-1, 0, 1} and not grid.zero_point.any()
    if bits != "ternary" and bits > FEW_LEVELS:
        assert np.array_equal(grid.zero_point, first.zero_point)


def test_eight_bits_keep_the_grid():
    weight, hat = random_layer(31)
    first = grid_of(weight, 8)
    grid, codes = round_on_best_grid(weight, first, hat)
    assert np.array_equal(grid.scale, first.scale) and np.array_equal(grid.zero_point, first.zero_point)
    assert np.array_equal(codes, round_with_feedback(weight, first, hat).reshape(codes.shape))


@pytest.mark.parametrize("bits", WIDTHS)
def test_trials_stacked_or_one_at_a_time_give_the_same(bits, monkeypatch):
    weight, hat = random_layer(32, groups=3, out=4, k=20)
    first = first_grid(weight, bits)
    together, codes = round_on_best_grid(weight, first, hat)
    for stacked in (1, 2 * weight.size):
        monkeypatch.setattr(rounding, "STACKED", stacked)
        apart, same = round_on_best_grid(weight, first, hat)
        assert np.array_equal(same, codes)
        np.testing.assert_allclose(apart.scale, together.scale, rtol=1e-6)
        assert np.array_equal(apart.zero_point, together.zero_point)


@pytest.mark.parametrize("bits", ["ternary", 2, 3])
def test_few_levels_gain_much_from_the_search(bits):
    weight, hat = random_layer(33, groups=2, out=16, k=48)
    first = first_grid(weight, bits)
    plain = round_with_feedback(weight, first, hat).reshape(32, 48)
    grid, codes = round_on_best_grid(weight, first, hat)
    assert row_errors(weight, grid, codes, hat).sum() < 0.9 * row_errors(weight, first, plain, hat).sum()


@pytest.mark.parametrize("bits", ["ternary", 2, 4])
def test_no_other_scale_suits_the_codes_better(bits):
    weight, hat = random_layer(34)
    grid, codes = round_on_best_grid(weight, first_grid(weight, bits), hat)
    least = row_errors(weight, grid, codes, hat)
    for factor in (0.99, 1.01):
        other = dataclasses.replace(grid, scale=grid.scale * np.float32(factor))
        assert (row_errors(weight, other, codes, hat) > least).all()


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_row_of_zeros_stays_zero_on_the_best_grid(bits):
    weight, hat = random_layer(35)
    weight[:, 1] = 0
    grid, codes = round_on_best_grid(weight, grid_of(weight, bits), hat)
    assert not grid.values(codes).reshape(weight.shape)[:, 1].any()
    assert np.isfinite(grid.scale).all()
