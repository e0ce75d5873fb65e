"""Rows beside the nearest of another table."""

import numpy as np
import pytest

from dfmpc_onnx.numerics import row_matching
from dfmpc_onnx.numerics.row_matching import matched_rows

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("at_once", [1, 7, 512])
def test_another_order_is_no_error(monkeypatch, at_once):
    monkeypatch.setattr(row_matching, "ROWS_MATCHED_AT_ONCE", at_once)
    want = RNG.uniform(0, 640, (20, 4)).astype(np.float32)
    order = RNG.permutation(20)
    a, b = matched_rows(want, want[order])
    assert np.array_equal(a, b) and a.dtype == np.float32
    a, b = matched_rows(want, want[order] + 0.5)
    assert np.abs(a - b).max() == pytest.approx(0.5, abs=1e-3)


def test_a_row_that_is_missing_or_wrong_is_an_error_whichever_table_lacks_it():
    want = RNG.uniform(0, 640, (20, 4))
    for one, other in ((want, want[1:]), (want[1:], want)):
        a, b = matched_rows(one, other)
        assert len(a) == len(b) == 20
        assert np.count_nonzero(np.abs(a - b).sum(axis=1)) == 1
    wrong = want.copy()
    wrong[3] = 2000
    a, b = matched_rows(want, wrong)
    assert np.abs(a - b).max() > 1000


def test_what_is_not_finite_or_too_many_stays_in_order_and_what_is_gone_is_all_error(monkeypatch):
    want, got = np.array([[1.0], [np.inf], [3]]), np.array([[3.0], [1]])
    assert [part.tolist() for part in matched_rows(want, got)] == [[[1.0], [np.inf]], [[3.0], [1.0]]]
    assert [part.tolist() for part in matched_rows(got, got[:0])] == [[[3.0], [1]], [[0.0], [0]]]
    assert [part.tolist() for part in matched_rows(got[:0], got)] == [[[0.0], [0]], [[3.0], [1]]]
    monkeypatch.setattr(row_matching, "MOST_ROWS", 1)
    a, b = matched_rows(np.array([[1.0], [2]]), np.array([[2.0], [1]]))
    assert (a - b).tolist() == [[-1.0], [1.0]]
