import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dfmpc_onnx.numerics import grids
from dfmpc_onnx.numerics.grids import ASYMMETRIC_BITS, SHRINK, Grid, ternary_grid, uniform_grid
from tests.numerics.strategies import elements, powers_of_two, seeds, widths

rows = hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 6)), elements=elements)
ONE = np.ones(1)


def error(weight, values, h=1.0):
    return (h * np.square(weight.astype(np.float64) - values)).sum(axis=1)


def levels(grid, row):
    codes = range(grid.lowest, grid.highest + 1)
    return [float(grid.scale[row, 0]) * (code - float(grid.zero_point[row, 0])) for code in codes]


def plain_grid(weight, bits):
    """The whole range, as it would be without a search."""
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    low, high = min(weight.min(), 0), max(weight.max(), 0)
    if bits <= 4:
        scale = np.float32((high - low) / (highest - lowest))
        return Grid(np.full((1, 1), scale), np.rint(lowest - np.full((1, 1), low) / scale), lowest, highest, bits)
    return Grid(np.full((1, 1), np.float32(max(-low, high) / highest)), np.zeros((1, 1)), -highest, highest, bits)


@given(rows, widths)
def test_nearest_is_the_nearest_of_all_levels(weight, bits):
    grid = uniform_grid(weight, ONE, bits)
    values = grid.nearest(weight * 2)  # beyond the ends as well
    for r, row in enumerate((weight * 2).astype(np.float64)):
        for w, got in zip(row, values[r], strict=True):
            least = min(abs(w - level) for level in levels(grid, r))
            assert abs(w - got) <= least + 1e-5 * max(grid.scale[r, 0], abs(w))


@given(rows, widths)
def test_the_form_of_a_grid(weight, bits):
    grid = uniform_grid(weight, ONE, bits)
    assert grid.scale.shape == grid.zero_point.shape == (len(weight), 1)
    assert (grid.scale > 0).all() and grid.bits == bits and not grid.ternary
    assert np.array_equal(grid.zero_point, np.rint(grid.zero_point))
    assert (grid.nearest(np.zeros_like(weight)) == 0).all()
    codes = grid.codes(weight * 100)
    assert codes.min() >= -(2 ** (bits - 1)) and codes.max() <= 2 ** (bits - 1) - 1
    if bits > 4:
        assert not grid.zero_point.any() and grid.lowest == -grid.highest


@given(seeds, widths)
def test_the_search_never_loses_to_the_whole_range(seed, bits):
    rng = np.random.default_rng(seed)
    weight, h = rng.standard_normal((1, 40)).astype(np.float32), rng.gamma(0.5, size=40)
    best, plain = uniform_grid(weight, h, bits), plain_grid(weight, bits)
    assert error(weight, best.nearest(weight), h) <= error(weight, plain.nearest(weight), h) * (1 + 1e-5)


def test_outliers_without_importance_are_clipped():
    weight = np.append(np.linspace(-1, 1, 63, dtype=np.float32), np.float32(2.5))[None]
    h = np.append(np.ones(63), 0.0)
    assert uniform_grid(weight, h, 6).nearest(weight).max() < 1.5 < uniform_grid(weight, ONE, 6).nearest(weight).max()


@given(seeds, widths)
def test_each_row_is_searched_by_itself(seed, bits):
    rng = np.random.default_rng(seed)
    weight, h = rng.standard_normal((3, 20)).astype(np.float32), rng.gamma(0.5, size=(3, 20))
    together = uniform_grid(weight, h, bits).nearest(weight)
    for r in range(3):
        one = uniform_grid(weight[r : r + 1], h[r : r + 1], bits).nearest(weight[r : r + 1])
        assert np.array_equal(together[r : r + 1], one)


@given(rows, widths, powers_of_two)
def test_a_scaled_weight_has_the_same_codes(weight, bits, factor):
    plain, scaled = uniform_grid(weight, ONE, bits), uniform_grid(weight * factor, ONE, bits)
    assert np.array_equal(plain.nearest(weight) * factor, scaled.nearest(weight * factor))


@given(rows, widths)
def test_nearest_is_idempotent(weight, bits):
    grid = uniform_grid(weight, ONE, bits)
    once = grid.nearest(weight)
    assert np.array_equal(grid.nearest(once), once) and np.array_equal(grid.codes(once), grid.codes(weight))


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_row_of_zeros_stays_zero(bits):
    weight = np.float32([[0, 0, 0], [1, -1, 0.5]])
    assert (uniform_grid(weight, ONE, bits).nearest(weight)[0] == 0).all()


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_one_sided_row_spends_no_level_on_the_other_side(bits, sign):
    weight = sign * np.arange(2**bits, dtype=np.float32)[None]
    assert np.array_equal(uniform_grid(weight, ONE, bits).nearest(weight), weight)


def test_the_ternary_grid():
    grid = ternary_grid(np.float32([[2], [0.5]]))
    weight = np.float32([[-9, -0.9, 1.1], [0.2, 0.3, 7]])
    assert grid.codes(weight).tolist() == [[-1, 0, 1], [0, 1, 1]]
    assert grid.nearest(weight).tolist() == [[-2, 0, 2], [0, 0.5, 0.5]]
    assert grid.ternary and grid.bits == 2


def slow_grid_error(row, h, bits, raster):
    """The least error of a row over the ranges that are tried, one after the other."""
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    few = SHRINK[::raster]
    ends = [(a, b) for a in few for b in few] if bits <= 3 else [(a, a) for a in SHRINK]
    low, high, least = min(row.min(), 0), max(row.max(), 0), np.inf
    for a, b in ends:
        if bits <= ASYMMETRIC_BITS:
            scale = (high * b - low * a) / (2**bits - 1) or 1.0
            zero, bottom = np.clip(np.rint(lowest - low * a / scale), lowest, highest), lowest
        else:
            scale, zero, bottom = max(-low, high) * a / highest or 1.0, 0.0, -highest
        codes = np.clip(np.rint(row / scale + zero), bottom, highest)
        least = min(least, float((h * np.square(row - (codes - zero) * scale)).sum()))
    return least


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("groups", [1, 3, 12])
@pytest.mark.parametrize("cached", [16, 2**15])
def test_the_search_in_pieces_finds_the_best_of_all_trials(bits, groups, cached, monkeypatch):
    monkeypatch.setattr(grids, "CACHED", cached)
    monkeypatch.setattr(grids, "FEWEST_ROWS", 5)
    rng = np.random.default_rng(1)
    weight, h = rng.standard_normal((12, 21)).astype(np.float32), rng.gamma(0.5, size=(groups, 21))
    found = uniform_grid(weight, h, bits, raster=7).nearest(weight)
    for r in range(12):
        own = h[r * groups // 12]
        want = slow_grid_error(weight[r].astype(np.float64), own, bits, 7)
        assert float((own * np.square(weight[r].astype(np.float64) - found[r])).sum()) <= want * (1 + 1e-4)


@pytest.mark.parametrize("bits", [2, 4, 6])
@pytest.mark.parametrize("size", [1e-41, 1e-30, 1e30])
def test_weights_of_any_size_have_a_grid(bits, size):
    weight = (np.random.default_rng(4).standard_normal((2, 30)) * size).astype(np.float32)
    off = (weight - uniform_grid(weight, ONE, bits).nearest(weight)).astype(np.float64)
    assert np.square(off / size).sum() < 0.6 * np.square(weight.astype(np.float64) / size).sum()
