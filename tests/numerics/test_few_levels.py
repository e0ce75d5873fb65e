import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfmpc_onnx.numerics.few_levels import FewLevels, Histogram, best_end, least_error_grid


def error(grid: FewLevels, x: np.ndarray) -> float:
    return float(np.square(grid.rounded(x) - x).mean())


def seek(x: np.ndarray, bits: int, lowest: int) -> float:
    """The least error of any scale and zero point, by trying many: the slow and obvious way."""
    levels = np.arange(2**bits) + lowest
    errors = []
    for zero in range(2**bits) if lowest == 0 else (0,):
        for scale in np.geomspace(np.abs(x).max() / 100, 2 * np.abs(x).max(), 150):
            grid = scale * (levels - zero)
            errors.append(np.square(grid[np.abs(x[:, None] - grid).argmin(axis=1)] - x).mean())
    return min(errors)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_no_other_grid_loses_much_less(cut, symmetric):
    x = np.random.default_rng(0).standard_normal(400).astype(np.float32)
    x = np.maximum(x, 0) if cut else x
    grid = least_error_grid(Histogram.of(x), 4, symmetric=symmetric)
    assert error(grid, x) <= 1.03 * seek(x, 4, grid.lowest)
    assert grid.error == pytest.approx(error(grid, x), rel=0.05)


def test_of_a_gaussian_the_best_16_levels_end_where_tables_of_uniform_quantizers_have_them():
    one, far = np.ones(1), np.full(1, np.inf)
    grid = least_error_grid(Histogram.of_moments(0 * one, one, -far, far), 4)
    assert grid.error == pytest.approx(0.01154, rel=0.05)  # Max 1960: 0.01154 at a step of 0.3352, with no level at 0
    assert float(grid.scale) == pytest.approx(0.3352, rel=0.05)


def test_what_is_never_negative_has_no_levels_below_0_and_a_symmetric_grid_has_the_zero_point_0():
    x = np.abs(np.random.default_rng(0).standard_normal(1000)).astype(np.float32)
    assert least_error_grid(Histogram.of(x), 4).zero_point == 0
    assert least_error_grid(Histogram.of(x), 4, symmetric=True).lowest == 0
    both = least_error_grid(Histogram.of(x - 1), 4, symmetric=True)
    assert (both.zero_point, both.lowest) == (0, -8)
    below = least_error_grid(Histogram.of(-x), 4)
    assert below.zero_point == 15 and below.ends[1] == 0


@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.floats(-3, 3), st.booleans())
def test_a_grid_holds_0_and_rounding_twice_changes_nothing(seed, bits, shift, symmetric):
    x = (np.random.default_rng(seed).standard_normal(50) + shift).astype(np.float32)
    grid = least_error_grid(Histogram.of(x), bits, symmetric=symmetric)
    once = grid.rounded(x)
    assert np.array_equal(grid.rounded(once), once) and grid.rounded(np.zeros(1, np.float32)) == 0
    assert len(np.unique(once)) <= 2**bits and grid.lowest <= grid.zero_point < grid.lowest + 2**bits
    inside = (x >= grid.ends[0]) & (x <= grid.ends[1])
    assert (np.abs(once - x)[inside] <= grid.scale / 2 * (1 + 1e-5)).all()


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
def test_the_grid_of_what_is_scaled_is_the_scaled_grid(seed, factor):
    x = np.random.default_rng(seed).standard_normal(200).astype(np.float32)
    one, other = (least_error_grid(Histogram.of(x * np.float32(f)), 4) for f in (1, factor))
    assert float(other.scale) == pytest.approx(factor * float(one.scale), rel=0.06)


@pytest.mark.parametrize("x", [np.zeros(5), np.full(5, 2.0), np.full(5, -2.0)])
def test_a_constant_is_held_exactly_or_nearly(x):
    grid = least_error_grid(Histogram.of(x.astype(np.float32)), 4)
    assert grid.scale > 0 and np.allclose(grid.rounded(x.astype(np.float32)), x, rtol=0.01)


def test_of_values_next_to_each_other_and_of_none_that_is_finite_there_is_a_grid():
    near = np.array([1.0, np.nextafter(np.float32(1), np.float32(2))], np.float32)
    assert np.allclose(least_error_grid(Histogram.of(near), 4).rounded(near), 1, rtol=0.01)
    assert least_error_grid(Histogram.of(np.append(near, np.float32(np.inf))), 4).scale < 1
    assert least_error_grid(Histogram.of(np.array([np.nan], np.float32)), 4).scale == 1


def test_where_the_levels_of_cut_channels_end_does_not_depend_on_their_size():
    mean, std = np.array([-1.0, 0.0, 1.0, 2.0]), np.ones(4)
    ends = best_end(mean, std, 4)
    assert (np.diff(ends) > 0).all() and ends[1] == pytest.approx(2.9, rel=0.05)
    assert np.allclose(best_end(10 * mean, 10 * std, 4), 10 * ends)
    assert np.allclose(best_end(np.array([100.0]), np.ones(1), 4), 100 + best_end(np.array([4.0]), np.ones(1), 4) - 4)
