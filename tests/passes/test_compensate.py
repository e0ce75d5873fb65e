import numpy as np
import pytest

from dfmpc_onnx.numerics.compensation import Products
from dfmpc_onnx.pipeline.facts import FloatStatistics, Originals, Pairs, Recalibrated
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_passes import Compensate
from dfmpc_passes.compensate import CompensateOptions
from tests import graphs


def ready(model, **options):
    """The workspace in front of the pass."""
    space, _ = graphs.prepared(model, "recalibrate_batch_norm")
    return space


def factors(space):
    """What the pass multiplies gamma of the low layer by."""
    gamma = graphs.values(space.graph, "norm2.gamma").copy()
    Compensate().run(space)
    return graphs.values(space.graph, "norm2.gamma") / gamma


def test_c_of_equation_27_multiplies_gamma_and_beta():
    space = ready(graphs.chain())
    gamma, beta = (graphs.values(space.graph, f"norm2.{key}").copy() for key in ("gamma", "beta"))
    weights = space.get(Originals).weights["conv2"], graphs.values(space.graph, "conv2.w")
    norms = space.get(FloatStatistics).norms["norm2"], space.get(Recalibrated).norms[space.get(Pairs).pairs[0]]
    want = Products.of(*weights).minimizer(*norms, 0.5, 0.01)
    Compensate(CompensateOptions(lambda1=0.5, lambda2=0.01)).run(space)
    assert np.allclose(graphs.values(space.graph, "norm2.gamma"), want * gamma)
    assert np.allclose(graphs.values(space.graph, "norm2.beta"), want * beta)


def test_only_gamma_and_beta_of_the_pair_change():
    space = ready(graphs.chain())
    before = {n: graphs.values(space.graph, n).copy() for n in space.graph.tensors() if "." in n}
    wiring = graphs.wiring(space.graph)
    Compensate().run(space)
    changed = {n for n, v in before.items() if not np.array_equal(v, graphs.values(space.graph, n))}
    assert changed == {"norm2.gamma", "norm2.beta"}
    assert graphs.wiring(space.graph) == wiring


@pytest.mark.parametrize("network", [graphs.chain, graphs.own_bias, graphs.negative_gamma, graphs.dead_channel])
def test_the_loss_of_equation_23_never_grows(network):
    space = ready(network())
    figures = Compensate().run(space).rewrites[0].figures
    assert figures["loss"] <= figures["loss_at_1"]


def test_scaling_the_norm_is_scaling_the_input_channels_of_the_next_conv():
    space, twin = ready(graphs.chain()), ready(graphs.chain())
    c = factors(space)
    weight = graphs.values(twin.graph, "conv3.w")
    twin.graph.tensors()["conv3.w"].values = weight * c.reshape(1, -1, 1, 1)
    assert graphs.relative(graphs.run(space.graph), graphs.run(twin.graph)) < 1e-5


def test_an_exact_quantization_needs_no_compensation():
    space = ready(graphs.chain())
    space.graph.tensors()["conv2.w"].values = space.get(Originals).weights["conv2"]
    norms = space.get(Recalibrated).norms
    space.put(Recalibrated({**norms, space.get(Pairs).pairs[0]: space.get(FloatStatistics).norms["norm2"]}))
    assert np.allclose(factors(space), 1)


def test_a_channel_that_points_the_other_way_gets_c_0_and_the_network_still_runs_to_the_end():
    space = ready(graphs.chain())
    weight = graphs.values(space.graph, "conv2.w").copy()
    weight[2] = -weight[2]
    space.graph.tensors()["conv2.w"].values = weight
    result = Compensate(CompensateOptions(lambda1=0.0)).run(space)
    assert result.rewrites[0].figures["c_zero"] == 1
    assert graphs.values(space.graph, "norm2.gamma")[2] == graphs.values(space.graph, "norm2.beta")[2] == 0
    want = graphs.run(space.graph)
    steps = [p for p in graphs.pipeline("fold_batch_norm") if p.name in ("estimate_ranges", "fold_batch_norm")]
    PassManager(steps).run(space)
    assert graphs.relative(graphs.run(space.graph), want) < 1e-4


def test_behind_a_clip_it_is_said_that_c_is_an_upper_bound():
    assert "upper bound" in Compensate().run(ready(graphs.bounded())).rewrites[0].action
    assert Compensate().run(ready(graphs.chain())).rewrites[0].action == "compensated"


