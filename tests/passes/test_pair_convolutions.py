import numpy as np
import pytest

from dfmpc_onnx.pipeline.facts import Layers, Pair, Pairs
from dfmpc_onnx.pipeline.refusals import Reason
from dfmpc_passes import PairConvolutions
from tests import graphs


def paired(model):
    space, result = graphs.prepared(model, "pair_convolutions")
    found = [(p.low, p.batch_norm, p.activation, p.high, p.exact) for p in space.get(Pairs).pairs]
    return space, found, graphs.reasons(result)


def refused(net, *outputs):
    """The reason why conv2 is not low."""
    _, found, why = paired(net.model(*outputs))
    assert "conv2" not in [pair[0] for pair in found]
    return why["conv2"]


@pytest.mark.parametrize(
    ("network", "pairs"),
    [
        (graphs.chain, [("conv2", "norm2", "relu2", "conv3", True)]),
        (graphs.residual, [("conv2", "norm2", "relu2", "conv3", True)]),
        (graphs.bottleneck, [("conv3", "norm3", "relu3", "conv4", True)]),
        (graphs.bounded, [("conv2", "norm2", "clip1", "conv3", False)]),
        (graphs.without_activation, [("conv2", "norm2", None, "conv3", True)]),
        (graphs.depthwise, [("conv2", "norm2", "clip2", "conv3", False)]),
        (
            graphs.dense,
            [
                ("conv3", "norm3", "relu3", "conv4", True),
                ("conv3", "norm5", "relu5", "gemm1", True),
                ("conv5", "norm5", "relu5", "gemm1", True),
            ],
        ),
        (graphs.activation_first, []),
        (graphs.folded, [("conv2", None, "relu2", "conv3", True)]),
    ],
)
def test_which_conv_is_low(network, pairs):
    assert paired(network())[1] == pairs


def test_finding_pairs_changes_nothing():
    space = graphs.workspace(graphs.residual())
    *before_it, pair = graphs.pipeline("pair_convolutions")
    for step in before_it:
        step.run(space)
    before = graphs.snapshot(space.graph)
    pair.run(space)
    assert graphs.snapshot(space.graph) == before


def test_in_a_long_chain_every_second_conv_is_low_counted_from_the_last():
    net = graphs.Net()
    x = "x"
    for _ in range(6):
        x = net.block(x, 4)
    _, found, why = paired(net.model(net.tail(x)))
    assert [pair[0] for pair in found] == ["conv3", "conv5"]
    assert why["conv4"] == "the next layer 'conv5' gets few bits itself; this one repairs nothing"


def test_pooling_between_the_two_convs_is_passed_over():
    net = graphs.Net()
    x = net.block(net.block("x", 4), 4)
    pooled = net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    assert paired(net.model(net.tail(net.block(pooled, 4))))[1] == [("conv2", "norm2", "relu2", "conv3", True)]


def test_the_first_layer_is_kept_high():
    _, _, why = paired(graphs.chain())
    assert why["conv1"] == "it is the first layer: nothing in front of it is normalized"


def test_refused_where_batch_norm_stands_behind_the_activation():
    _, _, why = paired(graphs.activation_first())
    assert why["conv2"] == "BatchNormalization 'norm2' follows, not AveragePool or MaxPool or Conv"


# DenseNet: several BatchNormalizations read a layer among others


def test_each_batch_norm_that_reads_it_is_a_pair_at_its_own_offset():
    pairs = graphs.prepared(graphs.dense(), "pair_convolutions")[0].get(Pairs)
    assert [(p.low, p.batch_norm, p.offset) for p in pairs.pairs] == [
        ("conv3", "norm3", 8),
        ("conv3", "norm5", 8),
        ("conv5", "norm5", 12),
    ]
    assert {low: len(found) for low, found in pairs.by_low().items()} == {"conv3": 2, "conv5": 1}


def test_in_a_dense_net_the_3x3_is_low_and_the_1x1_high():
    net = graphs.Net()
    x = net.conv("x", 8)
    for _ in range(2):
        x = net.dense(net.dense(x))
        x = net.conv(net.relu(net.norm(x)), 8, 1)
        x = net.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    _, found, why = paired(net.model(net.tail(net.relu(net.norm(net.dense(x))))))
    low = {pair[0] for pair in found}
    assert low == {"conv3", "conv5", "conv8", "conv10", "conv13"}
    assert all("gets few bits itself" in why[name] for name in ("conv2", "conv4", "conv7", "conv9", "conv12"))
    assert why["conv6"].startswith("'averagepool1' has 2 consumers")


def test_a_1x1_conv_whose_output_is_joined_is_kept_high():
    net = graphs.Net()
    x = net.block("x", 4)
    joined = net.concat(net.conv(x, 4, 1), net.conv(x, 4))
    _, found, why = paired(net.model(net.block(net.relu(net.norm(joined)), 4)))
    assert [pair[:2] for pair in found] == [("conv3", "norm2")]
    assert why["conv2"].startswith("a 1x1 Conv whose output is joined to others: it repairs")


