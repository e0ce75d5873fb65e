import numpy as np
import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx.pipeline.facts import Codes, Layers
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.pipeline.settings import Settings, WeightBits
from dfmpc_onnx.pipeline.targets import parse_target
from tests import graphs


def converted(model, upto="batch_norm_to_conv", **options):
    return graphs.prepared(model, upto, weights="8", **options)


def test_before_and_after():
    before = graphs.prepared(graphs.activation_first(), "fold_batch_norm", weights="8")[0]
    want = graphs.run(before.graph, graphs.input_of(graphs.activation_first()))
    space, result = converted(graphs.activation_first())
    assert [r.site for r in result.rewrites] == ["norm2"] and result.refusals == ()
    node = next(n for n in space.graph.nodes if n.name == "norm2")
    assert (node.op, node.attrs["group"], node.inputs[1].shape) == ("Conv", 8, (8, 1, 1, 1))
    assert space.get(Layers).by_name()["norm2"].depthwise
    weight = space.get(Codes).weights["norm2"]
    assert set(np.abs(weight.codes).ravel().tolist()) == {63}
    assert graphs.relative(graphs.run(space.graph, graphs.input_of(graphs.activation_first())), want) < 1e-5


def test_a_negative_or_dead_factor_keeps_its_channel():
    net = graphs.Net()
    gamma = np.array([-1.0, 0.0, 0.5, 1e-3])
    x = net.norm(net.relu(net.conv("x", 4)), gamma=gamma, mean=0.4, variance=0.34)
    model = net.model(net.tail(net.block(x, 4)))
    before = graphs.prepared(model, "fold_batch_norm", weights="8")[0]
    space, _ = converted(model)
    x = graphs.input_of(model)
    assert graphs.relative(graphs.run(space.graph, x), graphs.run(before.graph, x)) < 1e-5
    whole = converted(model, "pack_weights")[0]
    assert graphs.relative(graphs.run(whole.graph, x), graphs.run(model, x)) < 0.06
    assert graphs.kernels(whole.graph)["QLinearConv"] == 3


def test_behind_a_branching_sum_it_becomes_integer_with_its_relu():
    """As in networks whose activation stands in front of each Conv."""
    net = graphs.Net()
    x = net.block("x", 8)
    for _ in range(2):
        x = net.node("Add", x, net.conv(net.relu(net.norm(x)), 8))
    kernels = graphs.kernels(converted(net.model(net.tail(net.relu(net.norm(x)))), "pack_weights")[0].graph)
    assert (kernels["QLinearConv"], kernels["QLinearAdd"]) == (6, 2)
    assert not {"BatchNormalization", "DequantizeLinear", "Relu"} & set(kernels)


@pytest.mark.parametrize("options", [{"activations": "none"}])
def test_nothing_happens_in_float(options):
    space, result = converted(graphs.activation_first(), **options)
    assert (result.rewrites, result.refusals) == ((), ())
    assert "BatchNormalization" in graphs.ops(space.graph)


def test_nothing_happens_for_a_target_that_quantizes_only_what_layers_read():
    space = graphs.workspace(graphs.activation_first(), "8")
    space.settings = Settings(WeightBits.parse("8"), "8", target=parse_target("tensorrt"))
    PassManager(graphs.pipeline("batch_norm_to_conv")).run(space)
    assert "BatchNormalization" in graphs.ops(space.graph)


def refusals(model):
    return graphs.reasons(converted(model)[1])


def test_refused_where_no_integer_layer_reads_it():
    net = graphs.Net()
    x = net.norm(net.relu(net.block("x", 4)))
    assert refusals(net.model(x)) == {"norm2": "no layer that computes in integers reads it"}


def test_refused_where_a_range_is_not_known():
    net = graphs.Net()
    x = net.norm(net.node("Erf", net.block("x", 4)))
    assert refusals(net.model(net.block(x, 4)))["norm2"] == "the range of its input or output is not known"


def test_refused_for_other_than_two_spatial_dimensions():
    net = graphs.Net()
    x = net.node("Flatten", net.node("GlobalAveragePool", net.block("x", 8)))
    x = net.norm(x)
    assert refusals(net.model(net.gemm(x, 4)))["norm2"] == "its input is no map of two dimensions"


def test_a_norm_of_doubles_stays_as_it_is():
    net = graphs.Net()
    doubles = net.node("Cast", net.relu(net.conv("x", 4)), to=11)
    net.channels[doubles] = 4
    x = net.node("Cast", net.norm(doubles), to=1)
    net.channels[x] = 4
    model = net.model(net.tail(net.conv(x, 4)))
    for tensor in model.graph.initializer:
        if tensor.name.startswith("norm1."):
            wide = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(onnx.numpy_helper.from_array(wide, tensor.name))
    x = graphs.input_of(model)
    whole = converted(model, "pack_weights")[0]
    assert "BatchNormalization" in graphs.ops(whole.graph)
    assert graphs.relative(graphs.run(whole.graph, x), graphs.run(model, x)) < 0.06
    made = dfmpc_onnx.quantize(model, recipe="int8")  # loaded and run before it is given back
    assert made.report.fidelity is not None
