"""Blocks of codes as indices into a table: packed and unpacked exactly; tables fit what they are learnt from."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dfmpc_onnx.numerics.codebook import LARGEST, Blocks, Codebook, channel_blocks, learn, trits

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
ternary_codes = hnp.arrays(np.int8, SHAPES, elements=st.integers(-1, 1))


@given(ternary_codes)
def test_trits_are_one_number_to_base_three_in_every_byte_and_come_back(codes):
    packed, flat = trits().pack(codes, codes.size), codes.reshape(-1).tolist()
    assert len(packed) == math.ceil(codes.size / 5)
    for i, byte in enumerate(packed):
        block = flat[5 * i : 5 * i + 5]
        value = sum((code + 1) * 3**lane for lane, code in enumerate(block))
        assert byte % 3 ** len(block) == value
    back = trits().unpack(packed, codes.shape, codes.size)
    assert back.dtype == np.int8 and back.shape == codes.shape and np.array_equal(back, codes)


@pytest.mark.parametrize("code", [-2, 2, 127, -128])
def test_a_code_that_is_not_ternary(code):
    with pytest.raises(ValueError, match="not in the table"):
        trits().pack(np.int8([0, 1, code]), 3)


def test_the_table_of_trits_holds_every_five_of_them_once():
    table = trits().table
    assert table.shape == (243, 5) and table.dtype == np.int8
    assert set(np.unique(table)) == {-1, 0, 1} and len(np.unique(table, axis=0)) == 243
    assert trits().pack(table, 5) == bytes(range(243))


@st.composite
def coded(draw):
    """A codebook, and codes in runs whose blocks are all in it."""
    length, entries = draw(st.integers(1, 8)), draw(st.integers(1, 256) | st.sampled_from([257, 512, 513, 1024]))
    table = draw(hnp.arrays(np.int8, (entries, length)))
    rows, run = draw(st.integers(0, 4)), draw(st.integers(1, 20))
    chosen = draw(hnp.arrays(np.intp, (rows, math.ceil(run / length)), elements=st.integers(0, entries - 1)))
    return Codebook.of(table), table[chosen].reshape(rows, -1)[:, :run] if rows else np.zeros((0, run), np.int8)


@given(coded())
def test_blocks_are_unpacked_as_a_look_up_of_each_byte_gives_them(found):
    book, codes = found
    run = codes.shape[1]
    packed = book.pack(codes, run)
    each = math.ceil(run / book.length)
    lanes, more = {8: (1, 0), 9: (8, 1), 10: (4, 2)}[book.blocks.index_bits]
    wide = lanes + (more > 0)
    indices, rows = [], [packed[start : start + wide] for start in range(0, len(packed), wide)]
    for row in rows:  # low bytes, and behind them a byte of what stands above each
        indices += [row[lane] + 256 * (row[-1] >> more * lane & 2**more - 1 if more else 0) for lane in range(lanes)]
    assert len(rows) == math.ceil(each * len(codes) / lanes) and not any(indices[each * len(codes) :])
    assert len(packed) == book.blocks.bytes(codes.size, run)
    looked_up = [[code for index in indices[each * i : each * i + each] for code in book.table[index]][:run]
                 for i in range(len(codes))]  # fmt: skip
    assert np.array_equal(np.array(looked_up, np.int8).reshape(codes.shape), codes)
    assert np.array_equal(book.unpack(packed, codes.shape, run), codes)


def test_runs_begin_a_block_each():
    book = Codebook.of(np.int8([[1, 2, 3], [4, 5, 6]]))
    codes = np.int8([[1, 2, 3, 4], [4, 5, 6, 1]])
    assert book.pack(codes, 4) == bytes([0, 1, 1, 0])
    with pytest.raises(ValueError, match="not in the table"):
        book.pack(codes, 8)


def test_a_block_that_is_not_in_the_table():
    with pytest.raises(ValueError, match="not in the table"):
        Codebook.of(np.int8([[1, 2], [3, 4]])).pack(np.int8([1, 4]), 2)


@pytest.mark.parametrize("shape", [(1025, 2), (0, 2), (4, 9), (4, 0)])
def test_a_table_that_no_index_of_ten_bits_reaches(shape):
    with pytest.raises(ValueError, match="the most"):
        Codebook.of(np.zeros(shape, np.int8))


def test_equal_tables_are_one():
    assert {Codebook.of(trits().table), trits()} == {trits()}
    assert Codebook.nominal(Blocks(4)).bits == 2 and len(Codebook.nominal(Blocks(4)).raw) == 1024
    assert Codebook.nominal(Blocks(3, 9)).bits == 3 and Codebook.nominal(Blocks(2, 10)).blocks == (2, 10)


@pytest.mark.parametrize(("length", "bits"), [(2, 8), (3, 8), (4, 8), (5, 8), (3, 9), (2, 10)])
def test_a_learnt_table_holds_0_and_the_negative_of_each_vector(length, bits):
    weights = [np.random.default_rng(seed).standard_normal((32, 36)).astype(np.float32) for seed in (0, 1)]
    table = learn(weights, Blocks(length, bits)).book.table
    held = {tuple(vector) for vector in table.tolist()}
    assert table.shape == (2**bits, length) and np.abs(table.astype(int)).max() == LARGEST
    assert (0,) * length in held and held == {tuple(-code for code in vector) for vector in held}


def test_the_same_weights_give_the_same_table_and_their_scale_does_not_matter():
    weight = np.random.default_rng(0).standard_normal((16, 40)).astype(np.float32)
    first, again, scaled = (learn([w], Blocks(4)) for w in (weight, weight, weight * np.float32(2**10)))
    assert first == again == scaled


@pytest.mark.parametrize(
    ("length", "bits", "least"), [(5, 8, 7.6), (4, 8, 9.7), (3, 8, 13.0), (2, 8, 20.3), (3, 9, 15.0), (2, 10, 26.2)]
)
def test_a_learnt_table_codes_normal_numbers_better_than_levels_of_as_many_bits(length, bits, least):
    weight = np.random.default_rng(length).standard_normal((64, 240)).astype(np.float32)
    learnt = learn([weight], Blocks(length, bits))
    blocks = channel_blocks(weight, length) / np.float32(learnt.unit)
    error = np.square(blocks - learnt.book.nearest(blocks)).sum() / np.square(blocks).sum()
    assert -10 * np.log10(error) > least  # the best 4, 8, 16 and 32 levels reach 9.3, 14.6, 20.2 and 26.0 dB


@pytest.mark.parametrize("weights", [[], [np.zeros((4, 8), np.float32)], [np.ones((1, 3), np.float32)]])
def test_next_to_no_weights_still_give_a_table(weights):
    assert learn(weights, Blocks(4)).book.table.shape == (256, 4)


def test_the_nearest_block_is_that_of_least_squared_distance():
    random = np.random.default_rng(5)
    book = Codebook.of(random.integers(-9, 10, (40, 3)).astype(np.int8))
    rows = random.uniform(-9, 9, (6, 8)).astype(np.float32)
    found = book.nearest(rows)
    for row, codes in zip(rows, found, strict=True):
        for start in range(0, 8, 3):
            part, vectors = row[start : start + 3], book.table[:, : len(row[start : start + 3])]
            distance = np.square(part - vectors).sum(axis=1)
            assert np.isclose(np.square(part - codes[start : start + 3]).sum(), distance.min())
