"""Packed forms of low-bit weights: what there is, what each costs and needs, and which is the smallest.

A code is stored in planes of 8, 4, 2 or 1 bits (`numerics.packing`): 3 bits as 2 + 1, 5 as 4 + 1, 6 as 4 + 2, 7 as
4 + 2 + 1, so every width takes no more than its bits. A plane stands in the file in one of three ways: as a tensor of
an ONNX *type* that narrow, which only new opsets have; as plain bytes, each of which a *table* turns into its fields;
and as *blocks*, each of them the index of a vector of a codebook: five ternary codes to a byte, or what a table that
was learnt from the network holds. Indices of 9 or 10 bits are computed of two numbers each. Tables serve any opset and
all layers of a model, and cost their own bytes once. Nodes and names cost bytes as well, so small weights are left in
wider types.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal

import onnx

from dfmpc_onnx.numerics.codebook import INDEX_BITS, Codebook, trits
from dfmpc_onnx.numerics.packing import byte_table, shifts
from dfmpc_onnx.numerics.quantized import QuantizedWeight

NEWEST = 25  # the opset that has every type
OLDEST_WITH_TABLES = 13
# Only onnxruntime 1.24 and later load this opset, and they add and multiply INT8; 1.20 does not.
FIRST_WITH_INT8_ARITHMETIC = 25
# Of a plane of so many bits with or without a sign: ONNX type, first opset that has it.
STORAGE_TYPES = {
    (8, True): (onnx.TensorProto.INT8, 13),
    (4, True): (onnx.TensorProto.INT4, 21),
    (2, True): (onnx.TensorProto.INT2, 25),
    (2, False): (onnx.TensorProto.UINT2, 25),
}
# The first onnxruntime that surely loads a graph of an opset.
LOADS_OPSET = {19: "1.16", 20: "1.17", 21: "1.18", 22: "1.21", 23: "1.23", 25: "1.24", 26: "1.31"}
RUNTIMES = {13: "1.16", 21: "1.23", 25: "1.24"}  # the first onnxruntime that casts the types of an opset
ROUNDS_TO_4_BITS = "1.19"  # the first onnxruntime whose QuantizeLinear gives such codes; 1.18 refuses them
SPLITS = ((2,), (2, 1), (4,), (4, 1), (4, 2), (4, 2, 1))

# What a decoding node and an initializer cost beside their values, with names of a few letters: the mean of written
# files, good to some bytes. Constants that layers share, as their shape, count where tables are weighed, if at all.
NODE_BYTES = 42
CONSTANT_BYTES = 24
# What stands in the file around the 8-bit codes of a weight beside its scales: a DequantizeLinear, or Cast and Mul.
INTEGER_FORM_BYTES = 110
FLOAT_FORM_BYTES = 200
# Tables are worked through at load, types need one Cast: a table has to save this share of the bytes.
TABLE_HANDICAP = 0.01
PRICES_KEPT = 2**14  # of kinds of codes: a network has ten for each weight of its own size


@dataclasses.dataclass(frozen=True)
class Plane:
    """`bits` bits of every code, worth ``2**shift`` each; how they are encoded. Of blocks, bits counts those decoded.

    book: of blocks, the table whose vectors they are. run: how many codes blocks divide before they begin anew, the
    last of them padded; 0 for all codes of a weight.
    """

    bits: int
    shift: int = 0
    signed: bool = True
    encoding: Literal["type", "table", "blocks"] = "type"
    book: Codebook | None = None
    run: int = 0

    @property
    def codes_each(self) -> int:
        """Codes that a byte, or an index, stands for."""
        return self.book.length if self.book is not None else 8 // self.bits

    @property
    def stored_bits(self) -> float:
        """Bits that each code takes, padding left out."""
        return self.book.bits if self.book is not None else float(self.bits)

    @property
    def opset(self) -> int:
        """The first opset that can decode it."""
        return STORAGE_TYPES[self.bits, self.signed][1] if self.encoding == "type" else OLDEST_WITH_TABLES

    def bytes(self, count: int) -> int:
        """Bytes of so many codes."""
        run = self.run or count
        if not run:
            return 0
        if self.book is not None:
            return self.book.blocks.bytes(count, run)
        return -(-count * self.bits // 8)

    def overhead(self, count: int) -> int:
        """About what the nodes that decode it and their constants cost in the file, tables left out."""
        if self.encoding == "type":
            return NODE_BYTES * (1 + (self.shift > 0))
        shape = CONSTANT_BYTES if self.encoding == "blocks" else 0  # of each layer, but for those of one shape
        index = 5 if self.book is not None and self.book.blocks.index_bits > INDEX_BITS else 0
        return NODE_BYTES * ((5 if self.ragged(count) else 3) + index) + shape

    def ragged(self, count: int) -> bool:
        """Whether the last byte or block of a run is not full, so that padding has to be cut off."""
        return (self.run or count) % self.codes_each > 0

    @property
    def table(self) -> Codebook | None:
        """The codes in each byte, already times ``2**shift``; None of a plane of a type."""
        if self.encoding == "table":
            return _table_of_fields(self.bits, self.shift, self.signed)
        return self.book


@functools.cache
def _table_of_fields(bits: int, shift: int, signed: bool) -> Codebook:
    return Codebook.of(byte_table(bits, shift, signed))


@dataclasses.dataclass(frozen=True)
class Form:
    """How the codes of a weight are stored: their planes, the highest bits first."""

    planes: tuple[Plane, ...]

    @property
    def bits(self) -> float:
        """Bits a weight, padding left out: whole but for blocks of 3 or 5."""
        return float(sum(plane.stored_bits for plane in self.planes))

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(plane.bits for plane in self.planes)

    @property
    def opset(self) -> int:
        """The first opset that can decode it."""
        return max(plane.opset for plane in self.planes)

    @functools.cached_property
    def tables(self) -> frozenset[Codebook]:
        """The tables that it needs; planes and layers that need the same share it."""
        return frozenset(table for plane in self.planes if (table := plane.table) is not None)

    def bytes(self, count: int) -> int:
        """Bytes of the codes of so many weights."""
        return sum(plane.bytes(count) for plane in self.planes)

    def overhead(self, count: int, opset: int = NEWEST) -> int:
        """About what decoding so many weights between quantized activations adds to the file, tables left out."""
        if self == PLAIN:
            return 0
        more = len(self.planes) - 1
        # What tables give is INT8 and so is the end; sums in INT32 take a Cast each way.
        looked_up = sum(plane.encoding != "type" for plane in self.planes)
        casts = looked_up + 1 if more and opset < FIRST_WITH_INT8_ARITHMETIC else 0
        planes = sum(plane.overhead(count) for plane in self.planes)
        return planes + more * (NODE_BYTES + CONSTANT_BYTES) + casts * NODE_BYTES

    def cost(self, count: int, opset: int = NEWEST) -> float:
        """What to compare forms by: bytes in the file of so many weights without tables, with their handicap."""
        return (self.bytes(count) + self.overhead(count, opset)) * (1 + TABLE_HANDICAP * len(self.tables))


PLAIN = Form((Plane(8),))


@dataclasses.dataclass(frozen=True)
class Kind:
    """What the storage of a weight depends on: how many codes, of how many bits, whether -1, 0 and 1 alone.

    book: the table that blocks of its codes are in, if they are. run: how many codes an output channel then has.
    """

    size: int
    bits: int
    ternary: bool = False
    book: Codebook | None = None
    run: int = 0

    @classmethod
    def of(cls, weight: QuantizedWeight) -> Kind:
        run = 0 if weight.book is None else weight.codes.size // max(len(weight.codes), 1)
        return cls(weight.codes.size, weight.bits, weight.ternary, weight.book, run)


def forms(kind: Kind, opset: int = NEWEST) -> tuple[Form, ...]:
    """Every form that holds such codes and that an opset can decode; INT8, which all can, comes first."""
    found = [PLAIN]
    if kind.size and opset >= OLDEST_WITH_TABLES:
        if kind.book is not None and kind.book.blocks.divides(kind.size, kind.run):
            found.append(Form((Plane(kind.bits, encoding="blocks", book=kind.book, run=kind.run),)))
        if kind.ternary:
            found.append(Form((Plane(2, encoding="blocks", book=trits()),)))
        for widths in SPLITS:
            if sum(widths) >= kind.bits:
                found.extend(_encode(widths))
    return tuple(form for form in found if form == PLAIN or form.opset <= opset)


def _encode(widths: tuple[int, ...]) -> list[Form]:
    """The forms of one split: each plane by type, where there is one, or by table."""
    choices: list[list[Plane]] = []
    for i, (bits, shift) in enumerate(zip(widths, shifts(widths), strict=True)):
        signed = i == 0
        typed = [Plane(bits, shift, signed)] if (bits, signed) in STORAGE_TYPES else []
        choices.append([*typed, Plane(bits, shift, signed, "table")])
    return [Form(planes) for planes in itertools.product(*choices)]


@dataclasses.dataclass(frozen=True)
class _Priced:
    form: Form
    price: float


@functools.lru_cache(maxsize=PRICES_KEPT)
def _priced(kind: Kind, opset: int) -> tuple[_Priced, ...]:
    """What each form of such codes costs, in the order of `forms`: a planner asks for thousands of settings."""
    return tuple(_Priced(form, form.cost(kind.size, opset)) for form in forms(kind, opset))


def cheapest_form(kind: Kind, opset: int = NEWEST) -> Form:
    """The form of such codes that costs least where no table is counted; the first of equal ones."""
    return min(_priced(kind, opset), key=_price).form


def _price(one: _Priced) -> float:
    return one.price


def choose_forms(kinds: Mapping[str, Kind], opset: int = NEWEST) -> dict[str, Form]:
    """The form of each weight of a model, so that the file is small: codes, nodes, and every table once.

    A table pays only if the weights that share it save more than its bytes. At first tables count as free and each
    weight takes its cheapest form; then those tables are given up whose weights would do better without.
    """
    counts = Counter(kinds.values())
    options = {kind: _priced(kind, opset) for kind in counts}

    def cheapest(tables: frozenset[Codebook]) -> dict[Kind, _Priced]:
        return {
            kind: min((one for one in found if one.form.tables <= tables), key=_price)
            for kind, found in options.items()
        }

    def total(choice: Mapping[Kind, _Priced]) -> float:
        tables = frozenset().union(*(one.form.tables for one in choice.values()))
        # By count, not by set order, which changes from process to process: sums of floats depend on it.
        own = sum(counts[kind] * one.price for kind, one in choice.items())
        return own + sum(len(table.raw) + CONSTANT_BYTES for table in tables)

    allowed = frozenset[Codebook]().union(*(one.form.tables for found in options.values() for one in found))
    chosen = cheapest(allowed)
    while True:
        planes = (plane for one in chosen.values() for plane in one.form.planes)
        used = list(dict.fromkeys(table for plane in planes if (table := plane.table) is not None))
        together = [one.form.tables for one in chosen.values() if len(one.form.tables) > 1]
        # All at once, too: without the tables in use, weights may take others that are no better than none.
        trials = dict.fromkeys([*(frozenset({table}) for table in used), *together, frozenset(used), allowed])
        fewer = min((allowed - trial for trial in trials), key=lambda tables: total(cheapest(tables)))
        if total(cheapest(fewer)) >= total(chosen):
            return {name: chosen[kind].form for name, kind in kinds.items()}
        allowed, chosen = fewer, cheapest(fewer)


def opset_for(chosen: Iterable[Form]) -> int:
    """The lowest opset that can decode all of the forms."""
    return max((form.opset for form in chosen), default=OLDEST_WITH_TABLES)


def oldest_runtime(chosen: Iterable[Form], opset: int, *, few_bits: bool = False) -> str:
    """The oldest onnxruntime that loads weights in these forms, in a graph of an opset.

    few_bits: whether activations are rounded to 4 bits.
    """
    loads = next((version for known, version in LOADS_OPSET.items() if opset <= known), LOADS_OPSET[max(LOADS_OPSET)])
    needed = [RUNTIMES[opset_for(chosen)], loads, *([ROUNDS_TO_4_BITS] if few_bits else [])]
    return max(needed, key=lambda version: [int(part) for part in version.split(".")])
