"""Codebooks: a table of 256 vectors of d codes, so that an index of 8 bits stands for d weights, 8 / d bits each.

The codes of a weight lie one behind the other in *runs*, the rows of its output channels, and each run is cut into
blocks of d; the last one is padded. A block is stored as the index of its vector. Five trits to a byte are the special
case whose table holds every block of five -1, 0 and 1, and whose run is the whole weight.

A table that is learnt is the one of least squared error for the blocks of a network's own weights, each channel over
its deviation (Lloyd 1982; vector quantization of weights: Gong et al. 2014, arXiv 1412.6115). With a vector it holds
the negative, and it holds 0, so that a channel whose scale changes its sign, or is dead, keeps a place in the table.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.arrays import CodeArray, Float32

ENTRIES = 256  # that an index of a byte can name
LONGEST = 8  # codes of a block: together they are one number of 64 bits
CODE_BITS = 7  # of a learnt table: two products with 8-bit activations fit 16 bits, as processors without VNNI need
LARGEST = 2 ** (CODE_BITS - 1) - 1
TRITS = 5  # in a byte: 3 ** 5 = 243
SAMPLED = 12_288  # blocks that a table is learnt from
ROUNDS = 12  # of Lloyd's iteration
BLOCKS_AT_ONCE = 512  # whose products with vectors stay in the processor's cache
KEPT_TABLES = 4  # tables that were learnt last


@dataclasses.dataclass(frozen=True)
class Codebook:
    """Vectors of `length` codes. raw: ``[entries, length]`` int8 in row-major bytes, so that equal tables are one."""

    raw: bytes
    length: int

    @classmethod
    def of(cls, table: CodeArray) -> Codebook:
        """table: ``[entries, length]`` int8, at most 256 entries of at most 8 codes; raises ValueError for others."""
        entries, length = table.shape
        if not (0 < entries <= ENTRIES and 0 < length <= LONGEST):
            raise ValueError(f"a table of {entries} vectors of {length} codes; 256 of 8 are the most")
        return cls(np.ascontiguousarray(table, np.int8).tobytes(), length)

    @classmethod
    def nominal(cls, length: int) -> Codebook:
        """One that stands for any of its size, where only bytes are counted."""
        return cls(bytes(ENTRIES * length), length)

    @property
    def bits(self) -> float:
        """Bits that each code takes in the file."""
        return 8 / self.length

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
        found = np.empty((len(flat), blocks_of(run, self.length)), np.uint8)
        found[:, :whole] = self._indices(flat[:, : whole * self.length].reshape(-1, self.length)).reshape(len(flat), -1)
        if left:
            found[:, whole] = self._indices(flat[:, whole * self.length :])
        return found.tobytes()

    def unpack(self, packed: bytes, shape: tuple[int, ...], run: int) -> CodeArray:
        """The inverse of `pack`: int8 codes of `shape`."""
        if not packed:
            return np.zeros(shape, np.int8)
        blocks = self.table[np.frombuffer(packed, np.uint8)].reshape(-1, blocks_of(run, self.length) * self.length)
        return np.ascontiguousarray(blocks[:, :run]).reshape(shape)

    def nearest(self, rows: Float32) -> CodeArray:
        """For ``[rows, run]`` float32 in units of a code the nearest blocks, as codes in the same shape."""
        run, found = rows.shape[1], np.empty(rows.shape, np.int8)
        for start in range(0, run, self.length):
            part = rows[:, start : start + self.length]
            vectors = self.table[:, : part.shape[1]]
            found[:, start : start + self.length] = vectors[_nearest(part, vectors.astype(np.float32))]
        return found

    def _indices(self, blocks: CodeArray) -> npt.NDArray[np.uint8]:
        """Of the vectors that begin with each of the blocks ``[n, up to length]`` the first."""
        keys, order = self._keys(blocks.shape[1])
        wanted = _as_numbers(blocks)
        places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        if not np.array_equal(keys[places], wanted):
            raise ValueError("a block of codes is not in the table")
        return order[places].astype(np.uint8)

    def _keys(self, length: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.intp]]:
        """What the vectors begin with as numbers in rising order, and whose they are."""
        numbers = _as_numbers(self.table[:, :length])
        order = np.argsort(numbers, kind="stable")
        return numbers[order], order


def blocks_of(run: int, length: int) -> int:
    """How many blocks of so many codes hold a run."""
    return -(-run // length)


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


def learn(weights: Iterable[Float32], length: int) -> LearntTable:
    """The table of vectors of so many codes for weights, ``[out, k]`` float32 each; always the same for the same."""
    blocks = np.concatenate([channel_blocks(rows, length) for rows in weights] or [np.zeros((0, length), np.float32)])
    blocks = blocks[np.any(blocks != 0, axis=1)]
    count, generator = len(blocks), np.random.default_rng(length)
    if count > SAMPLED:
        blocks = blocks[generator.permutation(count)[:SAMPLED]]
    return _learnt(blocks.tobytes(), length, count)


@functools.lru_cache(maxsize=KEPT_TABLES)  # widths are measured with the tables that weights then are rounded to
def _learnt(raw: bytes, length: int, count: int) -> LearntTable:
    """The table for blocks in row-major bytes, taken of so many."""
    blocks = np.frombuffer(raw, np.float32).reshape(-1, length)
    generator = np.random.default_rng(length)
    if count > SAMPLED:
        generator.permutation(count)  # as they were taken: what is drawn next follows
    half = ENTRIES // 2 - 1  # vectors with their negatives, and 0
    if len(blocks) < half:  # a handful of weights: what they lack is made up
        blocks = np.concatenate([blocks, generator.standard_normal((half, length)).astype(np.float32)])
    # The best vectors are as dense as what they code to the power d / (d + 2) (Zador 1982): wider, if it is normal.
    wider = np.float32(np.sqrt((length + 2) / length))
    vectors = _lloyd(blocks, blocks[generator.permutation(len(blocks))[:half]] * wider)
    unit = float(np.abs(vectors).max()) / LARGEST
    codes = np.rint(vectors / unit).astype(np.int8)
    table = np.zeros((ENTRIES, length), np.int8)
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
