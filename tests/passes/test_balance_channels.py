import numpy as np
import pytest

from dfmpc_onnx.graph.operators import batch_norm_parameters
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_passes import BalanceChannels
from tests import graphs


def balanced(model, activations="8"):
    """The workspace before, after, and the result."""
    spaces = [graphs.workspace(model, activations=activations) for _ in range(2)]
    for space in spaces:
        PassManager(graphs.pipeline("pair_convolutions")).run(space)
    return *spaces, BalanceChannels().run(spaces[1])


def changed(before, after):
    return {
        name
        for name in before.graph.tensors()
        if "." in name and not np.array_equal(graphs.values(before.graph, name), graphs.values(after.graph, name))
    }


def spread(model, by=8.0):
    """The model with every Conv's output channels, and what the norms behind make of them, spread by powers."""
    tensors = {t.name: t for t in model.graph.initializer}
    for name in ("norm1", "norm3", "norm5"):
        for key, power in (("mean", 1), ("variance", 2)):
            values = graphs.numpy_helper.to_array(tensors[f"{name}.{key}"])
            factors = by ** (power * np.linspace(-1, 1, len(values)))
            tensors[f"{name}.{key}"].CopyFrom(
                graphs.numpy_helper.from_array((values * factors).astype(np.float32), f"{name}.{key}")
            )
    return model


def pooled():
    net = graphs.Net()
    x = net.node("LeakyRelu", net.conv("x", 4, bias=True), alpha=0.2)
    x = net.node("AveragePool", x, kernel_shape=[2, 2], pads=[1] * 4, count_include_pad=1)
    slope = net.weight("slope", np.array([0.1, 0.2, 0.3, 0.4], np.float32).reshape(4, 1, 1))
    y = net.node("MaxPool", net.node("PRelu", net.conv("x", 4), slope), kernel_shape=[2, 2], pads=[1] * 4)
    return net.model(net.tail(net.relu(net.norm(net.concat(x, y)))))


def stem():
    """As torchvision's DenseNet begins: what the first layer puts out is normalized, cut and pooled, then joined."""
    net = graphs.Net()
    x = net.node("MaxPool", net.block("x", 8), kernel_shape=[2, 2], strides=[2, 2])
    return net.model(net.tail(net.relu(net.norm(net.dense(net.dense(x))))))


@pytest.mark.parametrize("network", [graphs.dense, lambda: spread(graphs.dense()), pooled, stem])
def test_the_network_stays_what_it_was(network):
    before, after, result = balanced(network())
    assert result.rewrites
    assert graphs.relative(graphs.run(after.graph), graphs.run(before.graph)) < 1e-5


def test_the_convs_that_norms_read_among_others_change_and_those_norms():
    before, after, result = balanced(graphs.dense())
    norms = {f"norm{i}.{key}" for i in (1, 3, 5) for key in ("mean", "variance")}
    assert changed(before, after) == {"conv1.w", "conv3.w", "conv5.w"} | norms
    assert [rewrite.site for rewrite in result.rewrites] == ["conv1", "conv3", "conv5"]
    assert graphs.wiring(before.graph) == graphs.wiring(after.graph)


def test_behind_it_every_channel_reaches_as_far_in_the_norm_that_saw_it_reach_farthest():
    _, after, _ = balanced(spread(graphs.dense()))
    norms = {n.name: batch_norm_parameters(n) for n in after.graph.nodes if n.op == "BatchNormalization"}
    reach = {name: (np.abs(norm.mean) + 8 * norm.std) / 8 for name, norm in norms.items()}
    assert np.allclose(reach["norm5"][12:], 1, rtol=1e-5)
    assert np.allclose(np.maximum(reach["norm3"], reach["norm5"][:12])[8:], 1, rtol=1e-5)


def test_a_first_normalization_is_scaled_in_gamma_and_beta():
    before, after, _ = balanced(stem())
    assert {"norm1.gamma", "norm1.beta", "norm2.mean", "norm2.variance"} < changed(before, after)


def test_a_norm_that_reads_one_layer_alone_is_left_to_be_folded():
    for network in (
        graphs.activation_first,
        graphs.chain,
        graphs.residual,
        graphs.bottleneck,
        graphs.depthwise,
        graphs.own_bias,
    ):
        before, after, result = balanced(network())
        assert graphs.snapshot(before.graph) == graphs.snapshot(after.graph)
        assert result.rewrites == result.refusals == ()


def test_nothing_is_done_for_activations_in_float():
    before, after, result = balanced(graphs.dense(), "none")
    assert graphs.snapshot(before.graph) == graphs.snapshot(after.graph)
    assert result.notes == ("activations stay in float: their channels need no common scale",)


@pytest.mark.parametrize("other", ["Sigmoid 'sigmoid1'", "an input of the model"])
def test_refused_where_something_else_is_joined(other):
    net = graphs.Net()
    joined = net.concat(net.conv("x", 4), net.node("Sigmoid", "x") if "Sigmoid" in other else "x")
    before, after, result = balanced(net.model(net.tail(net.relu(net.norm(joined)))))
    assert graphs.snapshot(before.graph) == graphs.snapshot(after.graph)
    why = f"its channels are joined to those of {other}, which are not scaled"
    assert graphs.reasons(result) == {"conv1": why}


def test_refused_where_it_is_joined_to_one_that_is_refused():
    net = graphs.Net()
    first = net.conv("x", 4)
    second = net.conv("x", 4)
    ends = [net.relu(net.norm(net.concat("x", first))), net.relu(net.norm(net.concat(first, second)))]
    _, _, result = balanced(net.model(net.tail(net.concat(*ends))))
    assert result.rewrites == ()
    assert "Conv 'conv1'" in graphs.reasons(result)["conv2"]


def test_a_reader_without_norm_leaves_a_conv_alone():
    net = graphs.Net()
    x = net.conv("x", 8)
    y = net.conv(net.relu(net.norm(x)), 8)
    before, after, _ = balanced(net.model(net.tail(net.node("Add", x, y))))
    assert graphs.snapshot(before.graph) == graphs.snapshot(after.graph)


def test_a_channel_that_never_varied_does_not_set_the_scale():
    model = graphs.dense()
    for t in model.graph.initializer:
        if t.name in ("norm5.variance", "norm5.mean"):
            values = graphs.numpy_helper.to_array(t).copy()
            values[13] = 0
            t.CopyFrom(graphs.numpy_helper.from_array(values, t.name))
    before, after, _ = balanced(model)
    old, new = (graphs.values(space.graph, "conv5.w") for space in (before, after))
    assert np.abs(new[1]).max() < 32 * np.abs(old[1]).max()
    assert graphs.relative(graphs.run(after.graph), graphs.run(before.graph)) < 1e-4


def test_eight_bits_lose_less_where_channels_differ():
    model = spread(graphs.dense())
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    x = graphs.input_of(model, 32)
    want, lost = graphs.run(model, x)[0], {}
    for on in (True, False):
        steps = [step for step in graphs.pipeline("pack_weights", "int8") if on or step.name != "balance_channels"]
        space = graphs.workspace(model, "8")
        PassManager(steps).run(space)
        lost[on] = float(np.square(graphs.run(space.graph, x)[0] - want).mean())
    assert lost[True] < lost[False]
