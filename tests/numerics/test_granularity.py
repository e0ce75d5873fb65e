import numpy as np
import pytest
from hypothesis import given

from dfmpc_onnx.numerics.granularity import PerAxis, PerTensor, unrows
from tests.numerics.strategies import sliced_weights


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_a_row_per_axis_is_a_slice_of_the_weight(axis):
    weight = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    rows = PerAxis(axis).rows(weight)
    assert rows.shape == (weight.shape[axis], weight.size // weight.shape[axis])
    for i, row in enumerate(rows):
        assert row.tolist() == weight.take(i, axis).reshape(-1).tolist()


def test_per_tensor_has_one_row():
    weight = np.arange(24).reshape(2, 3, 4)
    assert PerTensor().rows(weight).tolist() == [list(range(24))]


@pytest.mark.parametrize(
    ("granularity", "shape"),
    [
        (PerTensor(), (1, 1, 1, 1)),
        (PerAxis(0), (2, 1, 1, 1)),
        (PerAxis(1), (1, 3, 1, 1)),
        (PerAxis(3), (1, 1, 1, 5)),
    ],
)
def test_scale_shapes(granularity, shape):
    assert granularity.scale_shape((2, 3, 4, 5)) == shape


@given(sliced_weights())
def test_unrows_undoes_rows(case):
    weight, granularity = case
    assert np.array_equal(unrows(granularity.rows(weight), weight.shape, granularity), weight)


@given(sliced_weights())
def test_a_number_per_row_broadcasts_to_its_slice(case):
    weight, granularity = case
    rows = granularity.rows(weight)
    peaks = np.abs(rows).max(axis=1)
    wide = peaks.reshape(granularity.scale_shape(weight.shape)) * np.ones_like(weight)
    assert np.array_equal(granularity.rows(wide), np.repeat(peaks[:, None], rows.shape[1], axis=1))
