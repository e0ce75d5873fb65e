import math

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import numpy_helper

from dfmpc_onnx.numerics.packing import (
    byte_table,
    pack,
    shifts,
    split,
    unpack,
)

ONNX_TYPES = {
    2: (onnx.TensorProto.INT2, ml_dtypes.int2),
    4: (onnx.TensorProto.INT4, ml_dtypes.int4),
    8: (onnx.TensorProto.INT8, np.int8),
}
UNSIGNED_TYPES = {2: (onnx.TensorProto.UINT2, ml_dtypes.uint2), 4: (onnx.TensorProto.UINT4, ml_dtypes.uint4)}
SPLITS = [(2,), (2, 1), (4,), (4, 1), (4, 2), (4, 2, 1)]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@st.composite
def codes_of(draw, widths=(2, 4, 8)):
    bits = draw(st.sampled_from(widths))
    return draw(hnp.arrays(np.int8, SHAPES, elements=st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1))), bits


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


@pytest.mark.parametrize(("bits", "code"), [(2, 2), (2, -3), (4, 8), (4, -9), (1, 1), (1, -2)])
def test_a_code_that_does_not_fit(bits, code):
    with pytest.raises(ValueError, match=f"does not fit into {bits} bits"):
        pack(np.int8([0, code]), bits)


@pytest.mark.parametrize("bits", [0, 3, 5, 16])
def test_a_width_that_does_not_divide_a_byte(bits):
    with pytest.raises(ValueError, match="do not divide a byte"):
        pack(np.int8([0]), bits)
    with pytest.raises(ValueError, match="do not divide a byte"):
        unpack(b"\0", bits, (1,))


@st.composite
def unsigned_codes(draw):
    bits = draw(st.sampled_from([1, 2, 4]))
    return draw(hnp.arrays(np.int8, SHAPES, elements=st.integers(0, 2**bits - 1))), bits


@given(unsigned_codes())
def test_unsigned_codes_are_packed_as_one_long_number_and_come_back(case):
    codes, bits = case
    packed = pack(codes, bits, signed=False)
    assert packed == slow_pack(codes, bits)
    back = unpack(packed, bits, codes.shape, signed=False)
    assert back.dtype == np.int8 and np.array_equal(back, codes)


@given(unsigned_codes().filter(lambda case: case[1] > 1))
def test_onnx_reads_unsigned_codes(case):
    codes, bits = case
    number, kind = UNSIGNED_TYPES[bits]
    tensor = onnx.helper.make_tensor("w", number, codes.shape, pack(codes, bits, signed=False), raw=True)
    assert np.array_equal(numpy_helper.to_array(tensor).astype(np.int8), codes)
    assert numpy_helper.from_array(codes.astype(kind)).raw_data == tensor.raw_data


@pytest.mark.parametrize(("bits", "code"), [(1, 2), (2, 4), (4, 16), (4, -1)])
def test_an_unsigned_code_that_does_not_fit(bits, code):
    with pytest.raises(ValueError, match=f"does not fit into {bits} bits"):
        pack(np.int8([0, code]), bits, signed=False)


@pytest.mark.parametrize(
    ("bits", "shift", "signed"),
    [(1, 0, False), (2, 0, True), (2, 0, False), (2, 1, True), (2, 1, False), (4, 0, True), (4, 2, True), (4, 3, True)],
)
def test_a_table_holds_the_codes_of_each_byte_at_their_place_in_the_sum(bits, shift, signed):
    table = byte_table(bits, shift, signed)
    assert table.shape == (256, 8 // bits) and table.dtype == np.int8
    for byte in range(256):
        codes = unpack(bytes([byte]), bits, (8 // bits,), signed)
        assert table[byte].tolist() == [int(code) * 2**shift for code in codes]


@given(st.sampled_from(SPLITS), st.data())
def test_planes_shifted_to_their_places_add_up_to_the_codes(widths, data):
    half = 2 ** (sum(widths) - 1)
    codes = data.draw(hnp.arrays(np.int8, SHAPES, elements=st.integers(-half, half - 1)))
    planes = split(codes, widths)
    assert np.array_equal(sum(p.astype(np.int64) << s for p, s in zip(planes, shifts(widths), strict=True)), codes)
    for i, (plane, bits) in enumerate(zip(planes, widths, strict=True)):
        assert plane.dtype == np.int8 and plane.shape == codes.shape
        back = unpack(pack(plane, bits, signed=i == 0), bits, plane.shape, signed=i == 0)
        assert np.array_equal(back, plane)


def test_the_highest_bits_come_first():
    assert shifts((4, 2, 1)) == (3, 1, 0)
    assert [plane.tolist() for plane in split(np.int8([-64, 63, -1, 5]), (4, 2, 1))] == [
        [-8, 7, -1, 0], [0, 3, 3, 2], [0, 1, 1, 1]
    ]  # fmt: skip
