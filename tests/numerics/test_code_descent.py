import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfmpc_onnx.numerics import code_descent
from dfmpc_onnx.numerics.code_descent import descend


def problem(seed, k=12, out=5):
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((40, k)) @ rng.standard_normal((k, k))
    weight = rng.standard_normal((k, out)).astype(np.float32)
    scale = rng.uniform(0.3, 0.9, out).astype(np.float32)
    codes = np.clip(np.rint(weight / scale), -3, 3).astype(np.float32)
    return weight, (mixed.T @ mixed / 40).astype(np.float32), codes, scale


def levels(_start, _stop, at, _metric):
    return np.clip(np.rint(at), -3, 3)


def error(weight, hat, codes, scale):
    left = (weight - codes * scale).astype(np.float64)
    return np.einsum("ko,ko->o", left, hat @ left)


def slow_descent(weight, hat, codes, scale):
    """Every level tried for every code in turn, the whole error computed anew."""
    held, codes = hat + code_descent.HELD_BY * np.diag(hat).mean() * np.eye(len(hat)), codes.copy()
    for column in range(len(codes)):
        for row in range(codes.shape[1]):
            trials = np.repeat(codes[:, row : row + 1], 7, axis=1)
            trials[column] = np.arange(-3, 4)
            codes[:, row] = trials[:, error(weight[:, row : row + 1], held, trials, scale[row]).argmin()]
    return codes


@pytest.mark.parametrize("at_once", [1, 5, 64])
@pytest.mark.parametrize("seed", range(4))
def test_a_sweep_takes_for_each_code_in_turn_the_level_of_least_error(seed, at_once, monkeypatch):
    monkeypatch.setattr(code_descent, "COLUMNS_MOVED", at_once)
    given_ = problem(seed)
    columns = [(column, column + 1) for column in range(12)]
    codes, left, pull = descend(*given_, columns, levels)
    weight, hat, _, scale = given_
    assert np.array_equal(codes, slow_descent(*given_))
    assert np.allclose(left, weight - codes * scale, atol=1e-5)
    assert np.allclose(pull, hat @ left, atol=1e-3 * np.abs(hat).max())


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_no_row_loses_more_than_before_and_the_same_comes_out_again(seed, length):
    weight, hat, codes, scale = problem(seed)
    table = np.array(np.meshgrid(*[np.arange(-3, 4)] * length)).reshape(length, -1).astype(np.float32)

    def nearest(start, stop, at, metric):
        own = np.unique(table[: stop - start], axis=1)
        off = at[:, :, None] - own[:, None]
        return own[:, np.einsum("iov,ij,jov->ov", off, metric, off).argmin(axis=1)]

    cuts = [(start, min(start + length, 12)) for start in range(0, 12, length)]
    found, again = (descend(weight, hat, codes, scale, cuts, nearest)[0] for _ in range(2))
    held = hat + code_descent.HELD_BY * np.diag(hat).mean() * np.eye(12)
    before = error(weight, held, codes, scale)
    assert (error(weight, held, found, scale) <= before * (1 + 1e-4) + 1e-6).all()
    assert np.array_equal(found, again)


def test_a_column_that_nothing_reaches_keeps_its_code():
    weight, hat, codes, scale = problem(0)
    hat[3], hat[:, 3] = 0, 0
    found, _, _ = descend(weight, hat, codes, scale, [(column, column + 1) for column in range(12)], levels)
    assert np.array_equal(found[3], codes[3])
