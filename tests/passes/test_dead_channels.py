"""Filters of zeros, as pruning and weight decay leave them: what they give is their bias, and that lives."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import dfmpc_onnx
from tests import graphs

DEAD = {1: [2], 2: [0, 5, 6], 3: [1, 3, 7, 9]}


def pruned(variance: float = 0.0, size: float = 0.0) -> onnx.ModelProto:
    """Three blocks some of whose filters have weights of a size and a running variance, next to nothing both."""
    net, x = graphs.Net(shape=(1, 3, 16, 16)), "x"
    for index, out in ((1, 12), (2, 16), (3, 16)):
        fan = 9 * net.channels[x]
        weight = net.random.standard_normal((out, net.channels[x], 3, 3)) * np.sqrt(2 / fan)
        weight[DEAD[index]] = size
        running, mean, beta = np.ones(out), np.zeros(out), net.random.uniform(0.1, 0.4, out)
        running[DEAD[index]] = variance
        beta[DEAD[index]] = 0.8
        x = net.relu(net.norm(net.conv(x, out, weight=weight), variance=running, mean=mean, beta=beta))
    return net.model(net.tail(x, 10))


def folded_biases(model: onnx.ModelProto) -> list[np.ndarray]:
    """The biases of the Convs that have one, as they are decoded, in order."""
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    found = []
    for node in model.graph.node:
        if node.op_type == "Conv" and len(node.input) > 2:
            by = makers.get(node.input[2])
            parts = [stored[node.input[2]]] if by is None else [stored[name] for name in by.input[:2]]
            found.append(np.prod([part.astype(np.float64) for part in parts], axis=0))
    return found


@pytest.mark.parametrize("recipe", ["mixed", "int8", "int4", "closed-form", "per-channel", "paper"])
@pytest.mark.parametrize(("variance", "size"), [(0.0, 0.0), (1e-12, 0.0), (0.0, 1e-9)])
def test_the_bias_of_a_dead_channel_lives(recipe: str, variance: float, size: float) -> None:
    model = dfmpc_onnx.quantize(pruned(variance, size), None, recipe, activations="8", check=False).model
    biases = folded_biases(model)
    assert len(biases) == 3
    for index, bias in enumerate(biases, 1):
        np.testing.assert_allclose(bias[DEAD[index]], 0.8, rtol=0.01)


@pytest.mark.parametrize(
    ("recipe", "weights", "least"),
    [("mixed", None, 24), ("int8", None, 30), ("int4", None, 18), ("closed-form", "6", 24), ("paper", "8", 24)],
)
def test_dead_channels_cost_no_accuracy(recipe: str, weights: str | None, least: float) -> None:
    report = dfmpc_onnx.quantize(pruned(), None, recipe, weights=weights).report
    assert report.fidelity is not None and report.fidelity.sqnr_db >= least


def test_a_layer_of_dead_channels_alone_keeps_its_biases() -> None:
    net = graphs.Net()
    x = net.conv("x", 4, weight=np.zeros((4, 3, 3, 3)), bias=True)
    net.weights["conv1.b"] = np.float32([0.01, -0.02, 0.5, 3e-5])
    model = dfmpc_onnx.quantize(net.model(net.conv(net.relu(x), 4)), None, "int4", layers=["conv1=4"], check=False)
    np.testing.assert_allclose(folded_biases(model.model)[0], [0.01, -0.02, 0.5, 3e-5], rtol=0.01)


@pytest.mark.parametrize("recipe", ["mixed", "int4", "int8", "per-channel"])
@pytest.mark.parametrize("options", [{}, {"target": "portable", "reduce_range": True}])
def test_codes_of_a_nearly_dead_channel_fit_their_width(recipe: str, options: dict[str, object]) -> None:
    net = graphs.Net()
    weight = net.random.standard_normal((32, 8, 3, 3)) / 8
    weight[:8] = 1.2e-6 * np.abs(net.random.standard_normal((8, 8, 3, 3)))  # the zero point is the lowest code
    x = net.conv(net.block("x", 8), 32, weight=weight, bias=True)
    net.weights["conv2.b"][:8] = np.geomspace(0.2, 30, 8)  # scales a little too fine for some, far too fine for others
    model = net.model(net.tail(net.relu(x), 10))
    made = dfmpc_onnx.quantize(model, None, recipe, layers=["conv2=4"], check=False, **options)  # type: ignore[arg-type]
    x = graphs.input_of(model)
    assert graphs.relative(graphs.run(made.model, x), graphs.run(model, x)) < 0.3
