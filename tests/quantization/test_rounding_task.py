"""Which form a layer gets at a width, and how many images are run for it."""

import dataclasses

import numpy as np
import pytest

import dfmpc_onnx
from dfmpc_onnx.inputs.batches import PIXELS
from dfmpc_onnx.numerics.codebook import Blocks
from dfmpc_onnx.pipeline.facts import Codes, Layers
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.qdq.stored_bits import stored_layers
from dfmpc_onnx.quantization import image_count
from dfmpc_onnx.quantization.codebook_tables import NetworkTables, run_of, takes_codebooks
from dfmpc_onnx.quantization.grid_rules import GridRules
from dfmpc_onnx.quantization.image_count import images_needed
from dfmpc_onnx.quantization.weight_grids import forms_at
from tests import graphs


def wide(size=8, *, groups=1, batch="n"):
    """A chain whose layers are large enough for a table to pay."""
    net = graphs.Net((batch, 3, size, size))
    x = net.relu(net.block("x", 64))
    for _ in range(3):
        x = net.relu(net.block(x, 64, group=groups))
    return net.model(net.tail(x, 10))


def quantized(weights, recipe="mixed"):
    return dfmpc_onnx.quantize(wide(), None, recipe, layers=[f"conv3={weights}"], activations="none", check=False)


def conv3(made):
    return next(layer for layer in made.report.layers if layer.name == "conv3")


@pytest.mark.parametrize(("weights", "bits"), [("1.6", 1.6), ("2", 2), ("2.67", 2.67), ("4", 4)])
def test_a_number_is_how_many_bits_a_weight_takes_in_the_file(weights, bits):
    made = quantized(weights, "int8")
    assert (conv3(made).bits, conv3(made).stored_bits, conv3(made).ternary) == (bits, bits, False)
    assert conv3(made).block == round(8 / bits)
    assert dfmpc_onnx.inspect(made.model).mean_weight_bits == made.report.mean_weight_bits


@pytest.mark.parametrize(("bits", "length"), [(3, 3), (5, 2)])
def test_blocks_of_wider_indices_serve_several_layers_and_are_what_expand_makes_plain(bits, length):
    layers = [f"conv{number}={bits}" for number in (2, 3, 4)]
    made = dfmpc_onnx.quantize(wide(), None, "int8", layers=layers, target="portable", check=False)
    found = [layer for layer in made.report.layers if layer.name in ("conv2", "conv3", "conv4")]
    assert {(layer.bits, layer.stored_bits, layer.block) for layer in found} == {(bits, bits, length)}
    assert dfmpc_onnx.inspect(made.model).mean_weight_bits == made.report.mean_weight_bits
    assert [layer.bits for layer in stored_layers(made.model)][1:-1] == [bits] * 3
    x = graphs.input_of(wide(), 4)
    assert np.array_equal(graphs.run(made.model, x)[0], graphs.run(dfmpc_onnx.expand(made.model, None).model, x)[0])


def test_ternary_is_about_the_codes_and_blocks_lose_less_in_as_many_bytes():
    ternary, blocks = quantized("ternary", "int8"), quantized("1.6", "int8")
    assert conv3(ternary).ternary and not conv3(blocks).ternary
    assert conv3(blocks).stored_bits == 1.6 <= conv3(ternary).stored_bits
    x = graphs.input_of(wide(), 16)
    lost = [graphs.relative(graphs.run(made.model, x), graphs.run(wide(), x)) for made in (blocks, ternary)]
    assert lost[0] < lost[1]


@pytest.mark.parametrize("weights", ["1.6", "2.67"])
def test_recipes_that_measure_nothing_take_levels_of_no_more_bits(weights):
    assert conv3(quantized(weights, "per-channel")).ternary


@pytest.mark.parametrize(("width", "codebooks", "levels", "blocks"), [
    ("ternary", True, ("ternary",), ()), (1.6, True, ("ternary",), ((5, 8),)), (1.6, False, ("ternary",), ()),
    (2, True, ("ternary", 2), ((4, 8),)), (2.67, True, (), ((3, 8),)), (2.67, False, ("ternary", 2), ()),
    (3, True, (3,), ((3, 9),)), (4, True, (4,), ((2, 8),)), (4, False, (4,), ()), (5, True, (5,), ((2, 10),)),
    (8, True, (8,), ()),
])  # fmt: skip
def test_the_forms_of_a_width_take_no_more_bits(width, codebooks, levels, blocks):
    assert forms_at(width, codebooks) == (levels, blocks)


