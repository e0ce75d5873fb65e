import numpy as np
import pytest

from dfmpc_onnx.pipeline.facts import BitPlan, Layers
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.quantization.layer_rebuilder import ReconstructLayersOptions
from dfmpc_onnx.quantization.output_cost import Borne, borne
from dfmpc_onnx.statistics.batch_axis import statistics_batch
from tests import graphs


def prepared(model, weights="auto", layers=()):
    space = graphs.workspace(model, weights, layers=layers)
    PassManager(graphs.pipeline("assign_bits", "mixed")).run(space)
    return space


def free(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    return model


def cost(space, threshold=0.006):
    batch = statistics_batch(space.graph, space.inputs, 0, 0)
    options = ReconstructLayersOptions(threshold=threshold)
    return borne(space, options, space.get(Layers).by_name(), space.get(BitPlan).layers, batch).cost


@pytest.mark.parametrize("network", sorted(graphs.ALL))
def test_the_graph_is_left_as_it_is(network):
    space = prepared(free(graphs.ALL[network]()))
    before = graphs.snapshot(space.graph)
    assert 0 <= cost(space) <= 1
    assert graphs.snapshot(space.graph) == before


def test_more_error_costs_more_and_the_same_seed_the_same():
    space = prepared(free(graphs.residual()))
    costs = [cost(space, t) for t in (0.0006, 0.006, 0.06)]
    assert costs[1] == cost(space)
    assert costs == sorted(costs)
    assert 5 < costs[1] / costs[0] < 20  # small errors add as squares


def test_one_layer_of_the_threshold_is_wrong_by_the_threshold_at_the_output():
    """A network of one layer: what is read next is the output."""
    net = graphs.Net(("n", 3, 8, 8))
    space = prepared(net.model(net.conv("x", 6)))
    assert cost(space, 0.01) == pytest.approx(0.01, rel=0.2)  # measured on other positions than it was set on


def test_deeper_networks_make_more_of_the_same_error():
    def chain(depth):
        net = graphs.Net(("n", 3, 8, 8))
        x = "x"
        for _ in range(depth):
            x = net.block(x, 8)
        return net.model(x)

    costs = [cost(prepared(chain(depth))) for depth in (2, 8)]
    assert costs[1] > 2 * costs[0]


def test_layers_whose_bits_were_asked_for_are_left_out():
    space = prepared(free(graphs.chain()), "4")
    assert cost(space) == 0


def test_without_recalibration_too():
    space = prepared(free(graphs.chain()))
    batch = statistics_batch(space.graph, space.inputs, 0, 0)
    options = ReconstructLayersOptions(recalibrate=False)
    found = borne(space, options, space.get(Layers).by_name(), space.get(BitPlan).layers, batch)
    assert np.isfinite(found.cost) and found.cost > 0


def test_a_map_may_lose_a_quarter_of_what_a_vector_may():
    net = graphs.Net(("n", 3, 8, 8))
    found = []
    for model in (net.model(net.conv("x", 6)), free(graphs.chain())):
        space = prepared(model)
        batch = statistics_batch(space.graph, space.inputs, 0, 0)
        options = ReconstructLayersOptions()
        found.append(borne(space, options, space.get(Layers).by_name(), space.get(BitPlan).layers, batch))
    assert found[0].budget == found[1].budget / 4 == options.budget / 4


def test_errors_that_cost_less_than_they_may_are_let_be():
    assert Borne(0.05, 0.1).times == Borne(0.0, 0.1).times == 1
    assert Borne(0.4, 0.1).times == pytest.approx(0.125)
