import numpy as np
import pytest

from dfmpc_onnx.facts import FloatStatistics, Originals, Recalibrated
from dfmpc_onnx.manager import PassManager
from dfmpc_onnx.numerics.compensation import BatchNormParameters
from dfmpc_onnx.numerics.recalibration import READINGS, recalibrate
from dfmpc_onnx.operators import batch_norm_parameters
from tests import graphs


def recalibrated(model, **options):
    space = graphs.workspace(model)
    steps = graphs.pipeline("recalibrate_batch_norm", recalibrate_batch_norm=options)
    return space, PassManager(steps).run(space)[-1]


def norm_of(space, name="norm2"):
    return batch_norm_parameters(next(n for n in space.graph.nodes if n.name == name))


@pytest.mark.parametrize("reading", sorted(READINGS))
def test_the_reading_is_written_into_the_graph(reading):
    space, _ = recalibrated(graphs.chain(), reading=reading)
    statistics = space.get(FloatStatistics)
    moments = statistics.tensors["relu1"]
    rows = [w.reshape(8, 8, 9) for w in (space.get(Originals).weights["conv2"], graphs.values(space.graph, "conv2.w"))]
    want = recalibrate(reading, *rows, statistics.norms["norm2"], moments.mean, moments.variance, 1e-5)
    got = norm_of(space)
    assert np.allclose(got.mean, want.mean, atol=1e-6) and np.allclose(got.std, want.std, rtol=1e-5)
    assert np.allclose(space.get(Recalibrated).norms["conv2"].std, want.std)


def test_unchanged_leaves_the_graph_as_it_was():
    before, _ = graphs.prepared(graphs.chain(), "quantize_weights")
    space, _ = recalibrated(graphs.chain(), reading="unchanged")
    for name in ("norm2.mean", "norm2.variance"):
        assert np.allclose(graphs.values(space.graph, name), graphs.values(before.graph, name), atol=1e-7)


def test_only_the_norm_behind_the_low_layer_changes():
    before, _ = graphs.prepared(graphs.chain(), "quantize_weights")
    space, result = recalibrated(graphs.chain(), reading="analytic")
    changed = {
        name
        for name in space.graph.tensors()
        if "." in name and not np.array_equal(graphs.values(space.graph, name), graphs.values(before.graph, name))
    }
    assert changed == {"norm2.mean", "norm2.variance"}
    assert [r.site for r in result.rewrites] == ["norm2"]


@pytest.mark.parametrize("reading", sorted(READINGS))
def test_a_bias_of_the_conv_moves_the_mean_by_itself_and_nothing_else(reading):
    """conv2 with bias b in front of mean m is conv2 without bias in front of mean m - b."""
    biased = graphs.own_bias()
    plain = graphs.own_bias()
    tensors = {t.name: t for t in plain.graph.initializer}
    bias = graphs.numpy_helper.to_array(tensors["conv2.b"])
    mean = graphs.numpy_helper.to_array(tensors["norm2.mean"])
    tensors["norm2.mean"].CopyFrom(graphs.numpy_helper.from_array(mean - bias, "norm2.mean"))
    tensors["conv2.b"].CopyFrom(graphs.numpy_helper.from_array(np.zeros_like(bias), "conv2.b"))
    with_bias, without = (recalibrated(m, reading=reading)[0] for m in (biased, plain))
    assert np.allclose(norm_of(with_bias).mean, norm_of(without).mean + bias, atol=1e-5)
    assert np.allclose(norm_of(with_bias).std, norm_of(without).std, rtol=1e-5)


def test_a_dead_channel_keeps_its_statistics():
    space, result = recalibrated(graphs.chain(), reading="analytic", dead=1e6)
    before, _ = graphs.prepared(graphs.chain(), "quantize_weights")
    assert np.allclose(norm_of(space).mean, norm_of(before).mean, atol=1e-6)
    assert result.rewrites[0].figures["channels_kept"] == 8


def test_refused_where_the_moments_of_the_input_are_not_known():
    net = graphs.Net()
    x = net.node("Erf", net.block("x", 4))
    model = net.model(net.tail(net.block(net.block(x, 4), 4)))
    space, result = recalibrated(model, reading="analytic")
    before, _ = graphs.prepared(model, "quantize_weights")
    assert graphs.reasons(result) == {"norm2": "Erf: no rule for this operator"}
    assert graphs.snapshot(space.graph) == graphs.snapshot(before.graph)
    assert isinstance(space.get(Recalibrated).norms["conv2"], BatchNormParameters)


def test_readings_of_the_weights_alone_need_no_moments():
    net = graphs.Net()
    x = net.node("Erf", net.block("x", 4))
    _, result = recalibrated(net.model(net.tail(net.block(net.block(x, 4), 4))), reading="norm_ratio")
    assert result.refusals == ()
