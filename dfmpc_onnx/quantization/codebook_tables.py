"""The codebooks of a network: a table for each size of blocks, learnt from its own weights, and where it pays.

A table costs its own bytes, and each channel what pads its last block. At many bits, the best vectors of d numbers
leave the error of single levels in ``SAVED_BITS`` fewer bits a number (Zador 1982, with the moments of Conway and
Sloane 1999, table 2.3, of Gaussian numbers)::

    1/2 log2 (F(1) / F(d)),  F(d) = 2 pi ((d + 2) / d) ** ((d + 2) / 2) G(d)

So a table pays where the layers of its width would need more bytes than it has to do as well without it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.query import constant, nodes_by_name
from dfmpc_onnx.numerics.arrays import Array, Float32
from dfmpc_onnx.numerics.codebook import CODE_BITS, Blocks, Codebook, LearntTable, learn
from dfmpc_onnx.pipeline.facts import Layer
from dfmpc_onnx.pipeline.settings import BitWidth
from dfmpc_onnx.pipeline.weight_plan import PlannedWidths, StatedWidths
from dfmpc_onnx.qdq.code_formats import CONSTANT_BYTES, Form, Plane
from dfmpc_onnx.quantization.grid_rules import GridRules

# By width the codes of a block, and the bits of its index.
BLOCKS: Mapping[BitWidth | Literal["float"], Blocks] = {
    1.6: Blocks(5),
    2: Blocks(4),
    2.67: Blocks(3),
    3: Blocks(3, 9),
    4: Blocks(2),
    5: Blocks(2, 10),
}
SAVED_BITS: Mapping[int, float] = {5: 0.409, 4: 0.372, 3: 0.311, 2: 0.216}  # by the codes of a block, of each of them
ROWS = 256  # output channels of a layer that a table is learnt from


def takes_codebooks(layer: Layer) -> bool:
    """Whether a layer's codes may be blocks of a table: its output channels are the weight's first axis, and each has
    more than a handful of weights, as those of a depthwise Conv have not."""
    return layer.refused is None and layer.axis == 0 and layer.op != "ConvTranspose" and not layer.depthwise


def run_of(layer: Layer) -> int:
    """How many codes each output channel of a layer that takes codebooks has; 0 of another."""
    return layer.size // max(layer.shape[0], 1) if takes_codebooks(layer) else 0


def table_bytes(blocks: Blocks) -> int:
    """What a table of a size takes in the file."""
    return len(Codebook.nominal(blocks).raw) + CONSTANT_BYTES


def saved_by_blocks(size: int, run: int, blocks: Blocks) -> float:
    """The bytes that a weight of so many codes saves as blocks of a table, by what levels as good would take.

    Not over 0 where what pads its runs takes more, and where 8 bits a code would be smaller than nodes that decode.
    """
    form = _form_of_blocks(blocks, run)
    if not blocks.divides(size, run) or form.bytes(size) + form.overhead(size) >= size:
        return 0.0
    return size * (blocks.bits + SAVED_BITS[blocks.length]) / 8 - form.bytes(size)


def blocks_that_pay(weights: Iterable[tuple[int, int, Blocks]]) -> frozenset[Blocks]:
    """Of which blocks the tables pay in a network. weights: of each its size, the codes of a run, and its blocks."""
    saved = dict.fromkeys(BLOCKS.values(), 0.0)
    for size, run, blocks in weights:
        saved[blocks] += max(saved_by_blocks(size, run, blocks), 0.0)
    return frozenset(blocks for blocks, found in saved.items() if found >= table_bytes(blocks))


def _form_of_blocks(blocks: Blocks, run: int) -> Form:
    return Form((Plane(CODE_BITS, encoding="blocks", book=Codebook.nominal(blocks), run=run),))


def blocks_of_plan(planned: PlannedWidths | StatedWidths | None) -> frozenset[Blocks]:
    """The sizes of blocks that a plan counts on."""
    rows = () if planned is None else planned.rows
    return frozenset(BLOCKS[width] for row, width in rows if row.run_at(width))


class NetworkTables:
    """Tables by the size of their blocks, and which layers they serve. They are learnt from the weights that the layers
    have when this is made."""

    def __init__(
        self,
        graph: gs.Graph,
        layers: Iterable[Layer],
        rules: GridRules,
        widths: Mapping[str, BitWidth | Literal["float"]] | None = None,
        planned: Collection[Blocks] = (),
    ) -> None:
        """rules: what the target allows. widths: of the layers by name; None where each may get any of them. planned:
        blocks that a plan counts on, whose tables it has paid for."""
        nodes, fit = nodes_by_name(graph), [layer for layer in layers if takes_codebooks(layer)]
        found = [constant(nodes[layer.name].inputs[1]) for layer in fit]
        self._weights = [weight for weight in found if weight is not None]
        self._tables: dict[Blocks, LearntTable] = {}
        self._rules = rules
        users = {
            (layer.weight, blocks): (layer.size, run_of(layer), blocks)
            for layer in fit
            if rules.allow_codebooks(layer.op)
            for width, blocks in BLOCKS.items()
            if widths is None or widths[layer.name] == width
        }
        self._paying = blocks_that_pay(users.values()) | frozenset(planned)
        self._taken = set(self._paying if widths is None else planned)

    def serves(self, layer: Layer, blocks: Blocks) -> bool:
        """Whether a layer may take blocks of a size.

        The first that does must be large enough to pay for the table against 8 bits, since those behind it may do
        better on levels: a table that does not pay in the end would leave 8 bits to the codes that are blocks of it.
        """
        if blocks not in self._paying or not (takes_codebooks(layer) and self._rules.allow_codebooks(layer.op)):
            return False
        form, size = _form_of_blocks(blocks, run_of(layer)), layer.size
        alone = form.cost(size) + table_bytes(blocks) < size
        return saved_by_blocks(size, run_of(layer), blocks) > 0 and (alone or blocks in self._taken)

    def take(self, book: Codebook | None) -> None:
        """Note that codes are blocks of a table, or of none."""
        if book is not None:
            self._taken.add(book.blocks)

    def of(self, blocks: Blocks) -> LearntTable:
        """The table of a size."""
        if blocks not in self._tables:
            self._tables[blocks] = learn(map(_rows, self._weights), blocks)
        return self._tables[blocks]


def _rows(weight: Array) -> Float32:
    """Some output channels of a weight, evenly spaced: ``[at most ROWS, k]`` float32."""
    step = -(-len(weight) // ROWS)
    return np.asarray(weight[::step], np.float32).reshape(-(-len(weight) // step), -1)