@pytest.mark.parametrize("network", ["negative_gamma", "dead_channel", "folded"])
def test_what_is_folded_behind_leaves_blocks_in_the_table(network, monkeypatch):
    monkeypatch.setattr(NetworkTables, "serves", lambda self, layer, blocks: takes_codebooks(layer))
    model = graphs.ALL[network]()
    made = dfmpc_onnx.quantize(model, None, weights="2", check=False)
    space = graphs.workspace(model, "2")
    PassManager(graphs.pipeline("fold_batch_norm", "mixed")).run(space)
    found = [weight for weight in space.get(Codes).weights.values() if weight.book is not None]
    assert found and np.isfinite(graphs.run(made.model, graphs.input_of(model))[0]).all()
    for weight in found:
        run = weight.codes.size // len(weight.codes)
        packed = weight.book.pack(weight.codes, run)
        assert np.array_equal(weight.book.unpack(packed, weight.codes.shape, run), weight.codes)


def test_depthwise_layers_and_products_of_matrices_take_none():
    for name in ("depthwise", "matmul_tail"):
        space = graphs.workspace(getattr(graphs, name)(), "2")
        PassManager(graphs.pipeline("pair_convolutions", "mixed")).run(space)
        for layer in space.get(Layers).quantizable:
            takes = layer.axis == 0 and not layer.depthwise
            assert takes_codebooks(layer) == takes and run_of(layer) == (layer.size // layer.shape[0] if takes else 0)


def test_tables_are_those_of_the_weights_that_the_layers_had_at_first():
    space = graphs.workspace(wide(), "2")
    PassManager(graphs.pipeline("pair_convolutions", "mixed")).run(space)
    layers = space.get(Layers).all
    first, later = (NetworkTables(space.graph, layers, GridRules()) for _ in range(2))
    want = first.of(Blocks(4))
    for node in space.graph.nodes:
        if node.op == "Conv":
            node.inputs[1].values = np.zeros_like(node.inputs[1].values)
    assert later.of(Blocks(4)) == want and later.of(Blocks(4)) is later.of(Blocks(4))


@pytest.mark.parametrize(("size", "weights", "by_hand", "count"), [
    (224, "2", True, 64), (224, "1.6", True, 64), (224, "4", True, 64), (224, "2", False, 0), (224, "5", True, 0),
    (32, "2", True, 192), (32, "2", False, 192), (32, "4", True, 192), (32, "5", True, 0), (112, "4", False, 0),
])  # fmt: skip
def test_few_bits_take_more_images_within_a_bound_on_pixels(size, weights, by_hand, count):
    space = graphs.workspace(few_patches(size), weights)
    space.settings = dataclasses.replace(space.settings, by_hand=by_hand)
    PassManager(graphs.pipeline("assign_bits", "mixed")).run(space)
    assert images_needed(space) == count


def few_patches(size):
    net = graphs.Net(("n", 3, size, size))
    x = net.node("MaxPool", net.relu(net.block("x", 4)), kernel_shape=[32, 32], strides=[32, 32])
    x = net.relu(net.block(net.relu(net.block(x, 128)), 16))  # patches of 1152 entries, 49 an image of 224x224
    return net.model(net.tail(x, 10))


@pytest.mark.parametrize(("by_hand", "count"), [(True, 0), (False, 0)])
def test_a_network_that_costs_much_on_small_images_takes_as_many_as_usual(by_hand, count, monkeypatch):
    monkeypatch.setattr(image_count, "USUAL_COST", (1e6, PIXELS))
    monkeypatch.setattr(image_count, "COST_OF_FEW_BITS", (1e6, PIXELS))
    space = graphs.workspace(few_patches(64), "4")
    space.settings = dataclasses.replace(space.settings, by_hand=by_hand)
    PassManager(graphs.pipeline("assign_bits", "mixed")).run(space)
    assert images_needed(space) == count
