import numpy as np
import pytest

from dfmpc_onnx.numerics.factorization import PANEL, cholesky, solved_from_right

SIZES = [1, 7, 2 * PANEL, 2 * PANEL + 1, 3 * PANEL, 3 * PANEL + 17]


def positive(k, groups=2):
    root = np.random.default_rng(k).standard_normal((groups, k, k + 5))
    return root @ root.transpose(0, 2, 1) / k + np.eye(k)


@pytest.mark.parametrize("k", SIZES)
def test_the_factor_in_blocks_is_the_factor(k):
    matrix = positive(k)
    np.testing.assert_allclose(cholesky(matrix.copy()), np.linalg.cholesky(matrix), atol=1e-10)


@pytest.mark.parametrize("k", SIZES)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_system_solved_in_blocks_is_solved(k, kind):
    matrix, right = positive(k), np.random.default_rng(1).standard_normal((2, 3, k))
    found = solved_from_right(matrix.astype(kind), right.astype(kind))
    assert found.dtype == kind
    np.testing.assert_allclose(found @ matrix, right, atol=1e-3 if kind == np.float32 else 1e-9)


@pytest.mark.parametrize("k", SIZES[1:])
@pytest.mark.parametrize("at", [0, -1])
def test_a_matrix_that_is_not_positive_definite_is_refused(k, at):
    matrix = positive(k)
    matrix[:, at, at] = -1
    with pytest.raises(np.linalg.LinAlgError):
        cholesky(matrix)
