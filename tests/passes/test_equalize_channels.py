import numpy as np
import onnx

import dfmpc_onnx
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.statistics.image_streams import ImageStreams
from dfmpc_passes import EqualizeChannels
from tests import graphs


def unlike(spread=100.0):
    """A folded depthwise network: what the depthwise Conv reads differs by `spread` from channel to channel."""
    net = graphs.Net(shape=(1, 3, 32, 32))
    factors = np.geomspace(1.0, 1.0 / spread, 16)
    x = net.relu(net.conv("x", 16, bias=True))
    wide = net.random.standard_normal((16, 16, 1, 1)) / 4 * factors[:, None, None, None]
    x = net.conv(x, 16, 1, weight=wide)
    x = net.relu(
        net.conv(x, 16, group=16, weight=net.random.standard_normal((16, 1, 3, 3)) / factors[:, None, None, None])
    )
    return net.model(net.tail(net.relu(net.conv(x, 16, 1))))


def equalized(model, activations="8"):
    spaces = [graphs.workspace(model, activations=activations) for _ in range(2)]
    for space in spaces:
        PassManager(graphs.pipeline("pair_convolutions")).run(space)
    return *spaces, EqualizeChannels().run(spaces[1])


def test_the_network_stays_what_it_was_and_its_channels_reach_as_far():
    before, after, result = equalized(unlike())
    x = graphs.input_of(unlike())
    assert graphs.relative(graphs.run(after.graph, x), graphs.run(before.graph, x)) < 1e-5
    assert {rewrite.site for rewrite in result.rewrites} == {"conv1", "conv2", "conv3"}
    assert max(rewrite.figures["spread"] for rewrite in result.rewrites) > 10

    def spread(space):
        node = next(node for node in space.graph.nodes if node.name == "conv2")
        weight = np.abs(node.inputs[1].values).reshape(16, -1).sum(axis=1)
        return weight.max() / weight.min()

    assert spread(after) < spread(before) / 10


def test_a_network_of_unlike_channels_keeps_its_accuracy_in_integers(tmp_path):
    file = tmp_path / "m.onnx"
    onnx.save(unlike(), file)
    made = dfmpc_onnx.quantize(file, tmp_path / "q.onnx", recipe="int8", preprocess="imagenet")
    assert made.report.fidelity.sqnr_db > 30
    passes = {p.name: p.result for p in made.report.passes}
    assert passes["keep_activations_float"].refusals == ()


def test_normalized_and_float_networks_stay_as_they_are():
    for model, activations in ((graphs.chain(), "8"), (unlike(), "none")):
        before, after, result = equalized(model, activations)
        assert result.rewrites == () and len(result.notes) == 1
        assert graphs.snapshot(after.graph) == graphs.snapshot(before.graph)


def test_no_image_is_run_where_there_is_nothing_to_equalize(monkeypatch):
    monkeypatch.setattr(ImageStreams, "__init__", lambda *_: (_ for _ in ()).throw(AssertionError))
    equalized(graphs.chain())


def test_a_channel_that_reaches_far_does_not_cost_a_pointwise_conv_the_weights_of_all_others():
    net = graphs.Net(shape=(1, 3, 32, 32))
    factors = np.array([100.0] + [1.0] * 63)[:, None, None, None]
    x = net.relu(net.conv("x", 64, 3, weight=net.random.standard_normal((64, 3, 3, 3)) * factors))
    model = net.model(net.tail(net.relu(net.conv(x, 16, 1))))
    x = graphs.input_of(model)
    want = graphs.run(model, x)

    def error(space):
        node = next(node for node in space.graph.nodes if node.name == "conv2")
        weight = node.inputs[1].values
        step = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 127
        node.inputs[1].values = np.rint(weight / step) * step
        return graphs.relative(graphs.run(space.graph, x), want)

    before, after, _ = equalized(model)
    assert error(after) < 2 * error(before)
