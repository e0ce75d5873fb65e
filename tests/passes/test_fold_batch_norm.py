import numpy as np
import pytest

from dfmpc_onnx.pipeline.facts import Codes, FoldedBatchNorms, Layers
from dfmpc_onnx.pipeline.manager import PassManager
from tests import graphs

FOLDABLE = sorted(set(graphs.ALL) - {"activation_first", "dense", "folded"})


def folded(model, weights="2/6", layers=(), **options):
    """The workspace, the outputs before and after, and the result of the pass."""
    space = graphs.workspace(model, weights, layers=layers)
    *before, fold = graphs.pipeline("fold_batch_norm", quantize_weights=options)
    manager = PassManager(before)
    manager.run(space)
    outputs = graphs.run(space.graph)
    result = PassManager([fold]).run(space)[-1]
    return space, outputs, graphs.run(space.graph), result


@pytest.mark.parametrize("grid", ["symmetric", "dorefa"])
@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
@pytest.mark.parametrize("network", FOLDABLE)
def test_the_network_computes_the_same(network, granularity, grid):
    space, before, after, _ = folded(graphs.ALL[network](), granularity=granularity, uniform=grid)
    assert "BatchNormalization" not in graphs.ops(space.graph)
    assert graphs.relative(after, before) < 1e-4


def test_norms_behind_a_concat_or_beside_one_stay():
    _, before, after, result = folded(graphs.dense())
    assert [r.site for r in result.rewrites] == ["norm2", "norm4"]
    assert [refusal.site for refusal in result.refusals] == ["norm1", "norm3", "norm5"]
    assert graphs.relative(after, before) < 1e-4


def test_before_and_after():
    space, _, _, result = folded(graphs.without_activation())
    assert graphs.wiring(space.graph)[:5] == [
        "norm1 = Conv(x, conv1.w, conv1.bias)",
        "relu1 = Relu(norm1)",
        "norm2 = Conv(relu1, conv2.w, conv2.bias)",
        "norm3 = Conv(norm2, conv3.w, conv3.bias)",
        "relu2 = Relu(norm3)",
    ]
    assert [(r.site, r.action) for r in result.rewrites][:1] == [("norm1", "folded into conv1")]
    assert space.get(FoldedBatchNorms).count == 3
    assert all(layer.batch_norm is None for layer in space.get(Layers).all)


@pytest.mark.parametrize("network", FOLDABLE)
def test_the_weight_in_the_graph_is_that_of_its_codes_and_every_scale_is_positive(network):
    space = folded(graphs.ALL[network]())[0]
    for layer in space.get(Layers).all:
        weight = space.get(Codes).weights[layer.name]
        assert np.array_equal(graphs.values(space.graph, layer.weight), weight.dequantize())
        assert (weight.scale > 0).all()
        assert np.abs(weight.codes.astype(int)).max() <= 2 ** (weight.bits - 1)


def test_a_negative_gamma_mirrors_the_codes_of_its_channel():
    model = graphs.negative_gamma()
    before = graphs.prepared(model, "estimate_ranges")[0].get(Codes).weights["conv2"]
    after = folded(model)[0].get(Codes).weights["conv2"]
    gamma = np.array([-1.0, 1.0, -0.5, 0.7, 1.2, -1.3, 0.4, 0.9])
    assert np.array_equal(after.codes, before.codes * np.sign(gamma).astype(np.int8).reshape(-1, 1, 1, 1))


def test_a_gamma_of_0_becomes_codes_of_0_and_scale_1():
    weight = folded(graphs.dead_channel())[0].get(Codes).weights["conv2"]
    assert not weight.codes[5].any() and weight.scale[5] == 1


def test_a_float_layer_is_folded_too():
    space, before, after, _ = folded(graphs.chain(), layers=["conv2=float"])
    assert "conv2" not in space.get(Codes).weights
    assert "BatchNormalization" not in graphs.ops(space.graph)
    assert graphs.relative(after, before) < 1e-4


@pytest.mark.parametrize("trans_b", [0, 1])
def test_a_norm_behind_a_gemm_is_folded(trans_b):
    net = graphs.Net()
    x = net.norm(net.gemm(net.node("Flatten", net.node("GlobalAveragePool", net.block("x", 8))), 6, trans_b))
    space, before, after, _ = folded(net.model(net.gemm(x, 5)))
    assert "BatchNormalization" not in graphs.ops(space.graph)
    assert graphs.relative(after, before) < 1e-4


def test_the_models_output_keeps_its_name():
    net = graphs.Net()
    space, before, after, _ = folded(net.model(net.norm(net.conv("x", 4))))
    assert [t.name for t in space.graph.outputs] == ["norm1"]
    assert graphs.relative(after, before) < 1e-4


def left_alone(model):
    """The reasons; the norm in question and its weights must not have been touched."""
    space, before, after, result = folded(model)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert space.get(FoldedBatchNorms).count == 0
    return graphs.reasons(result)


WHY = "no layer stands alone in front of it; it stays a node"


def test_refused_behind_an_activation():
    net = graphs.Net()
    assert left_alone(net.model(net.norm(net.relu(net.conv("x", 4))))) == {"norm1": WHY}


def test_refused_where_the_conv_has_another_reader():
    net = graphs.Net()
    x = net.conv("x", 4)
    assert left_alone(net.model(net.node("Add", net.norm(x), x))) == {"norm1": WHY}


def test_refused_where_the_conv_is_an_output():
    net = graphs.Net()
    x = net.conv("x", 4)
    assert left_alone(net.model(net.norm(x), x)) == {"norm1": WHY}


def test_refused_where_the_bias_is_not_one_number_a_channel():
    net = graphs.Net(shape=(2, 3, 4, 4))
    x = net.gemm(net.node("Flatten", net.node("GlobalAveragePool", net.conv("x", 4))), 6)
    net.weights["gemm1.b"] = np.arange(12, dtype=np.float32).reshape(2, 6)
    assert left_alone(net.model(net.norm(x))) == {"norm1": WHY}


@pytest.mark.parametrize("group", [1, 4])
def test_a_norm_behind_a_conv_transpose_is_folded_along_its_own_axis(group):
    net = graphs.Net()
    weight = net.weight("w", net.random.standard_normal((4, 4 // group, 2, 2)).astype(np.float32))
    up = net.node("ConvTranspose", net.block("x", 4), weight, group=group, strides=[2, 2])
    net.channels[up] = 4
    model = net.model(net.relu(net.norm(up)))
    before, _ = graphs.prepared(model, "estimate_ranges")
    after, _ = graphs.prepared(model, "fold_batch_norm")
    assert "BatchNormalization" not in graphs.ops(after.graph)
    assert graphs.relative(graphs.run(after.graph), graphs.run(before.graph)) < 1e-5


def test_a_norm_behind_a_grouped_conv_transpose_stays():
    net = graphs.Net()
    weight = net.weight("w", net.random.standard_normal((4, 2, 2, 2)).astype(np.float32))
    up = net.node("ConvTranspose", net.block("x", 4), weight, group=2, strides=[2, 2])
    net.channels[up] = 4
    after, _ = graphs.prepared(net.model(net.relu(net.norm(up))), "fold_batch_norm")
    assert graphs.ops(after.graph).count("BatchNormalization") == 1