def test_several_batch_norms_may_read_it_without_a_concat():
    net = graphs.Net()
    y = net.conv(net.block("x", 4), 4)
    ends = [net.block(net.relu(net.norm(y)), 4) for _ in range(2)]
    _, found, _ = paired(net.model(net.node("Add", *ends)))
    assert [pair[:4] for pair in found] == [("conv2", "norm2", "relu2", "conv3"), ("conv2", "norm4", "relu4", "conv4")]


def test_a_conv_that_repairs_several_stays_high_though_a_chain_would_make_it_low():
    """conv6 is an output of the model, so that conv5 could be the low half of a pair with it."""
    net = graphs.Net()
    x = net.dense(net.conv(net.block("x", 8), 8))
    inner = net.conv(net.relu(net.norm(x)), 8, 1)
    _, found, why = paired(net.model(net.conv(net.relu(net.norm(inner)), 4)))
    assert found[-1][:4] == ("conv4", "norm4", "relu4", "conv5")
    assert why["conv5"] == "it repairs 'conv4', which gets few bits itself"


def joined(net):
    """conv2's output and conv3's, joined: concat1."""
    x = net.block("x", 4)
    return net.concat(net.conv(x, 4), net.conv(x, 4))


def test_refused_where_one_reader_is_no_batch_norm():
    net = graphs.Net()
    x = joined(net)
    other = net.node("Add", net.conv(net.relu(net.norm(x)), 8), x)
    assert refused(net, other) == "Add 'add1' reads it, not BatchNormalization"


def test_refused_where_it_is_added_to_another():
    net = graphs.Net()
    x = joined(net)
    other = net.node("Add", "conv2", net.relu("conv3"))
    assert refused(net, net.conv(net.relu(net.norm(x)), 8), other) == "Add 'add1' reads it, not BatchNormalization"


def test_refused_where_pooling_stands_in_front_of_the_batch_norm():
    net = graphs.Net()
    x = net.node("AveragePool", joined(net), kernel_shape=[2, 2])
    why = refused(net, net.conv(net.relu(net.norm(x)), 8))
    assert why == "AveragePool 'averagepool1' reads it, not BatchNormalization"


def test_refused_where_what_is_joined_is_an_output_of_the_model():
    net = graphs.Net()
    x = joined(net)
    assert refused(net, net.conv(net.relu(net.norm(x)), 8), x) == "'concat1' is an output of the model"


def test_refused_where_one_batch_norms_parameters_are_computed():
    net = graphs.Net()
    gamma = net.node("Abs", net.weight("g", np.ones(8, np.float32)))
    x = net.norm(joined(net))
    net.nodes[-1].input[1] = gamma
    assert "parameters are not constants" in refused(net, net.conv(net.relu(x), 8))


def test_refused_where_nothing_repairs_it():
    net = graphs.Net()
    assert refused(net, net.node("Sigmoid", net.norm(joined(net)))).startswith("Sigmoid 'sigmoid1' follows, not")


def test_refused_where_one_of_those_that_repair_it_is_low_itself():
    """A DenseNet without bottlenecks: every 3x3 reads all those in front of it."""
    net = graphs.Net()
    x = net.conv("x", 8)
    for _ in range(3):
        x = net.concat(x, net.conv(net.relu(net.norm(x)), 4))
    _, found, why = paired(net.model(net.tail(net.relu(net.norm(x)))))
    assert {pair[0] for pair in found} == {"conv4"}
    assert why["conv2"] == why["conv3"] == "the next layer 'conv4' gets few bits itself; this one repairs nothing"


def test_refused_where_the_channels_do_not_fit():
    net = graphs.Net()
    x = net.norm(joined(net))
    for key in ("gamma", "beta", "mean", "variance"):
        net.weights[f"norm2.{key}"] = net.weights[f"norm2.{key}"][:6]
    model = net.model(net.conv(net.relu(x), 8))
    del model.graph.value_info[:]
    space = graphs.workspace(model)
    PairConvolutions().run(space)
    why = "BatchNormalization 'norm2' does not have as many channels as its input"
    assert space.get(Pairs).refused["conv3"] == Reason("channels-differ", why)


def test_a_folded_batch_norm_leaves_a_pair_without_one():
    space, _ = graphs.prepared(graphs.folded(), "pair_convolutions")
    pairs = space.get(Pairs)
    assert pairs.pairs == (Pair("conv2", None, "relu2", "conv3", exact=True),)
    assert pairs.with_batch_norm() == ()


def test_refused_where_a_slope_enlarges_errors():
    net = graphs.Net()
    x = net.node("LeakyRelu", net.norm(net.conv(net.block("x", 4), 4)), alpha=1.5)
    assert "its slope is over 1" in refused(net, net.block(x, 4))


def test_refused_where_two_nodes_read_the_output():
    net = graphs.Net()
    x = net.block(net.block("x", 4), 4)
    y = net.node("Add", net.block(x, 4), x)
    assert refused(net, y) == "'relu2' has 2 consumers (Conv 'conv3', Add 'add1')"


