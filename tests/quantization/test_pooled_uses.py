import dataclasses

import numpy as np

from dfmpc_onnx.pipeline.facts import BitPlan, Layers
from dfmpc_onnx.quantization import pooled_uses
from dfmpc_onnx.quantization.layer_rebuilder import ReconstructLayersOptions
from dfmpc_onnx.quantization.statistics_source import statistics_source
from tests import graphs


def used(times):
    """A Conv, and another used several times behind it."""
    net = graphs.Net()
    x = net.relu(net.conv("x", 8))
    weight = net.weight("shared", net.random.standard_normal((8, 8, 3, 3), np.float32) / np.float32(6))
    for _ in range(times):
        x = net.node("Conv", x, weight, stem="conv", pads=[1, 1, 1, 1])
        net.channels[x] = 8
        x = net.relu(x)
    return net.model(net.conv(x, 4))


def pooled(model):
    space, _ = graphs.prepared(model, "assign_bits")
    source = statistics_source(space, "images", 8)
    layers, plan = space.get(Layers).by_name(), space.get(BitPlan).layers
    return pooled_uses.pool_uses(space, ReconstructLayersOptions(), layers, plan, source.engine)


def test_every_use_counts_alike_however_large_its_input_is():
    (found,) = pooled(used(3)).values()
    assert (found.uses, len(found.measures)) == (3, 3)
    assert np.isclose(found.moments.diagonal.mean(), 1)
    assert found.moments.same  # the target is the weight itself
    error = np.full_like(found.measures[0].signal, 1e-3)
    assert found.share(error) == max(measure.share(error) for measure in found.measures)


def test_of_many_uses_a_few_are_looked_at():
    (found,) = pooled(used(40)).values()
    assert found.uses == 40 and len(found.measures) == pooled_uses.MOST_POOLED


def test_where_no_weight_is_shared_nothing_is_run():
    space, _ = graphs.prepared(graphs.chain(), "assign_bits")
    layers, plan = space.get(Layers).by_name(), space.get(BitPlan).layers
    assert not pooled_uses.pool_uses(space, ReconstructLayersOptions(), layers, plan, _no_engine)


def _no_engine():
    raise AssertionError("no walk is needed")


def test_layers_of_two_widths_are_pooled_apart():
    space, _ = graphs.prepared(used(3), "assign_bits")
    layers, plan = space.get(Layers).by_name(), dict(space.get(BitPlan).layers)
    plan["conv3"] = dataclasses.replace(plan["conv3"], bits=4)
    source = statistics_source(space, "images", 8)
    found = pooled_uses.pool_uses(space, ReconstructLayersOptions(), layers, plan, source.engine)
    assert {name: uses.uses for name, uses in found.items()} == {"conv2": 2, "conv3": 1}
