import math

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import numpy_helper

from dfmpc_onnx.numerics.packing import pack, unpack

ONNX_TYPES = {
    2: (onnx.TensorProto.INT2, ml_dtypes.int2),
    4: (onnx.TensorProto.INT4, ml_dtypes.int4),
    8: (onnx.TensorProto.INT8, np.int8),
}


@st.composite
def codes_of(draw, widths=(2, 4, 8)):
    bits = draw(st.sampled_from(widths))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    return draw(hnp.arrays(np.int8, shape, elements=st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1))), bits


def slow_pack(codes, bits):
    """One long number, the first code in its lowest bits."""
    flat = codes.reshape(-1).tolist()
    number = sum((code % 2**bits) << (i * bits) for i, code in enumerate(flat))
    return number.to_bytes(math.ceil(len(flat) * bits / 8), "little")


@given(codes_of())
def test_pack_agrees_with_one_long_number(case):
    assert pack(*case) == slow_pack(*case)


@given(codes_of())
def test_unpack_undoes_pack(case):
    codes, bits = case
    back = unpack(pack(codes, bits), bits, codes.shape)
    assert back.dtype == np.int8 and back.shape == codes.shape and np.array_equal(back, codes)


@given(codes_of())
def test_onnx_reads_what_pack_wrote(case):
    codes, bits = case
    tensor = onnx.helper.make_tensor("w", ONNX_TYPES[bits][0], codes.shape, pack(codes, bits), raw=True)
    assert np.array_equal(numpy_helper.to_array(tensor).astype(np.int8), codes)


@given(codes_of())
def test_pack_writes_what_onnx_writes(case):
    codes, bits = case
    number, kind = ONNX_TYPES[bits]
    tensor = numpy_helper.from_array(codes.astype(kind))
    assert tensor.data_type == number and tensor.raw_data == pack(codes, bits)
    assert np.array_equal(unpack(tensor.raw_data, bits, codes.shape), codes)


def test_a_transposed_weight_is_packed_row_by_row():
    codes = np.int8([[1, -2, 3], [-4, 5, -6]])
    assert pack(codes.T, 4) == pack(np.ascontiguousarray(codes.T), 4) != pack(codes, 4)


@pytest.mark.parametrize(
    ("codes", "bits", "packed"),
    [([1, -1, 0, -2], 2, "8d"), ([1, -1, 0, -2, 1], 2, "8d01"), ([1, -1, -8], 4, "f108"), ([1, -1], 8, "01ff")],
)
def test_the_first_code_lies_in_the_lowest_bits(codes, bits, packed):
    assert pack(np.int8(codes), bits).hex() == packed


@pytest.mark.parametrize(("bits", "code"), [(2, 2), (2, -3), (4, 8), (4, -9)])
def test_a_code_that_does_not_fit(bits, code):
    with pytest.raises(ValueError, match=f"does not fit into {bits} bits"):
        pack(np.int8([0, code]), bits)


@pytest.mark.parametrize("bits", [0, 1, 3, 5, 16])
def test_a_width_that_does_not_divide_a_byte(bits):
    with pytest.raises(ValueError, match="do not divide a byte"):
        pack(np.int8([0]), bits)
    with pytest.raises(ValueError, match="do not divide a byte"):
        unpack(b"\0", bits, (1,))
