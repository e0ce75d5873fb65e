import math

import numpy as np

from dfmpc_onnx.pipeline.facts import FloatStatistics
from tests import graphs


def test_behind_batch_norm_and_relu_moments_are_those_of_a_rectified_gaussian():
    space, _ = graphs.prepared(graphs.chain(), "estimate_statistics")
    statistics = space.get(FloatStatistics)
    gamma, beta = (graphs.values(space.graph, f"norm2.{key}").astype(float) for key in ("gamma", "beta"))
    assert np.allclose(statistics.tensors["norm2"].mean, beta)
    assert np.allclose(statistics.tensors["norm2"].variance, gamma**2, rtol=1e-4)
    for j, (g, b) in enumerate(zip(gamma, beta, strict=True)):
        cdf, density = 0.5 * math.erfc(-b / g / math.sqrt(2)), math.exp(-0.5 * (b / g) ** 2) / math.sqrt(2 * math.pi)
        assert math.isclose(statistics.tensors["relu2"].mean[j], b * cdf + g * density, rel_tol=1e-4)


def test_every_norm_is_known_by_name_with_epsilon_in_its_deviation():
    space, _ = graphs.prepared(graphs.residual(), "estimate_statistics")
    norms = space.get(FloatStatistics).norms
    assert list(norms) == ["norm1", "norm2", "norm3"]
    assert np.allclose(norms["norm2"].std, np.sqrt(graphs.values(space.graph, "norm2.variance") + 1e-5))


def test_an_operator_without_a_rule_is_refused_up_to_the_next_norm():
    net = graphs.Net()
    x = net.node("Erf", net.block("x", 4))
    model = net.model(net.block(net.node("Neg", x), 4))
    space, result = graphs.prepared(model, "estimate_statistics")
    why = graphs.reasons(result)
    assert why["erf1"] == "Erf: no rule for this operator"
    assert {"norm2", "relu2"} <= set(space.get(FloatStatistics).tensors)
    assert "neg1" in why


def test_looking_changes_nothing():
    space, _ = graphs.prepared(graphs.depthwise(), "pair_convolutions")
    before = graphs.snapshot(space.graph)
    graphs.pipeline("estimate_statistics")[-1].run(space)
    assert graphs.snapshot(space.graph) == before
