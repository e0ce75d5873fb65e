import dataclasses
import math

import numpy as np
import pytest

from dfmpc_onnx.graph.operators import batch_norm_parameters
from dfmpc_onnx.numerics.ranges import skewed_range
from dfmpc_onnx.pipeline.facts import MeasuredRanges, Ranges
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_passes import EstimateRanges
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
    top = (beta + mean + 8 * np.sqrt(gamma**2 + second - mean**2)).max()
    assert np.isclose(found["add1"][1], top, rtol=1e-4)


def measured(model, images=None, **options):
    """Ranges by recipe mixed, beside what was measured."""
    space = graphs.workspace(model, "8")
    space.inputs = dataclasses.replace(space.inputs, images=images)
    passes = graphs.pipeline("estimate_ranges", "mixed", estimate_ranges=options)
    PassManager(passes).run(space)
    return space.get(Ranges).tensors, space.get(MeasuredRanges).tensors, space


@pytest.mark.parametrize("reach", [1.0, 2.0])
def test_what_no_batch_norm_fixes_reaches_beyond_what_was_measured(reach):
    found, seen, _ = measured(graphs.residual(), reach=reach)
    assert found["add1"] == (reach * seen["add1"][0], reach * seen["add1"][1])


def test_a_hidden_vector_reaches_twice_as_far():
    net = graphs.Net()
    hidden = net.relu(net.tail(net.block("x", 8), 6))
    found, seen, space = measured(net.model(net.gemm(hidden, 4)))
    reach = space.get(MeasuredRanges).reach["gemm1"][1]
    assert found["relu2"] == (0, pytest.approx(max(2 * seen["relu2"][1], reach)))


def test_what_was_measured_on_images_of_the_user_counts_as_it_is(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(3).integers(0, 256, (20, 8, 8, 3), np.uint8))
    found, seen, _ = measured(graphs.residual(), str(tmp_path / "x.npz"))
    assert found["add1"] == seen["add1"]


def test_behind_batch_norm_of_what_a_relu_cut_the_range_ends_at_its_zero():
    found, _, space = measured(graphs.activation_first())
    norm = batch_norm_parameters(next(n for n in space.graph.nodes if n.outputs[0].name == "norm2"))
    assert (norm.gamma > 0).all()
    zero = (norm.beta - norm.factor * norm.mean).min()
    assert found["norm2"][0] == pytest.approx(zero, rel=1e-5)
    top = skewed_range(norm.mean, norm.std, norm.gamma, norm.beta)[1]
    assert found["norm2"][1] == pytest.approx(max(top, (norm.beta + 8 * norm.gamma).max()), rel=1e-4)


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
    assert np.isclose(space.get(Ranges).tensors["norm2"][1], (beta + 8 * gamma).max(), rtol=1e-4)


def test_an_empty_tensor_has_no_range():
    net = graphs.Net(("n", 3, 8, 8))
    z = net.conv("x", 4)
    ends = [net.weight(name, np.array([value])) for name, value in (("from", 0), ("to", 0), ("axis", 1))]
    _, found, _ = ranges(net.model(net.relu(z), net.node("Slice", z, *ends)))
    assert "relu1" in found and "slice1" not in found


def enlarged(mode, **attributes):
    net = graphs.Net()
    x = net.relu(net.conv("x", 8))
    big = net.node("Resize", x, "", net.weight("scales", np.float32([1, 1, 2, 2])), mode=mode, **attributes)
    net.channels[big] = 8
    return net.model(net.tail(net.conv(big, 4)))


def test_behind_a_cubic_resize_lies_all_that_its_kernel_can_give():
    _, found, _ = ranges(enlarged("cubic"))
    low, high = found["relu1"]
    assert low == 0
    assert found["resize1"] == pytest.approx((-0.4453125 * high, 1.4453125 * high))
    _, gentle, _ = ranges(enlarged("cubic", cubic_coeff_a=-0.5))
    assert gentle["resize1"] == pytest.approx((-0.28125 * high, 1.28125 * high))
    _, linear, _ = ranges(enlarged("linear"))
    assert linear["resize1"] == linear["relu1"]


