import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dfmpc_onnx
from dfmpc_onnx.pipeline.facts import Codes, Ranges
from tests import graphs

NAME = "fold_batch_norm_forward"


def behind_relu(pads=0, pool="", second="conv", **given):
    """conv1-Relu-norm1, pooling, and a layer that reads it; its padding."""
    net = graphs.Net()
    x = net.relu(net.conv("x", 6, bias=True))
    if pool == "before":
        x = net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.norm(x, **given)
    if pool == "behind":
        x = net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    if second == "gemm":
        x = net.node("Flatten", x)
        net.channels[x] = 6 * 64
        return net.model(net.relu(net.gemm(x, 5)))
    x = net.conv(x, 4, kernel=3 if pads else 1)
    return net.model(net.tail(net.relu(x)))


def done(model, **options):
    return graphs.prepared(model, NAME, weights="8", **options)


def same_as_before(model, space, **options):
    before = graphs.prepared(model, "fold_batch_norm", weights="8", **options)[0]
    x = graphs.input_of(model)
    return graphs.relative(graphs.run(space.graph, x), graphs.run(before.graph, x)) < 1e-5


def test_before_and_after():
    model = behind_relu()
    before = graphs.prepared(model, "fold_batch_norm", weights="8")[0]
    space, result = done(model)
    assert graphs.ops(before.graph)[:4] == ["Conv", "Relu", "BatchNormalization", "Conv"]
    assert graphs.ops(space.graph)[:3] == ["Conv", "Relu", "Conv"]
    assert [(r.site, r.action) for r in result.rewrites] == [("norm1", "folded into conv1, conv2")]
    assert same_as_before(model, space)
    old, new = (s.get(Codes).weights for s in (before, space))
    for name in ("conv1", "conv2"):
        np.testing.assert_array_equal(old[name].codes, new[name].codes)
    np.testing.assert_array_equal(old["conv2"].scale, new["conv2"].scale)


@pytest.mark.parametrize("pool", ["before", "behind"])
@pytest.mark.parametrize("second", ["conv", "gemm"])
def test_through_pooling_and_into_a_gemm(pool, second):
    model = behind_relu(second="gemm") if second == "gemm" else behind_relu(pool=pool)
    space, result = done(model)
    assert "BatchNormalization" not in graphs.ops(space.graph) and result.refusals == ()
    assert same_as_before(model, space)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1, 2, 3]))
def test_the_shift_of_grouped_layers(seed, groups):
    net = graphs.Net()
    net.random = np.random.default_rng(seed)
    x = net.norm(net.relu(net.conv("x", 6)))
    model = net.model(net.tail(net.relu(net.conv(x, 6, kernel=1, group=groups))))
    space, _ = done(model)
    assert "BatchNormalization" not in graphs.ops(space.graph)
    assert same_as_before(model, space)


def test_the_shift_stays_where_the_next_layer_pads_and_both_sides_get_one_scale():
    model = behind_relu(pads=1)
    space, result = done(model)
    (rewrite,) = result.rewrites
    assert rewrite.action == "scale moved to conv1" and "pads" in rewrite.figures["shift_stays"]
    norm = next(n for n in space.graph.nodes if n.op == "BatchNormalization")
    assert set(np.abs(norm.inputs[1].values).tolist()) == {1.0}
    ranges = space.get(Ranges).tensors
    widths = {round(ranges[t][1] - ranges[t][0], 5) for t in ("relu1", "norm1")}
    assert len(widths) == 1
    assert same_as_before(model, space)
    whole = graphs.prepared(model, "pack_weights", weights="8")[0]
    assert graphs.kernels(whole.graph)["QLinearConv"] == 3
    x = graphs.input_of(model)
    assert graphs.relative(graphs.run(whole.graph, x), graphs.run(model, x)) < 0.06


