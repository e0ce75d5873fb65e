import pytest

import dfmpc_onnx
from dfmpc_onnx.pipeline.facts import FloatLayers
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.pipeline.settings import Settings, WeightBits
from dfmpc_onnx.pipeline.targets import parse_target
from tests import graphs


def network():
    """Nine Convs; what the depthwise one, conv3, reads stands far from 0 and varies little."""
    net = graphs.Net()
    x = net.block("x", 8)
    x = net.relu(net.norm(net.conv(x, 8), beta=3.0, gamma=0.02))
    x = net.relu(net.norm(net.conv(x, 8, group=8), variance=0.02**2))
    for _ in range(6):
        x = net.block(x, 8)
    return net.model(net.tail(x))


def spared(model, target="tensorrt", **options):
    space = graphs.workspace(model, "8")
    space.settings = Settings(WeightBits.parse("8"), "8", target=parse_target(target))
    result = PassManager(graphs.pipeline("keep_layers_float", keep_layers_float=options)).run(space)[-1]
    return space.get(FloatLayers).layers, result


def test_a_small_layer_that_makes_most_of_the_noise_is_spared_and_no_other():
    layers, result = spared(network())
    assert layers.keys() == {"conv3"} and [r.site for r in result.rewrites] == ["conv3"]
    assert 4 < result.rewrites[0].figures["noise_of_average"] <= 10


def test_a_layer_of_more_weights_than_the_average_is_not():
    net = graphs.Net()
    x = net.block("x", 8)
    x = net.relu(net.norm(net.conv(x, 8), beta=3.0, gamma=0.02))
    x = net.relu(net.norm(net.conv(x, 8), variance=0.02**2))
    for _ in range(6):
        x = net.block(x, 8, 1)
    assert not spared(net.model(net.tail(x)))[0]


def test_how_much_is_too_much_can_be_said():
    assert not spared(network(), times=100)[0]


@pytest.mark.parametrize("target", ["cpu", "openvino", "portable"])
def test_where_activations_are_unsigned_none_is(target):
    layers, result = spared(network(), target)
    assert not layers and result.notes == ("only where activations are signed",)


def test_the_written_file_reads_floats_there_and_says_so():
    made = dfmpc_onnx.quantize(network(), None, "per-channel", weights="8", target="tensorrt", check=False)
    rows = {layer.name: layer for layer in made.report.layers}
    assert not rows["conv3"].integer and rows["conv2"].integer and rows["conv3"].bits == 8
    assert any(r.site == "conv3" and "most of the noise" in r.reason for r in made.report.refusals)
    makers = {name: n for n in made.model.graph.node for name in n.output}
    conv = next(n for n in made.model.graph.node if n.name == "conv3")
    assert makers[conv.input[0]].op_type == "Relu"
