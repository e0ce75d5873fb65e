"""BatchNormalizations in float layers first, where a quantized weight could not take them."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from dfmpc_onnx.pipeline.settings import Settings, WeightBits
from dfmpc_onnx.pipeline.targets import TARGETS
from tests import graphs

ONE_SCALE = msgspec.structs.replace(TARGETS["cpu"], per_channel=("Gemm",))


def folded(model, target=ONE_SCALE, activations="8"):
    space = graphs.workspace(model)
    space.settings = Settings(WeightBits.parse("8"), activations, target=target)
    steps = graphs.pipeline("fold_for_one_scale", "int8")
    for step in steps:
        result = step.run(space)
    return space, result


@pytest.mark.parametrize("network", [graphs.chain, graphs.residual, graphs.depthwise, graphs.own_bias, graphs.folded])
def test_the_network_stays_the_same_without_its_norms(network):
    model = network()
    space, result = folded(model)
    assert "BatchNormalization" not in graphs.ops(space.graph)
    assert len(result.rewrites) == [node.op_type for node in model.graph.node].count("BatchNormalization")
    x = graphs.input_of(model, 2)
    assert graphs.relative(graphs.run(space.graph, x), graphs.run(model, x)) < 1e-5


@pytest.mark.parametrize(("target", "activations"), [(TARGETS["cpu"], "8"), (ONE_SCALE, "none")])
def test_where_any_scale_will_do_or_activations_stay_float_nothing_is_done(target, activations):
    space, result = folded(graphs.chain(), target, activations)
    assert result.rewrites == () and "BatchNormalization" in graphs.ops(space.graph)


def test_a_norm_that_others_feed_or_that_stands_elsewhere_stays():
    net = graphs.Net()
    x = net.conv("x", 8)
    both = net.node("Add", net.norm(x), x)  # the Conv is read by two
    model = net.model(net.tail(net.relu(both)))
    space, result = folded(model)
    assert result.rewrites == () and graphs.ops(space.graph).count("BatchNormalization") == 1
    assert np.isfinite(graphs.run(space.graph, graphs.input_of(model))[0]).all()
