"""Codebooks: a table of 2^n vectors of d codes, so that an index of n bits stands for d weights, n / d bits each.

The codes of a weight lie one behind the other in *runs*, the rows of its output channels, and each run is cut into
blocks of d; the last one is padded. A block is stored as the index of its vector: a byte, or 9 or 10 bits, of which
eight or four blocks have the low bytes first and the bits above them in one byte behind (`pack_indices`). Five trits to
a byte are the special case whose table holds every block of five -1, 0 and 1, and whose run is the whole weight.

A table that is learnt is the one of least squared error for the blocks of a network's own weights, each channel over
its deviation (Lloyd 1982; vector quantization of weights: Gong et al. 2014, arXiv 1412.6115). With a vector it holds
the negative, and it holds 0, so that a channel whose scale changes its sign, or is dead, keeps a place in the table.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.arrays import CodeArray, Float32

INDEX_BITS = 8  # that an index has at least
MOST_INDEX_BITS = 10
LONGEST = 8  # codes of a block: together they are one number of 64 bits
CODE_BITS = 7  # of a learnt table: two products with 8-bit activations fit 16 bits, as processors without VNNI need
LARGEST = 2 ** (CODE_BITS - 1) - 1
TRITS = 5  # in a byte: 3 ** 5 = 243
SAMPLED = 12_288  # blocks that a table is learnt from
ROUNDS = 12  # of Lloyd's iteration
BLOCKS_AT_ONCE = 512  # whose products with vectors stay in the processor's cache
KEPT_TABLES = 6  # tables that were learnt last


class Blocks(NamedTuple):
    """The size of a table: codes of a block, and bits of an index."""

    length: int
    index_bits: int = INDEX_BITS

    @property
    def entries(self) -> int:
        """Vectors that an index can name."""
        return int(2**self.index_bits)

    @property
    def bits(self) -> float:
        """Bits that each code takes in the file."""
        return self.index_bits / self.length

    @property
    def lanes(self) -> int:
        """Indices that are stored together: as many as the bits above their low bytes fill a byte."""
        return 8 // (self.index_bits - INDEX_BITS) if self.index_bits > INDEX_BITS else 1

    def of_run(self, run: int) -> int:
        """How many blocks hold a run of so many codes."""
        return -(-run // self.length)

    def divides(self, count: int, run: int) -> bool:
        """Whether the indices of so many codes in runs of `run` come out even."""
        return count // run * self.of_run(run) % self.lanes == 0

    def bytes(self, count: int, run: int) -> int:
        """Bytes that the indices of so many codes in runs of `run` take."""
        groups = -(-(count // run * self.of_run(run)) // self.lanes)
        return groups * (self.lanes + (self.index_bits > INDEX_BITS))


def pack_indices(indices: npt.NDArray[np.uint16], blocks: Blocks) -> bytes:
    """Indices, flat: a byte each, or row by row `lanes` low bytes and one of the bits above, the first in the lowest.

    The last row is padded by zeros.
    """
    if blocks.index_bits == INDEX_BITS:
        return indices.astype(np.uint8).tobytes()
    rows = np.zeros((-(-indices.size // blocks.lanes), blocks.lanes), np.uint16)
    rows.reshape(-1)[: indices.size] = indices
    shifts = (blocks.index_bits - INDEX_BITS) * np.arange(blocks.lanes, dtype=np.uint16)
    above = ((rows >> INDEX_BITS) << shifts).sum(axis=1, keepdims=True)
    return np.concatenate([rows & 255, above], axis=1).astype(np.uint8).tobytes()


def unpack_indices(packed: npt.NDArray[np.uint8], blocks: Blocks) -> npt.NDArray[np.intp]:
    """The inverse of `pack_indices`, with the padding: flat."""
    if blocks.index_bits == INDEX_BITS:
        return packed.reshape(-1).astype(np.intp)
    rows = packed.reshape(-1, blocks.lanes + 1).astype(np.intp)
    more = blocks.index_bits - INDEX_BITS
    above = rows[:, -1:] >> (more * np.arange(blocks.lanes)) & (2**more - 1)
    found: npt.NDArray[np.intp] = rows[:, :-1] + (above << INDEX_BITS)
    return found.reshape(-1)


@dataclasses.dataclass(frozen=True)
class Codebook:
    """Vectors of `length` codes. raw: ``[entries, length]`` int8 in row-major bytes, so that equal tables are one."""

    raw: bytes
    length: int

    @classmethod
    def of(cls, table: CodeArray) -> Codebook:
        """table: ``[entries, length]`` int8, at most 1024 entries of at most 8 codes; raises ValueError for others."""
        entries, length = table.shape
        if not (0 < entries <= 2**MOST_INDEX_BITS and 0 < length <= LONGEST):
            raise ValueError(f"a table of {entries} vectors of {length} codes; {2**MOST_INDEX_BITS} of 8 are the most")
        return cls(np.ascontiguousarray(table, np.int8).tobytes(), length)

    @classmethod
    def nominal(cls, blocks: Blocks) -> Codebook:
        """One that stands for any of its size, where only bytes are counted."""
        return cls(bytes(blocks.entries * blocks.length), blocks.length)

    @property
    def blocks(self) -> Blocks:
        """Its size: at least 8 bits for an index."""
        entries = len(self.raw) // self.length
        return Blocks(self.length, max((entries - 1).bit_length(), INDEX_BITS))

    @property
    def bits(self) -> float:
        """Bits that each code takes in the file."""
        return self.blocks.bits

    @functools.cached_property
    def table(self) -> CodeArray:
        """``[entries, length]`` int8."""
        return np.frombuffer(self.raw, np.int8).reshape(-1, self.length)

    def pack(self, codes: CodeArray, run: int) -> bytes:
        """The indices of the blocks of codes in runs of `run`, row-major. Padding is what the table makes it.

        Raises ValueError for a block that is not in the table.
        """
        if not codes.size:
            return b""
        flat = np.ascontiguousarray(codes).reshape(-1, run)
        whole, left = divmod(flat.shape[1], self.length)
        found = np.empty((len(flat), self.blocks.of_run(run)), np.uint16)
        found[:, :whole] = self._indices(flat[:, : whole * self.length].reshape(-1, self.length)).reshape(len(flat), -1)
        if left:
            found[:, whole] = self._indices(flat[:, whole * self.length :])
        return pack_indices(found.reshape(-1), self.blocks)

    def unpack(self, packed: bytes, shape: tuple[int, ...], run: int) -> CodeArray:
        """The inverse of `pack`: int8 codes of `shape`."""
        if not packed:
            return np.zeros(shape, np.int8)
        each, runs = self.blocks.of_run(run), int(np.prod(shape)) // run
        indices = unpack_indices(np.frombuffer(packed, np.uint8), self.blocks)[: runs * each]
        vectors = self.table[indices].reshape(runs, each * self.length)
        return np.ascontiguousarray(vectors[:, :run]).reshape(shape)

    def nearest(self, rows: Float32) -> CodeArray:
        """For ``[rows, run]`` float32 in units of a code the nearest blocks, as codes in the same shape."""
        run, found = rows.shape[1], np.empty(rows.shape, np.int8)
        for start in range(0, run, self.length):
            part = rows[:, start : start + self.length]
            vectors = self.table[:, : part.shape[1]]
            found[:, start : start + self.length] = vectors[_nearest(part, vectors.astype(np.float32))]
        return found

    def _indices(self, blocks: CodeArray) -> npt.NDArray[np.uint16]:
        """Of the vectors that begin with each of the blocks ``[n, up to length]`` the first."""
        keys, order = self._keys(blocks.shape[1])
        wanted = _as_numbers(blocks)
        places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        if not np.array_equal(keys[places], wanted):
            raise ValueError("a block of codes is not in the table")
        return order[places].astype(np.uint16)

    def _keys(self, length: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.intp]]:
        """What the vectors begin with as numbers in rising order, and whose they are."""
        numbers = _as_numbers(self.table[:, :length])
        order = np.argsort(numbers, kind="stable")
        return numbers[order], order


@functools.cache
def trits() -> Codebook:
    """Every five codes of -1, 0 and 1, ``sum_i (q_i + 1) 3^i`` their index."""
    digits = np.arange(3**TRITS)[:, None] // 3 ** np.arange(TRITS) % 3
    return Codebook.of((digits - 1).astype(np.int8))


@dataclasses.dataclass(frozen=True)
class LearntTable:
    """A codebook for weights. unit: what a code of 1 stands for, in deviations of a channel."""

    book: Codebook
    unit: float


def channel_blocks(rows: Float32, length: int) -> Float32:
    """Whole blocks of rows ``[out, k]``, each row over its root mean square: ``[n, length]`` float32."""
    size = np.sqrt(np.mean(np.square(rows, dtype=np.float64), axis=1, keepdims=True))
    whole = rows.shape[1] - rows.shape[1] % length
    even = np.divide(rows, size, out=np.zeros(rows.shape, np.float32), where=size > 0, casting="unsafe")
    return even[:, :whole].reshape(-1, length)


def learn(weights: Iterable[Float32], size: Blocks) -> LearntTable:
    """The table of a size for weights, ``[out, k]`` float32 each; always the same for the same."""
    length = size.length
    blocks = np.concatenate([channel_blocks(rows, length) for rows in weights] or [np.zeros((0, length), np.float32)])
    blocks = blocks[np.any(blocks != 0, axis=1)]
    count, generator = len(blocks), np.random.default_rng(length)
    if count > SAMPLED:
        blocks = blocks[generator.permutation(count)[:SAMPLED]]
    return _learnt(blocks.tobytes(), size, count)


@functools.lru_cache(maxsize=KEPT_TABLES)  # widths are measured with the tables that weights then are rounded to
def _learnt(raw: bytes, size: Blocks, count: int) -> LearntTable:
    """The table for blocks in row-major bytes, taken of so many."""
    length = size.length
    blocks = np.frombuffer(raw, np.float32).reshape(-1, length)
    generator = np.random.default_rng(length)
    if count > SAMPLED:
        generator.permutation(count)  # as they were taken: what is drawn next follows
    half = size.entries // 2 - 1  # vectors with their negatives, and 0
    if len(blocks) < half:  # a handful of weights: what they lack is made up
        blocks = np.concatenate([blocks, generator.standard_normal((half, length)).astype(np.float32)])
    # The best vectors are as dense as what they code to the power d / (d + 2) (Zador 1982): wider, if it is normal.
    wider = np.float32(np.sqrt((length + 2) / length))
    vectors = _lloyd(blocks, blocks[generator.permutation(len(blocks))[:half]] * wider)
    unit = float(np.abs(vectors).max()) / LARGEST
    codes = np.rint(vectors / unit).astype(np.int8)
    table = np.zeros((size.entries, length), np.int8)
    table[1 : half + 1], table[half + 1 : 2 * half + 1] = codes, -codes
    return LearntTable(Codebook.of(table), unit)


def _lloyd(blocks: Float32, vectors: Float32) -> Float32:
    """Vectors that, with their negatives and 0, are near the blocks: each the mean of those nearest to it."""
    for _ in range(ROUNDS):
        best, product, score = _nearest_either_way(blocks, vectors)
        counted = score > 0  # 0 is nearer to the others
        turned = blocks * (np.sign(product) * counted)[:, None]
        counts = np.bincount(best[counted], minlength=len(vectors))
        sums = np.stack([np.bincount(best, column, len(vectors)) for column in turned.T], axis=1)
        fresh = sums / np.maximum(counts, 1)[:, None]
        lonely = np.flatnonzero(counts == 0)
        if len(lonely):  # goes where the error is largest
            left = np.square(blocks).sum(axis=1) - 2 * np.maximum(score, 0)
            fresh[lonely] = blocks[np.argsort(-left, kind="stable")[: len(lonely)]]
        vectors = fresh.astype(np.float32)
    return vectors


def _nearest_either_way(blocks: Float32, vectors: Float32) -> tuple[npt.NDArray[np.intp], Float32, Float32]:
    """For each block the vector that, or whose negative, is nearest; their product, and that less half the vector's
    square, which is above 0 where 0 is farther: ``[n]`` each."""
    best, product, score = np.empty(len(blocks), np.intp), np.empty_like(blocks[:, 0]), np.empty_like(blocks[:, 0])
    halves = 0.5 * np.square(vectors).sum(axis=1)
    for start in range(0, len(blocks), BLOCKS_AT_ONCE):
        part = slice(start, start + BLOCKS_AT_ONCE)
        products = blocks[part] @ vectors.T
        scores = np.abs(products)
        scores -= halves
        best[part] = found = scores.argmax(axis=1)
        index = np.arange(len(found))
        product[part], score[part] = products[index, found], scores[index, found]
    return best, product, score


def _nearest(points: Float32, vectors: Float32) -> npt.NDArray[np.intp]:
    """Of vectors ``[entries, d]`` the one nearest to each of the points ``[n, d]``."""
    scores = points @ vectors.T
    scores -= 0.5 * np.square(vectors).sum(axis=1)
    best: npt.NDArray[np.intp] = scores.argmax(axis=1)
    return best


def _as_numbers(blocks: CodeArray) -> npt.NDArray[np.uint64]:
    """Blocks of up to 8 codes as one number each."""
    wide = np.zeros((len(blocks), LONGEST), np.uint8)
    wide[:, : blocks.shape[1]] = np.ascontiguousarray(blocks).view(np.uint8)
    return wide.view(np.uint64).reshape(-1)