def test_refused_where_the_activation_is_an_output_of_the_model():
    net = graphs.Net()
    x = net.block(net.block("x", 4), 4)
    assert refused(net, net.block(x, 4), x) == "'relu2' is an output of the model"


def test_refused_at_another_activation():
    net = graphs.Net()
    x = net.node("Sigmoid", net.norm(net.conv(net.block("x", 4), 4)))
    assert refused(net, net.block(x, 4)).startswith(
        "Sigmoid 'sigmoid1' follows, not Clip or LeakyRelu or PRelu or Relu"
    )


def test_refused_where_the_norm_trains():
    net = graphs.Net(opset=15)
    x = net.norm(net.conv(net.block("x", 4), 4))
    net.nodes[-1].attribute.append(graphs.helper.make_attribute("training_mode", 1))
    net.nodes[-1].output.extend(["mean", "variance"])
    assert "training mode" in refused(net, net.block(net.relu(x), 4))


def test_refused_where_the_norms_parameters_are_computed():
    net = graphs.Net()
    gamma = net.node("Abs", net.weight("g", np.ones(4, np.float32)))
    x = net.norm(net.conv(net.block("x", 4), 4))
    net.nodes[-1].input[1] = gamma
    assert "parameters are not constants" in refused(net, net.block(net.relu(x), 4))


def test_refused_where_the_bias_is_computed():
    net = graphs.Net()
    bias = net.node("Abs", net.weight("b", np.ones(4, np.float32)))
    x = net.conv(net.block("x", 4), 4)
    net.nodes[-1].input.append(bias)
    assert "its bias is computed" in refused(net, net.block(net.relu(net.norm(x)), 4))


def test_depthwise_and_grouped_convs_are_kept_high():
    net = graphs.Net()
    x = net.block(net.block("x", 8), 8, group=2)
    x = net.block(x, 8, group=8)
    _, found, why = paired(net.model(net.block(x, 8)))
    assert found == []
    assert why["conv2"] == "a Conv of several groups"
    assert why["conv3"].startswith("a depthwise Conv: its few")


def test_a_weight_that_is_computed_is_refused_naming_the_node():
    net = graphs.Net()
    weight = net.node("Abs", net.weight("w", np.ones((4, 4, 1, 1), np.float32)))
    x = net.conv(net.block("x", 4), 4, 1)
    net.nodes[-1].input[1] = weight
    del net.weights["conv2.w"]
    space, _, why = paired(net.model(x))
    assert why["conv2"] == "its weight is computed by Abs 'abs1'"
    assert [layer.name for layer in space.get(Layers).quantizable] == ["conv1"]


@pytest.mark.parametrize(("group", "axis"), [(1, 1), (4, 0)])
def test_a_conv_transpose_is_a_layer_whose_channels_lie_along_the_second_axis(group, axis):
    net = graphs.Net()
    weight = net.weight("w", np.ones((4, 4 // group, 2, 2), np.float32))
    space, _, why = paired(net.model(net.node("ConvTranspose", net.block("x", 4), weight, group=group)))
    layer = space.get(Layers).by_name()["convtranspose1"]
    assert (layer.refused, layer.axis) == (None, axis)
    assert why["convtranspose1"] == "only the error of a Conv can be repaired in the next layer"


def test_a_grouped_conv_transpose_is_refused():
    net = graphs.Net()
    weight = net.weight("w", np.ones((4, 2, 2, 2), np.float32))
    why = paired(net.model(net.node("ConvTranspose", net.block("x", 4), weight, group=2)))[2]["convtranspose1"]
    assert why.startswith("a grouped ConvTranspose: its output channels lie along no axis")


@pytest.mark.parametrize(
    ("network", "axes"),
    [(lambda: graphs.gemm_tail(1), [0, 0, 0]), (lambda: graphs.gemm_tail(0), [0, 1, 1]), (graphs.matmul_tail, [0, 1])],
)
def test_the_axis_is_that_of_the_output_channels(network, axes):
    assert [layer.axis for layer in paired(network())[0].get(Layers).all] == axes


@pytest.mark.parametrize("network", [graphs.chain, lambda: graphs.gemm_tail(0), graphs.matmul_tail])
def test_first_layer_and_classifier_are_marked(network):
    positions = [layer.position for layer in paired(network())[0].get(Layers).all]
    assert positions[0] == "first" and positions[-1] == "last"
    assert set(positions[1:-1]) <= {"inner"}


def test_layers_within_control_flow_are_listed_as_refused():
    space, _, why = paired(graphs.nested())
    found = {layer.name: (layer.shape, str(layer.refused)) for layer in space.get(Layers).nested}
    branch = "it lies in the {}_branch of If 'choice', which is not entered; left in float"
    assert found == {
        "choice/then_branch/Conv_0": ((8, 8, 3, 3), branch.format("then")),
        "choice/else_branch/Conv_1": ((8, 8, 1, 1), branch.format("else")),
    }
    assert {name: why[name] for name in found} == {name: reason for name, (_, reason) in found.items()}
