import numpy as np
import pytest

from dfmpc_onnx.facts import FloatStatistics, Originals, Recalibrated
from dfmpc_onnx.manager import PassManager
from dfmpc_onnx.numerics.compensation import Products
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
    norms = space.get(FloatStatistics).norms["norm2"], space.get(Recalibrated).norms["conv2"]
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
    space.put(Recalibrated({**norms, "conv2": space.get(FloatStatistics).norms["norm2"]}))
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


def test_no_pair_no_change():
    space = ready(graphs.folded())
    before = graphs.snapshot(space.graph)
    assert Compensate().run(space).rewrites == ()
    assert graphs.snapshot(space.graph) == before
