"""Where the table of a codebook pays: in a network, for a layer, and for what is built in the end."""

import dataclasses

import numpy as np
import pytest

import dfmpc_onnx
from dfmpc_onnx.numerics.codebook import Blocks, Codebook
from dfmpc_onnx.pipeline.facts import Codes, Layer, Layers
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.pipeline.targets import TARGETS
from dfmpc_onnx.quantization.codebook_tables import (
    BLOCKS,
    SAVED_BITS,
    NetworkTables,
    blocks_of_plan,
    blocks_that_pay,
    saved_by_blocks,
    table_bytes,
    takes_codebooks,
)
from dfmpc_onnx.quantization.grid_rules import GridRules
from tests import graphs

MOMENTS = {1: 1 / 12, 2: 0.0801875, 3: 0.0785433, 4: 0.076603, 5: 0.0756252}  # of the best lattices known


def wide(channels=64, blocks=4):
    net = graphs.Net()
    x = "x"
    for _ in range(blocks):
        x = net.relu(net.block(x, channels))
    return net.model(net.tail(x, 10))


@pytest.mark.parametrize("length", sorted(SAVED_BITS))
def test_what_blocks_save_is_the_gain_of_the_best_vectors_over_single_levels(length):
    def factor(d):
        return 2 * np.pi * ((d + 2) / d) ** ((d + 2) / 2) * MOMENTS[d]

    assert SAVED_BITS[length] == pytest.approx(np.log2(factor(1) / factor(length)) / 2, abs=1e-3)


@pytest.mark.parametrize("blocks", sorted(BLOCKS.values()))
def test_a_table_pays_from_some_20_000_weights_on_in_however_many_layers(blocks):
    runs = 60 * blocks.length
    few, enough = (4, 30) if blocks.index_bits == 8 else (12, 88)  # such tables are two and four times as large
    assert blocks_that_pay([(few * runs, runs, blocks)]) == frozenset()
    assert blocks_that_pay([(8 * enough * runs, runs, blocks)]) == {blocks}
    many = [(enough * runs, runs, blocks)] * 8
    assert blocks_that_pay(many) == {blocks}
    assert blocks_that_pay([]) == frozenset()


def test_padding_and_nodes_count_against_blocks():
    assert saved_by_blocks(64 * 576, 576, Blocks(4)) > 0
    assert saved_by_blocks(64 * 3, 3, Blocks(5)) <= 0, "a byte for 3 codes of 1.6 bits"
    assert saved_by_blocks(64 * 6, 6, Blocks(5)) <= 0
    assert saved_by_blocks(100, 50, Blocks(4)) == 0, "nodes that decode them are larger"
    assert saved_by_blocks(64 * 576, 576, Blocks(3, 9)) > 0
    assert saved_by_blocks(10 * 63, 63, Blocks(3, 9)) == 0, "210 indices are not eights"


@pytest.mark.parametrize("weights", ["1.6", "4"])
@pytest.mark.parametrize("network", sorted(graphs.ALL))
def test_codebooks_never_leave_more_bits_in_a_file_than_levels_do(network, weights, monkeypatch):
    model = graphs.ALL[network]()
    stored = {}
    for blocks in (True, False):
        if not blocks:
            monkeypatch.setattr(NetworkTables, "serves", lambda self, layer, blocks: False)
        report = dfmpc_onnx.quantize(model, None, weights=weights, check=False).report
        stored[blocks] = {layer.name: layer.stored_bits for layer in report.layers}
    assert stored[True] == stored[False], "no table pays in networks this small"


@pytest.mark.parametrize("bits", ["2", "4"])
def test_one_small_layer_of_few_bits_takes_levels_in_a_network_of_8_bits(bits):
    made = dfmpc_onnx.quantize(wide(16), None, weights="8", layers=[f"conv3={bits}"], check=False)
    layer = next(layer for layer in made.report.layers if layer.name == "conv3")
    assert (layer.stored_bits, layer.block) == (float(bits), 0)


def test_a_layer_that_cannot_pay_for_a_table_waits_for_one_that_can():
    tables = NetworkTables.__new__(NetworkTables)
    tables._paying, tables._taken, tables._rules = frozenset({Blocks(4)}), set(), GridRules()
    small, large = (Layer("n", "Conv", "w", (size, 64, 1, 1), 0) for size in (12, 64))
    assert not tables.serves(small, Blocks(4)) and tables.serves(large, Blocks(4))
    tables.take(None)
    assert not tables.serves(small, Blocks(4))
    tables.take(Codebook.nominal(Blocks(4)))
    assert tables.serves(small, Blocks(4)) and not tables.serves(small, Blocks(2))
    assert table_bytes(Blocks(4)) > 12 * 64 > 0


def test_what_a_plan_counts_on_is_built_though_its_table_would_not_pay_by_itself():
    space = graphs.workspace(wide(24), "2")
    PassManager(graphs.pipeline("pair_convolutions", "mixed")).run(space)
    layers = [layer for layer in space.get(Layers).all if takes_codebooks(layer)]
    widths = {layer.name: 3 for layer in layers}
    without, planned = (NetworkTables(space.graph, layers, GridRules(), widths, blocks) for blocks in ((), {BLOCKS[3]}))
    assert not any(without.serves(layer, BLOCKS[3]) for layer in layers)
    assert any(planned.serves(layer, BLOCKS[3]) for layer in layers)
    assert blocks_of_plan(None) == frozenset()


@pytest.mark.parametrize("target", sorted(name for name, target in TARGETS.items() if target.storage == "int8"))
def test_targets_of_plain_int8_take_no_table(target):
    space = graphs.workspace(wide(), "2")
    space.settings = dataclasses.replace(space.settings, target=TARGETS[target])
    PassManager(graphs.pipeline("reconstruct_layers", "mixed")).run(space)
    assert all(weight.book is None for weight in space.get(Codes).weights.values())


def test_codes_are_blocks_wherever_a_table_pays():
    space = graphs.workspace(wide(), "2")
    PassManager(graphs.pipeline("reconstruct_layers", "mixed")).run(space)
    books = {name: weight.book for name, weight in space.get(Codes).weights.items()}
    assert {book.blocks for book in books.values() if book is not None} == {BLOCKS[2]}
