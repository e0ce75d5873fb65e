import math

import numpy as np
import pytest

from dfmpc_onnx.facts import Ranges
from dfmpc_onnx.manager import PassManager
from tests import graphs


def ranges(model, **options):
    space = graphs.workspace(model, "8")
    result = PassManager(graphs.pipeline("estimate_ranges", estimate_ranges=options)).run(space)[-1]
    return space, space.get(Ranges).tensors, result


def parameters(space, name):
    gamma, beta = (graphs.values(space.graph, f"{name}.{key}").astype(float) for key in ("gamma", "beta"))
    return np.abs(gamma), beta


@pytest.mark.parametrize("deviations", [6.0, 3.0])
def test_behind_batch_norm_the_widest_channel_counts(deviations):
    space, found, _ = ranges(graphs.chain(), deviations=deviations)
    gamma, beta = parameters(space, "norm2")
    low, high = (beta - deviations * gamma).min(), (beta + deviations * gamma).max()
    assert np.allclose(found["norm2"], (low, high), rtol=1e-4)


def test_relu_cuts_the_range_at_0():
    _, found, _ = ranges(graphs.chain())
    assert found["relu2"][0] == 0
    assert 0 < found["relu2"][1] <= found["norm2"][1] + 1e-9


def test_clip_cuts_it_at_both_ends():
    _, found, _ = ranges(graphs.depthwise())
    assert found["clip2"] == (0, 6)


def test_an_input_has_the_range_of_its_bytes():
    _, found, _ = ranges(graphs.chain())
    assert np.allclose(found["x"], (-0.485 / 0.229, (1 - 0.406) / 0.225), atol=1e-6)


def test_a_sum_adds_means_and_variances():
    space, found, _ = ranges(graphs.residual())
    gamma, beta = parameters(space, "norm3")
    # relu1 is not Gaussian, but its moments add all the same
    g, b = parameters(space, "norm1")
    cdf = np.array([0.5 * math.erfc(v) for v in -b / g / math.sqrt(2)])
    density = np.exp(-0.5 * (b / g) ** 2) / math.sqrt(2 * math.pi)
    mean, second = b * cdf + g * density, (b**2 + g**2) * cdf + b * g * density
    top = (beta + mean + 6 * np.sqrt(gamma**2 + second - mean**2)).max()
    assert np.isclose(found["add1"][1], top, rtol=1e-4)


def test_an_operator_without_a_rule_leaves_its_reason_and_no_range():
    net = graphs.Net()
    model = net.model(net.node("Erf", net.block("x", 4)))
    _, found, result = ranges(model)
    assert "erf1" not in found
    assert graphs.reasons(result)["erf1"] == "Erf: no rule for this operator"


def test_float_activations_need_no_ranges():
    space, result = graphs.prepared(graphs.chain(), "estimate_ranges", activations="none")
    assert space.get(Ranges).tensors == {}
    assert result.refusals == ()


def test_the_ranges_are_those_of_the_compensated_network():
    space, _ = graphs.prepared(graphs.chain(), "estimate_ranges")
    gamma, beta = parameters(space, "norm2")
    assert np.isclose(space.get(Ranges).tensors["norm2"][1], (beta + 6 * gamma).max(), rtol=1e-4)