def test_negative_and_dead_factors():
    gamma = np.array([-1.0, 0.0, 0.5, 1e-3, 1.0, -0.2])
    model = behind_relu(gamma=gamma)
    space, result = done(model)
    assert result.rewrites[0].figures["shift_stays"] == "a gamma is negative"
    norm = next(n for n in space.graph.nodes if n.op == "BatchNormalization")
    np.testing.assert_array_equal(norm.inputs[1].values, np.where(gamma < 0, -1, 1))
    assert same_as_before(model, space)


def test_channels_that_reach_differently_keep_their_bits():
    """One scale in front of the BatchNormalization would round the small channels to nothing."""
    gamma, variance = np.ones(6), np.array([1e-6, 1e-4, 1e-2, 1, 1, 1])
    net = graphs.Net()
    weight = np.random.default_rng(1).standard_normal((6, 3, 3, 3)) / 5 * np.sqrt(variance)[:, None, None, None]
    x = net.relu(net.conv("x", 6, weight=weight))
    x = net.norm(x, gamma=gamma, mean=0.4 * np.sqrt(variance), variance=0.34 * variance)
    model = net.model(net.tail(net.relu(net.conv(x, 4, kernel=1))))
    space, _ = graphs.prepared(model, "pack_weights", weights="8")
    x = graphs.input_of(model)
    assert graphs.relative(graphs.run(space.graph, x), graphs.run(model, x)) < 0.03


def test_in_float_too():
    model = behind_relu()
    space, _ = done(model, activations="none")
    assert "BatchNormalization" not in graphs.ops(space.graph)
    assert same_as_before(model, space, activations="none")


def reasons(model):
    return graphs.reasons(done(model)[1])


def test_refusals():
    net = graphs.Net()
    shared = net.relu(net.conv("x", 6))
    joined = net.node("Add", net.conv(net.norm(shared), 6, 1), shared)
    assert "has 2 consumers" in reasons(net.model(net.tail(joined)))["norm1"]

    net = graphs.Net()
    x = net.norm(net.node("Sigmoid", net.conv("x", 6)))
    assert reasons(net.model(net.tail(net.conv(x, 4)))) == {"norm1": "Sigmoid stands in front of it"}

    net = graphs.Net()
    x = net.norm(net.node("MaxPool", net.conv("x", 6), kernel_shape=[2, 2]))
    assert "no Relu" in reasons(net.model(net.tail(net.conv(x, 4))))["norm1"]

    net = graphs.Net()
    assert "no layer" in reasons(net.model(net.tail(net.conv(net.norm(net.relu("x")), 4))))["norm1"]

    far = behind_relu(mean=100.0, variance=1.0)
    assert "0 lies so far" in reasons(far)["norm1"]


def test_what_else_reads_it_keeps_the_shift():
    net = graphs.Net()
    x = net.norm(net.relu(net.conv("x", 6)))
    model = net.model(net.tail(net.node("Add", net.conv(x, 6, 1), x)))
    _, result = done(model)
    assert result.rewrites[0].figures["shift_stays"] == "Add reads it"
    net = graphs.Net()
    x = net.norm(net.relu(net.conv("x", 6)))
    _, result = done(net.model(x))
    assert "output reads it" in result.rewrites[0].figures["shift_stays"]


def test_where_weights_have_no_scale_a_channel_the_norm_stays_and_the_network_is_close():
    """Rounded again on one grid, scales that a norm has moved between channels would leave nothing of the weights."""
    net = graphs.Net()
    x = net.norm(net.relu(net.conv("x", 8)), gamma=np.geomspace(0.01, 3, 8).astype(np.float32))
    model = net.model(net.tail(net.block(x, 8)))
    made = dfmpc_onnx.quantize(model, None, "int8", target="vitisai", check=False)
    step = next(step for step in made.report.passes if step.name == "fold_batch_norm_forward")
    assert step.result.rewrites == () and step.result.notes == ("the target has no scale a channel",)
    given = graphs.input_of(model, 2)
    assert graphs.relative(graphs.run(made.model, given), graphs.run(model, given)) < 0.2
