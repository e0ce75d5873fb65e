import numpy as np
import pytest

from dfmpc_onnx.numerics.few_levels import Histogram, least_error_grid
from dfmpc_onnx.pipeline.facts import FewBitGrids, MeasuredRanges
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.quantization.input_grids import InputGrids, few_bits_warnings, tensors_of_few_bits
from tests import graphs


def test_what_inner_layers_read_has_few_bits_and_what_the_first_and_the_last_read_has_not():
    space, _ = graphs.prepared(graphs.residual(), "pair_convolutions", activations="4")
    assert tensors_of_few_bits(space) == {"relu1", "relu2"}


def test_what_layers_of_outputs_read_keeps_its_bits():
    net = graphs.Net()
    x = net.block("x", 8)
    space, _ = graphs.prepared(net.model(net.conv(x, 8), net.conv(x, 4)), "pair_convolutions", activations="4")
    assert tensors_of_few_bits(space) == frozenset()


def test_a_grid_is_that_of_the_first_values_that_come_by():
    space, _ = graphs.prepared(graphs.chain(), "pair_convolutions", activations="4")
    grids, random = InputGrids(space, 4), np.random.default_rng(0)
    x = random.standard_normal((2, 8, 8, 8)).astype(np.float32)
    want = least_error_grid(Histogram.of(x), 4)
    assert np.array_equal(grids.rounded("relu1", x), want.rounded(x)) and grids.found == {"relu1": want}
    assert np.array_equal(grids.rounded("relu1", 2 * x), want.rounded(2 * x))
    assert grids.rounded("x", x) is x


@pytest.mark.parametrize("network", ["chain", "residual", "depthwise", "dense"])
def test_without_images_grids_follow_from_moments(network):
    space, _ = graphs.prepared(graphs.ALL[network](), "estimate_ranges", activations="4")
    few = tensors_of_few_bits(space)
    assert few and space.get(FewBitGrids).tensors.keys() == few
    space, _ = graphs.prepared(graphs.ALL[network](), "estimate_ranges", activations="8")
    assert space.get(FewBitGrids).tensors == {}


def test_the_walk_rounds_what_layers_read_and_leaves_the_grids():
    space = graphs.workspace(graphs.chain(), "4", "4")
    PassManager(graphs.pipeline("reconstruct_layers", "mixed")).run(space)
    found = space.get(MeasuredRanges).grids
    assert found.keys() == {"relu1", "relu2"} and all(grid.zero_point == 0 for grid in found.values())
    space = graphs.workspace(graphs.chain(), "4", "8")
    PassManager(graphs.pipeline("reconstruct_layers", "mixed")).run(space)
    assert space.get(MeasuredRanges).grids == {}


def test_what_is_asked_for_a_layer_counts():
    def of(*layers, activations="4"):
        space, _ = graphs.prepared(graphs.residual(), "pair_convolutions", activations=activations, layers=layers)
        return tensors_of_few_bits(space)

    assert of("conv2=4/8") == {"relu2"}
    assert of("conv*=4/8", "conv3=8/4") == {"relu2"}
    assert of("gemm1=8/4") == {"relu1", "relu2", "flatten1"}
    assert of("conv2=4") == {"relu1", "relu2"}


def test_who_asks_for_few_bits_where_there_can_be_none_is_warned():
    def of(*layers):
        space, _ = graphs.prepared(graphs.residual(), "estimate_ranges", activations="4", layers=layers)
        return few_bits_warnings(space, space.get(FewBitGrids).tensors)

    assert of() == of("conv2=8/4") == of("gemm1=8/8") == ()
    (said,) = of("conv1=8/4", "conv2=8/4")
    assert said.startswith("layer 'conv1': reads 8 bits, not 4: an input of the network")
