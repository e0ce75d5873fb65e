import numpy as np
import pytest

from dfmpc_onnx.graph.operators import batch_norm_parameters
from dfmpc_onnx.numerics.batch_norm import BatchNormParameters
from dfmpc_onnx.numerics.recalibration import READINGS, recalibrate
from dfmpc_onnx.pipeline.facts import FloatStatistics, Originals, Pairs, Recalibrated
from dfmpc_onnx.pipeline.manager import PassManager
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
    want = recalibrate(reading, *rows, statistics.norms["norm2"], moments.mean, moments.variance)
    got = norm_of(space)
    assert np.allclose(got.mean, want.mean, atol=1e-6) and np.allclose(got.std, want.std, rtol=1e-5)
    assert np.allclose(space.get(Recalibrated).norms[space.get(Pairs).pairs[0]].std, want.std)


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
    assert isinstance(space.get(Recalibrated).norms[space.get(Pairs).pairs[0]], BatchNormParameters)


def test_readings_of_the_weights_alone_need_no_moments():
    net = graphs.Net()
    x = net.node("Erf", net.block("x", 4))
    _, result = recalibrated(net.model(net.tail(net.block(net.block(x, 4), 4))), reading="norm_ratio")
    assert result.refusals == ()


# DenseNet: several BatchNormalizations read the low layer, each at its own channels


@pytest.mark.parametrize("reading", sorted(READINGS))
def test_every_reader_of_a_dense_layer_takes_up_the_reading_in_its_own_channels(reading):
    before, _ = graphs.prepared(graphs.dense(), "quantize_weights")
    space, result = recalibrated(graphs.dense(), reading=reading)
    statistics = space.get(FloatStatistics)
    want = {name: norm_of(before, name) for name in ("norm3", "norm5")}
    for low, name, first, source in (
        ("conv3", "norm3", 8, "relu2"),
        ("conv3", "norm5", 8, "relu2"),
        ("conv5", "norm5", 12, "relu4"),
    ):
        moments = statistics.tensors[source]
        weights = space.get(Originals).weights[low], graphs.values(space.graph, f"{low}.w")
        rows = [w.reshape(4, 8, 9) for w in weights]
        fresh = recalibrate(reading, *rows, want[name].channels(first, 4), moments.mean, moments.variance)
        want[name].mean[first : first + 4] = fresh.mean
        want[name].std[first : first + 4] = fresh.std
    for name, norm in want.items():
        assert np.allclose(norm_of(space, name).mean, norm.mean, atol=1e-6)
        assert np.allclose(norm_of(space, name).std, norm.std, rtol=1e-5)
    assert [r.site for r in result.rewrites] == ["norm3", "norm5", "norm5"]
    assert result.rewrites[0].action == "re-calibrated, channels 8 to 11, of conv3"


def test_what_a_reader_measures_of_other_layers_stays():
    before, _ = graphs.prepared(graphs.dense(), "quantize_weights")
    space, _ = recalibrated(graphs.dense(), reading="analytic")
    for name in ("norm1", "norm2", "norm4"):
        assert np.array_equal(norm_of(space, name).mean, norm_of(before, name).mean)
    for name in ("norm3", "norm5"):
        assert np.array_equal(norm_of(space, name).mean[:8], norm_of(before, name).mean[:8])
        assert not np.any(norm_of(space, name).std[8:] == norm_of(before, name).std[8:])