def test_what_was_measured_of_the_overshoot_counts_times_its_reach_but_covers_the_input():
    space = graphs.workspace(enlarged("cubic"), "8")
    PassManager(graphs.pipeline("quantize_weights")).run(space)
    space.put(MeasuredRanges({"relu1": (0.0, 10.0), "resize1": (-1.0, 9.0)}))
    EstimateRanges().run(space)
    found = space.get(Ranges).tensors
    high = found["relu1"][1]
    assert found["resize1"] == pytest.approx((-0.15 * high, high))


def test_what_was_measured_reaches_no_further_than_a_clip_also_behind_a_pool():
    """onnxruntime computes a Conv and its Clip in integers only where the range lies within the Clip's bounds."""
    net = graphs.Net()
    y = net.clip(net.conv(net.node("CumSum", net.conv("x", 4), net.weight("axis", np.array(3))), 4))  # no moments
    pooled = net.node("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    space = graphs.workspace(net.model(net.conv(pooled, 4)), "8")
    PassManager(graphs.pipeline("quantize_weights")).run(space)
    space.put(MeasuredRanges({"clip1": (0.0, 5.9), "maxpool1": (0.5, 6.0), "conv3": (-4.0, 7.0)}))
    EstimateRanges().run(space)
    got = space.get(Ranges).tensors
    assert got["clip1"] == (0.0, 6.0) and got["maxpool1"] == (0.75, 6.0)


def test_what_score_maps_are_made_of_reaches_three_times_as_far():
    net = graphs.Net()
    hidden = net.relu(net.conv(net.relu(net.conv("x", 8)), 8))
    found, seen, space = measured(net.model(net.node("Sigmoid", net.conv(hidden, 2, kernel=1))))
    reach = space.get(MeasuredRanges).reach
    assert found["relu2"] == (0, pytest.approx(max(3 * seen["relu2"][1], reach["conv2"][1])))
    assert found["relu1"] == (0, pytest.approx(max(1.5 * seen["relu1"][1], reach["conv1"][1])))


def test_a_vector_behind_an_average_reaches_three_times_as_far_at_most_where_its_weights_cancel():
    net = graphs.Net()
    x = net.relu(net.conv("x", 8, weight=np.repeat(net.random.standard_normal((1, 3, 3, 3)), 8, axis=0)))
    pooled = net.node("GlobalAveragePool", x)
    weight = 100 * net.random.standard_normal((4, 8, 1, 1))
    weight += 0.5 - weight.mean(axis=1, keepdims=True)  # of averages that move together the mean alone counts
    hidden = net.relu(net.conv(pooled, 4, 1, weight=weight))
    gate = net.node("Sigmoid", net.conv(hidden, 8, 1))
    found, seen, space = measured(net.model(net.conv(net.node("Mul", x, gate), 4)))
    assert space.get(MeasuredRanges).reach["conv2"][1] > 10 * seen["relu2"][1]
    assert found["relu2"] == (0, pytest.approx(3 * seen["relu2"][1]))


def test_a_sum_of_normalized_tensors_reaches_no_further_than_its_deviations_though_a_sample_does():
    net = graphs.Net()
    first = net.norm(net.conv("x", 8))
    model = net.model(net.tail(net.conv(net.node("Add", net.norm(net.conv(net.relu(first), 8)), first), 8)))
    found, seen, space = measured(model, deviations=1.0, reach=4.0)
    (g1, b1), (g2, b2) = (parameters(space, norm) for norm in ("norm1", "norm2"))
    deviation = np.sqrt(g1**2 + g2**2)
    assert found["add1"] == pytest.approx(((b1 + b2 - deviation).min(), (b1 + b2 + deviation).max()), rel=0.05)
    assert 4 * seen["add1"][1] > found["add1"][1]
