import numpy as np
import pytest

from dfmpc_onnx.graph.operators import batch_norm_parameters
from dfmpc_onnx.pipeline.facts import Layers
from dfmpc_onnx.quantization.few_bit_channels import level_channels
from dfmpc_onnx.statistics.independent_moments import propagate
from tests import graphs


def leveled(model):
    """The workspace before and after channels are leveled, and what was done."""
    before, _ = graphs.prepared(model, "pair_convolutions", activations="4")
    after, _ = graphs.prepared(model, "pair_convolutions", activations="4")
    return before, after, level_channels(after, after.get(Layers).by_name(), 4)


def spread_of(space, norm):
    """How far the deviations of a BatchNormalization's channels are apart, and its means."""
    found = batch_norm_parameters(next(node for node in space.graph.nodes if node.name == norm))
    return np.abs(found.gamma).max() / np.abs(found.gamma).min(), found.beta


def unlike(kind):
    """Channels of very unlike size between two Convs, behind a Relu, a Clip or nothing."""
    net = graphs.Net()
    x = net.norm(net.conv("x", 8), gamma=np.geomspace(0.05, 2, 8), beta=np.linspace(-0.05, 0.05, 8))
    x = x if kind == "nothing" else net.relu(x) if kind == "relu" else net.clip(x)
    return net.model(net.tail(net.block(x, 8, 1)))


@pytest.mark.parametrize("kind", ["relu", "nothing"])
def test_the_network_stays_what_it_was_and_its_channels_reach_alike(kind):
    before, after, rewrites = leveled(unlike(kind))
    x = graphs.input_of(unlike(kind), 2)
    assert [rewrite.site for rewrite in rewrites][:1] == ["norm1"]
    assert graphs.relative(graphs.run(after.graph, x), graphs.run(before.graph, x)) < 1e-5
    assert spread_of(after, "norm1")[0] < 0.3 * spread_of(before, "norm1")[0]


def test_where_no_relu_cuts_channels_they_get_the_mean_0():
    before, after, _ = leveled(unlike("nothing"))
    assert np.abs(spread_of(before, "norm1")[1]).max() > 0.04
    assert np.allclose(spread_of(after, "norm1")[1], 0, atol=1e-6)


def test_a_sum_is_centred_by_the_means_of_what_it_adds():
    net = graphs.Net()
    stem = net.norm(net.conv("x", 4))
    inner = net.norm(net.conv(net.block(stem, 8, 1), 4, 1))
    model = net.model(net.tail(net.block(net.node("Add", inner, stem), 8, 1)))
    before, after, _ = leveled(model)
    x = graphs.input_of(model, 2)
    assert graphs.relative(graphs.run(after.graph, x), graphs.run(before.graph, x)) < 1e-5
    assert np.allclose(propagate(after.graph, after.inputs)[0]["add1"].mean, 0, atol=1e-6)


def test_where_zeros_are_padded_no_mean_is_moved():
    net = graphs.Net()
    x = net.norm(net.conv("x", 8))
    model = net.model(net.tail(net.block(x, 8, 3)))
    before, after, _ = leveled(model)
    x = graphs.input_of(model, 2)
    assert graphs.relative(graphs.run(after.graph, x), graphs.run(before.graph, x)) < 1e-5
    assert np.abs(spread_of(after, "norm1")[1]).max() > 0.1


def test_a_clip_stays_at_its_bound_and_cuts_no_channel_below_where_its_levels_end():
    before, after, rewrites = leveled(unlike("clip"))
    assert rewrites[0].figures["spread"] > 1
    old, new = (batch_norm_parameters(n) for s in (before, after) for n in s.graph.nodes if n.name == "norm1")
    factors = np.abs(new.gamma / old.gamma)
    assert (factors >= 1 - 1e-6).all()  # 6 / factor is where a channel is cut now
    assert (6 / factors >= np.minimum(2.5 * np.abs(old.gamma), 6) - 1e-6).all()


def test_an_output_and_what_it_is_joined_to_stay_as_they_are():
    net = graphs.Net()
    x = net.block("x", 8)
    _, _, rewrites = leveled(net.model(x, net.conv(x, 4)))
    assert rewrites == []


def test_what_no_batch_normalization_makes_is_left_to_those_who_measure():
    net = graphs.Net()
    x = net.clip(net.conv("x", 8))
    _, _, rewrites = leveled(net.model(net.tail(net.conv(net.clip(net.conv(x, 8, 1)), 4, 1))))
    assert rewrites == []
