import numpy as np
import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx.pipeline.facts import FloatLayers
from dfmpc_onnx.pipeline.manager import PassManager
from tests import graphs


def narrow(channels=8, size=160, wide=0):
    """Few channels on large maps, pointwise and depthwise; then, where `wide`, many on small ones."""
    net = graphs.Net(shape=(1, 3, size, size))
    x = net.relu(net.conv("x", channels))
    for _ in range(2):
        x = net.conv(x, channels, 1)
        x = net.relu(net.conv(x, channels, group=channels))
    if wide:
        x = net.node("MaxPool", x, kernel_shape=[4, 4], strides=[4, 4])
        for _ in range(3):
            x = net.relu(net.conv(x, wide))
    return net.model(net.tail(x))


def kept(model, **options):
    space = graphs.workspace(model, "8")
    pipeline = graphs.pipeline("keep_slow_layers_float", recipe="int8", **options)
    results = PassManager(pipeline).run(space)
    return set(space.get(FloatLayers).layers), results[-1]


def test_layers_that_integers_make_slower_are_left_in_float_and_others_are_not():
    slow, result = kept(narrow(wide=96))
    assert slow == {"conv1", "conv2", "conv3", "conv4", "conv5"}
    assert {rewrite.site for rewrite in result.rewrites} == slow
    assert "ms estimated" in result.notes[0]


@pytest.mark.parametrize("model", [graphs.chain, graphs.residual, graphs.folded])
def test_a_network_that_gains_from_integers_stays_integer(model):
    assert kept(model())[0] == set()


def test_gain_says_what_is_worth_it():
    assert kept(narrow(wide=96), keep_slow_layers_float={"gain": 0.9})[0] == set()


def test_what_is_written_computes_those_layers_in_float(tmp_path):
    model = narrow(wide=96)
    onnx.save(model, tmp_path / "m.onnx")
    made = dfmpc_onnx.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", recipe="int8", preprocess="imagenet")
    kernels = graphs.kernels(made.model)
    assert kernels["QLinearConv"] == 3 and kernels["FusedConv"] + kernels["Conv"] == 5
    refused = {r.site: r.code for p in made.report.passes for r in p.result.refusals if p.name == "insert_qdq"}
    assert refused == dict.fromkeys(["conv1", "conv2", "conv3", "conv4", "conv5"], "slower-in-integers")
    x = np.asarray(graphs.input_of(model))
    assert graphs.relative(graphs.run(made.model, x), graphs.run(model, x)) < 0.1
