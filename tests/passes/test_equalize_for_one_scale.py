import numpy as np
import pytest

from dfmpc_onnx.graph.exchange import to_graph
from dfmpc_onnx.model.source import load
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.pipeline.settings import Settings, WeightBits, parse_activations
from dfmpc_onnx.pipeline.targets import parse_target
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.statistics.image_streams import ImageStreams
from dfmpc_passes import EqualizeForOneScale
from tests import graphs


def unlike(clipped=False, spread=100.0):
    """A folded network: channels behind the second Conv, and so its weights, differ by `spread`."""
    net = graphs.Net(shape=(1, 3, 32, 32))
    factors = np.geomspace(1.0, 1.0 / spread, 16)[:, None, None, None]
    x = net.relu(net.conv("x", 16, bias=True))
    x = net.conv(x, 16, 1, weight=net.random.standard_normal((16, 16, 1, 1)) / 4 * factors)
    x = net.clip(x) if clipped else net.relu(x)
    depthwise = net.random.standard_normal((16, 1, 3, 3)) / factors
    return net.model(net.tail(net.relu(net.conv(net.relu(net.conv(x, 16, group=16, weight=depthwise)), 16, 1))))


def equalized(model, target="vitisai", activations="8"):
    settings = Settings(WeightBits.parse("8"), parse_activations(activations), target=parse_target(target))
    spaces = [Workspace(to_graph(load(model)), settings) for _ in range(2)]
    for space in spaces:
        PassManager(graphs.pipeline("pair_convolutions")).run(space)
    return *spaces, EqualizeForOneScale().run(spaces[1])


def rounded(space, of):
    """The network with every weight on one scale, a power of two; its error beside that of `of`."""
    model = unlike()
    x = graphs.input_of(model)
    want = graphs.run(of.graph, x)
    for node in space.graph.nodes:
        if node.op == "Conv":
            weight = node.inputs[1].values
            step = np.exp2(np.ceil(np.log2(np.abs(weight).max() / 127)))
            node.inputs[1].values = (np.rint(weight / step) * step).astype(np.float32)
    return graphs.relative(graphs.run(space.graph, x), want)


@pytest.mark.parametrize("clipped", [False, True])
def test_the_network_stays_what_it_was(clipped):
    model = unlike(clipped)
    before, after, result = equalized(model)
    x = graphs.input_of(model)
    assert graphs.relative(graphs.run(after.graph, x), graphs.run(before.graph, x)) < 1e-5
    assert max(rewrite.figures["spread"] for rewrite in result.rewrites) > 10


def test_one_scale_a_tensor_loses_less():
    before, after, _ = equalized(unlike())
    whole, _, _ = equalized(unlike())
    assert rounded(after, whole) < rounded(before, whole) / 4


def test_a_bound_moves_with_the_factor_of_all_channels():
    _, after, _ = equalized(unlike(clipped=True))
    clip = next(node for node in after.graph.nodes if node.op == "Clip")
    assert 0 < float(clip.inputs[2].values) != 6.0


@pytest.mark.parametrize(("target", "activations"), [("cpu", "8"), ("tensorrt", "8"), ("vitisai", "none")])
def test_where_scales_are_free_or_activations_float_nothing_is_done_and_nothing_run(target, activations, monkeypatch):
    monkeypatch.setattr(ImageStreams, "__init__", lambda *_: (_ for _ in ()).throw(AssertionError))
    before, after, result = equalized(unlike(), target, activations)
    assert result.rewrites == () and len(result.notes) == 1
    assert graphs.snapshot(after.graph) == graphs.snapshot(before.graph)