def test_own_bias_is_taken_off_the_mean():
    """A bias that the mean takes back changes neither the network nor c."""
    biased, plain = graphs.own_bias(), graphs.own_bias()
    tensors = {t.name: t for t in plain.graph.initializer}
    bias, mean = (graphs.numpy_helper.to_array(tensors[n]) for n in ("conv2.b", "norm2.mean"))
    tensors["norm2.mean"].CopyFrom(graphs.numpy_helper.from_array(mean - bias, "norm2.mean"))
    tensors["conv2.b"].CopyFrom(graphs.numpy_helper.from_array(np.zeros_like(bias), "conv2.b"))
    assert np.allclose(factors(ready(biased)), factors(ready(plain)), rtol=1e-4)


# DenseNet: each BatchNormalization that reads the low layer compensates for it in its own channels


def slow_c(space, pair, j, lambda1):
    """Equation 27 for channel j of a low layer, in loops, from what stands in the float and in the quantized graph."""
    float_norm = space.get(FloatStatistics).norms[pair.batch_norm]
    hat = {k: graphs.values(space.graph, f"{pair.batch_norm}.{k}") for k in ("gamma", "beta", "mean", "variance")}
    k = pair.offset + j
    g, b, m, s = (float(getattr(float_norm, key)[k]) for key in ("gamma", "beta", "mean", "std"))
    s_hat, m_hat = float(np.sqrt(hat["variance"][k] + 1e-5)), float(hat["mean"][k])
    weight = space.get(Originals).weights[pair.low][j].reshape(-1).tolist()
    quantized = graphs.values(space.graph, f"{pair.low}.w")[j].reshape(-1).tolist()
    y, y_hat = b - g * m / s, b - g * m_hat / s_hat
    numerator, denominator = lambda1 * y_hat * y, lambda1 * y_hat * y_hat
    for w, q in zip(weight, quantized, strict=True):
        numerator += (g * q / s_hat) * (g * w / s)
        denominator += (g * q / s_hat) ** 2
    return max(numerator / denominator, 0.0)


@pytest.mark.parametrize("lambda1", [0.0, 0.5])
def test_every_reader_of_a_dense_layer_gets_the_c_of_equation_27_in_its_own_channels(lambda1):
    space = ready(graphs.dense())
    want = {
        key: graphs.values(space.graph, key).astype(float).copy()
        for key in space.graph.tensors()
        if key.endswith((".gamma", ".beta"))
    }
    for pair in space.get(Pairs).pairs:
        for j in range(4):
            c = slow_c(space, pair, j, lambda1)
            want[f"{pair.batch_norm}.gamma"][pair.offset + j] *= c
            want[f"{pair.batch_norm}.beta"][pair.offset + j] *= c
    result = Compensate(CompensateOptions(lambda1=lambda1)).run(space)
    for key, values in want.items():
        assert np.allclose(graphs.values(space.graph, key), values, rtol=1e-5, atol=1e-7), key
    assert [r.action for r in result.rewrites] == ["compensated in norm3", "compensated in norm5", "compensated"]


def test_scaling_a_reader_is_scaling_those_input_channels_of_the_layer_that_repairs():
    space, twin = ready(graphs.dense()), ready(graphs.dense())
    gammas = {key: graphs.values(space.graph, f"{key}.gamma").copy() for key in ("norm3", "norm5")}
    Compensate().run(space)
    for pair in space.get(Pairs).pairs:
        part = slice(pair.offset, pair.offset + 4)
        c = (graphs.values(space.graph, f"{pair.batch_norm}.gamma") / gammas[pair.batch_norm])[part]
        weight = graphs.values(twin.graph, f"{pair.high}.w").copy()
        weight[:, part] *= c.reshape(1, -1, *(1,) * (weight.ndim - 2))
        twin.graph.tensors()[f"{pair.high}.w"].values = weight
    assert graphs.relative(graphs.run(space.graph), graphs.run(twin.graph)) < 1e-5


def test_no_pair_no_change():
    space = ready(graphs.folded())
    before = graphs.snapshot(space.graph)
    assert Compensate().run(space).rewrites == ()
    assert graphs.snapshot(space.graph) == before
