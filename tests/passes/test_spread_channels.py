import numpy as np
import pytest

import dfmpc_onnx
from dfmpc_onnx.pipeline.facts import Codes
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.pipeline.settings import Settings, WeightBits
from dfmpc_onnx.pipeline.targets import parse_target
from tests import graphs


def network(activation="clip", multiplier=1, readers=1, tail=True):
    """Conv-BN-Clip and a depthwise Conv, of channels whose deviations differ a hundredfold."""
    net = graphs.Net()
    gamma = np.geomspace(0.01, 1.0, 8) * [1, -1, 1, 1, -1, 1, 1, 1]
    x = net.norm(net.conv(net.block("x", 8), 8), gamma=gamma, beta=np.abs(gamma))
    x = {"clip": net.clip, "relu": net.relu, "none": lambda t: t}.get(activation, lambda t: net.node(activation, t))(x)
    deep = net.relu(net.norm(net.conv(x, 8 * multiplier, 3, group=8)))
    if readers == 2:
        deep = net.node("Add", deep, x)
    return net.model(net.tail(net.block(deep, 8)) if tail else deep)


def spread(model, target="tensorrt", upto="spread_channels", **options):
    space = graphs.workspace(model, "8")
    space.settings = Settings(WeightBits.parse("8"), "8", target=parse_target(target))
    return space, PassManager(graphs.pipeline(upto, **{"spread_channels": options} if options else {})).run(space)[-1]


@pytest.mark.parametrize("activation", ["clip", "relu", "none"])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_before_and_after_compute_the_same_with_the_same_codes(activation, multiplier):
    model = network(activation, multiplier)
    before = spread(model, upto="estimate_ranges")[0]
    after, result = spread(model)
    assert [r.site for r in result.rewrites] == ["conv3"] and result.rewrites[0].figures["largest"] > 10
    x = graphs.input_of(model)
    assert graphs.relative(graphs.run(after.graph, x), graphs.run(before.graph, x)) < 1e-5
    for name, weight in before.get(Codes).weights.items():
        np.testing.assert_array_equal(after.get(Codes).weights[name].codes, weight.codes)
    norms = [graphs.values(space.graph, "norm2.gamma") for space in (before, after)]
    factors = norms[1] / norms[0]
    assert factors.min() == 1 and factors.max() == pytest.approx(result.rewrites[0].figures["largest"])


def test_what_is_written_is_closer_to_the_float_network():
    model = network(tail=False)
    x = graphs.input_of(model)
    want = graphs.run(spread(model, upto="estimate_ranges")[0].graph, x)[0]

    def error(**options):
        space, _ = spread(model, upto="insert_qdq", **options)
        return np.square(graphs.run(space.graph, x)[0] - want).mean()

    # So many deviations that every channel is taken to fill the range: then nothing is spread.
    assert error() < 0.5 * error(deviations=1e9)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (network("LeakyRelu"), "no BatchNormalization in front of it"),
        (network(readers=2), "clipped elsewhere than at 0, or read by others"),
        (network("none", readers=2), "others read what it reads"),
    ],
)
def test_a_depthwise_conv_that_is_passed_over_is_said_to_be(model, why):
    before = graphs.snapshot(spread(model, upto="estimate_ranges")[0].graph)
    space, result = spread(model)
    assert result.rewrites == () and len(result.notes) == 1
    assert result.notes[0].startswith("conv3: ") and why in result.notes[0]
    assert graphs.snapshot(space.graph) == before


def test_unsigned_activations_too_but_not_floats():
    assert spread(network(), "cpu")[1].rewrites
    space = graphs.workspace(network(), "8", "none")
    before = PassManager(graphs.pipeline("estimate_ranges")).run(space)
    result = PassManager([graphs.pipeline("spread_channels")[-1]]).run(space)[-1]
    assert before and result.rewrites == () and result.notes == ("activations stay in float",)


def test_a_float_layer_is_left_alone():
    made = dfmpc_onnx.quantize(
        network(), None, "per-channel", weights="8", target="tensorrt", layers=["conv3=float"], check=False
    )
    assert not next(p for p in made.report.passes if p.name == "spread_channels").result.rewrites
