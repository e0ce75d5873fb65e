"""Heads that fire only on a pattern which procedural inputs never hold: what the float network finds is found again."""

import numpy as np
import pytest

import dfmpc_onnx
from dfmpc_onnx.runtime.session import Session
from tests import graphs

CHECKER = np.array([[1, -1, 1], [-1, 1, -1], [1, -1, 1]], np.float32) / 9


def _filters(net, out, channels, pattern, size=0.1):
    """Small random filters, the first of which looks for a pattern in all channels."""
    weight = size * net.random.standard_normal((out, channels, *pattern.shape))
    weight[0] = pattern
    return weight.astype(np.float32)


def _conv(net, x, weight, bias=None, **attributes):
    names = [net.weight(net._next("conv") + ".weight", weight)]
    if bias is not None:
        names.append(net.weight(net._next("conv") + ".bias", np.asarray(bias, np.float32)))
    y = net.node("Conv", x, *names, pads=[k // 2 for k in weight.shape[2:]] * 2, **attributes)
    net.channels[y] = len(weight)
    return y


def _reads_first(net, out, channels, gain):
    """A 1x1 kernel that reads the first channel, and a little of the others."""
    weight = 0.05 * net.random.standard_normal((out, channels, 1, 1))
    weight[:, 0] = gain
    return weight.astype(np.float32)


def one_layer_head(width):
    """Conv, Relu, Conv to a logit, Sigmoid. width: of the layer in front; the head is float where it is wide."""
    net = graphs.Net((1, 3, 32, 32))
    x = net.relu(_conv(net, "x", _filters(net, width, 3, CHECKER, 0.3 / np.sqrt(width))))
    return net.model(net.node("Sigmoid", _conv(net, x, _reads_first(net, 1, width, 2.25), [-5.6])))


def thresholded():
    """The channel in front of the head is 0 on everything but the pattern: its Relu stands behind a threshold."""
    net = graphs.Net((1, 3, 32, 32))
    x = net.relu(_conv(net, "x", _filters(net, 8, 3, CHECKER), [-1.5, *[0.0] * 7]))
    return net.model(net.node("Sigmoid", _conv(net, x, _reads_first(net, 1, 8, 4.0), [-5.6])))


def twice_thresholded():
    """So are two layers on end."""
    net = graphs.Net((1, 3, 32, 32))
    x = net.relu(_conv(net, "x", _filters(net, 8, 3, CHECKER), [-1.5, *[0.0] * 7]))
    second = _reads_first(net, 8, 8, 0.0)
    second[0, 0] = 2.0
    x = net.relu(_conv(net, x, second, [-1.0, *[0.0] * 7]))
    return net.model(net.node("Sigmoid", _conv(net, x, _reads_first(net, 1, 8, 3.0), [-5.6])))


def linear_chain():
    """A 1x1 Conv and a depthwise 3x3 one with no activation between: both of the head."""
    net = graphs.Net((1, 3, 32, 32))
    x = net.relu(_conv(net, "x", _filters(net, 32, 3, CHECKER, 0.05)))
    x = _conv(net, x, _reads_first(net, 1, 32, 1.0), [-2.0])
    peak = np.full((1, 1, 3, 3), 0.02, np.float32)
    peak[0, 0, 1, 1] = 2.0
    return net.model(net.node("Sigmoid", _conv(net, x, peak)))


def background_class():
    """Softmax over background and thing, as in SSD heads."""
    net = graphs.Net((1, 3, 32, 32))
    x = net.relu(_conv(net, "x", _filters(net, 8, 3, CHECKER)))
    weight = _reads_first(net, 2, 8, 2.25)
    weight[0, 0] = -2.25
    y = net.node("Transpose", _conv(net, x, weight, [2.8, -2.8]), perm=[0, 2, 3, 1])
    return net.model(net.node("Softmax", y, axis=-1))


def gated():
    """The map of the thing gates features, and a further layer reads what is let through."""
    net = graphs.Net((1, 3, 32, 32))
    x = net.relu(_conv(net, "x", _filters(net, 8, 3, CHECKER)))
    gate = net.node("Sigmoid", _conv(net, x, _reads_first(net, 8, 8, 2.25), np.full(8, -7.0)))
    y = _conv(net, net.node("Mul", x, gate), _reads_first(net, 1, 8, 3.0), [-5.0])
    return net.model(net.node("Sigmoid", y))


def levels():
    """Score times objectness on two levels, joined: as dense face detectors have them."""
    net = graphs.Net((1, 3, 32, 32))
    first = net.relu(_conv(net, "x", _filters(net, 8, 3, CHECKER)))
    parts = []
    for x in (first, net.node("MaxPool", first, kernel_shape=[2, 2], strides=[2, 2])):
        scores = [net.node("Sigmoid", _conv(net, x, _reads_first(net, 1, 8, gain), [-5.6])) for gain in (2.5, 3.0)]
        flat = net.node("Transpose", net.node("Mul", *scores), perm=[0, 2, 3, 1])
        parts.append(net.node("Reshape", flat, net.weight(f"list{len(parts)}", np.array([0, -1, 1]))))
    return net.model(net.node("Concat", *parts, axis=1))


def sum_of_branches():
    """Two branches that wait for the pattern, added in front of a further layer."""
    net = graphs.Net((1, 3, 32, 32))
    x = net.relu(_conv(net, "x", _filters(net, 8, 3, CHECKER), [-1.5, *[0.0] * 7]))
    branch = net.relu(_conv(net, x, _reads_first(net, 8, 8, 1.0), np.full(8, -1.0)))
    return net.model(net.node("Sigmoid", _conv(net, net.node("Add", x, branch), _reads_first(net, 1, 8, 3.0), [-5.6])))


def checkered():
    """A quarter of the picture is a fine checkerboard, of the amplitude of a picture's own contrast."""
    y, x = np.mgrid[:32, :32]
    sheet = np.where((y + x) % 2, 1.13, -1.13) * ((y > 8) & (y < 24) & (x > 8) & (x < 24))
    return np.repeat(sheet[None, None], 3, axis=1).astype(np.float32)


def best(model, x):
    """The highest score of the thing: of the last class where there are several."""
    (scores,) = Session(model).run({"x": x})
    return float(scores[..., -1].max() if scores.shape[-1] == 2 else scores.max())


@pytest.mark.parametrize("recipe", ["int8", "mixed", "per-channel"])
@pytest.mark.parametrize(
    "network",
    [
        lambda: one_layer_head(8),
        lambda: one_layer_head(64),
        thresholded,
        twice_thresholded,
        linear_chain,
        background_class,
        gated,
        levels,
        sum_of_branches,
    ],
    ids=["integer", "float", "thresholded", "twice", "linear", "background", "gated", "levels", "sum"],
)
def test_a_score_reaches_what_the_float_network_gives_it(network, recipe):
    model = network()
    made = dfmpc_onnx.quantize(model, None, recipe, weights="8", preprocess="imagenet", check=False).model
    wanted = best(model, checkered())
    assert wanted > 0.8
    assert best(made, checkered()) > 0.8
