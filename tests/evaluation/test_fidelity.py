import math
import tracemalloc

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.evaluation import fidelity as fidelity
from dfmpc_onnx.evaluation.fidelity import (
    BATCH,
    Fidelity,
    compare,
    expected_outputs,
    first_feeds,
    outputs,
)
from dfmpc_onnx.evaluation.output_differences import (
    SQNR_CAP,
    NetworkDifference,
    OutputDifference,
    OutputFidelity,
    StatedOutput,
    rounded_down,
    sqnr,
)
from dfmpc_onnx.inputs.files import Images
from dfmpc_onnx.inputs.samples import Samples
from dfmpc_onnx.report.text import by_output
from dfmpc_onnx.runtime.session import Session
from tests import graphs
from tests.graphs import Net


def linear(weight, batch="n"):
    """y = x W, [n, 4] to [n, 3]."""
    net = graphs.Net((batch, 4))
    return Session(net.model(net.node("MatMul", "x", net.weight("w", weight.astype(np.float32)))))


RANDOM = np.random.default_rng(0)
WEIGHT, NOISY = (RANDOM.standard_normal((4, 3)) for _ in range(2))
NOISY = WEIGHT + 0.3 * NOISY
X = RANDOM.standard_normal((2 * BATCH + 7, 4)).astype(np.float32)


def test_sqnr_is_signal_over_noise_in_decibels():
    want, got = [np.full((2, 2), 10.0)], [np.full((2, 2), 9.0)]
    assert math.isclose(sqnr(want, got), 20.0)
    assert sqnr(want, want) == SQNR_CAP
    assert sqnr(want, [np.full((2, 2), np.nan)]) == -SQNR_CAP
    assert sqnr([np.zeros(3)], [np.ones(3)]) == -SQNR_CAP


@pytest.mark.parametrize("batch", ["n", 1, 8])
def test_outputs_are_those_of_all_images_whatever_the_batch(batch):
    got = outputs(linear(WEIGHT, batch), X)
    assert len(got) == 1 and got[0].dtype == np.float64
    assert np.allclose(got[0], X @ WEIGHT, atol=1e-5)


def test_agreement_accuracy_and_error_by_hand():
    want, got = X @ WEIGHT, X @ NOISY
    y = want.argmax(1)
    y[:10] = (y[:10] + 1) % 3
    found = compare(linear(WEIGHT), linear(NOISY), Images(X, y, "by hand"))
    assert (found.images, found.origin) == (len(X), "by hand")
    assert found.agreement == pytest.approx(100 * (want.argmax(1) == got.argmax(1)).mean(), abs=0.01)
    assert found.top1 == round(100 * (got.argmax(1) == y).mean(), 2)
    assert found.float_top1 == round(100 * (want.argmax(1) == y).mean(), 2)
    assert found.drop == round(found.float_top1 - found.top1, 2)
    assert math.isclose(found.max_error, np.abs(want - got).max(), rel_tol=1e-4)
    assert math.isclose(found.sqnr_db, 10 * np.log10((want**2).sum() / ((want - got) ** 2).sum()), abs_tol=0.01)


@pytest.mark.parametrize("batches", [("n", 1), (8, "n"), (8, 5)])
def test_networks_that_take_batches_of_different_size_are_compared_row_by_row(batches):
    pair = linear(WEIGHT, batches[0]), linear(NOISY, batches[1])
    images = Images(X, (X @ WEIGHT).argmax(1), "")
    wanted, found = compare(linear(WEIGHT), linear(NOISY), images), compare(*pair, images)
    assert (found.rows, found.agreeing, found.top1) == (wanted.rows, wanted.agreeing, wanted.top1)
    assert found.sqnr_db == pytest.approx(wanted.sqnr_db, abs=0.01)


def test_what_is_too_large_to_keep_is_computed_again(monkeypatch):
    images = Images(X, None, "")
    kept = expected_outputs(linear(WEIGHT), images)
    monkeypatch.setattr(fidelity, "MOST_KEPT", 100)
    again = expected_outputs(linear(WEIGHT), images)
    assert (kept.runs is None, again.runs is None) == (False, True)
    assert compare(kept, linear(NOISY), images) == compare(again, linear(NOISY), images)


@pytest.mark.parametrize("session_lives", [True, False])
def test_large_outputs_are_not_held_all_at_once(monkeypatch, session_lives):
    """Sixteen runs were kept of both networks, in double precision, with their difference and its square."""
    monkeypatch.setattr(fidelity, "MOST_KEPT", 0)
    monkeypatch.setattr("dfmpc_onnx.evaluation.output_differences.VALUES_COMPARED_AT_ONCE", 1000)
    net = graphs.Net((1, 4))
    wide = Session(net.model(net.node("Expand", "x", net.weight("shape", np.array([1, 50_000, 4])))))
    images = Samples({"x": RANDOM.standard_normal((16, 1, 4)).astype(np.float32)}, 16, "")
    tracemalloc.start()
    compare(wide if session_lives else expected_outputs(wide, images), wide, images)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 6 * 200_000 * 4


def test_a_network_agrees_with_itself():
    found = compare(linear(WEIGHT), linear(WEIGHT), Images(X, None, "itself"))
    assert (found.agreement, found.sqnr_db, found.max_error, found.drop) == (100.0, SQNR_CAP, 0.0, None)


def test_without_labels_there_is_no_accuracy():
    assert Fidelity(1, "", 100.0, 60.0, 0.0).drop is None


def test_networks_with_other_outputs_cannot_be_compared():
    with pytest.raises(ModelError, match="other shapes"):
        compare(linear(WEIGHT), linear(WEIGHT[:, :2]), Images(X, None, ""))


def paired(weight):
    """y = x W + s, [2, 4] and a scalar to [2, 3]."""
    net = graphs.Net((2, 4))
    y = net.node("Add", net.node("MatMul", "x", net.weight("w", weight.astype(np.float32))), "s")
    model = net.model(y)
    model.graph.input.append(graphs.helper.make_tensor_value_info("s", graphs.TensorProto.FLOAT, []))
    return Session(model)


def test_networks_of_several_inputs_are_compared_run_by_run():
    runs = X[:20].reshape(10, 2, 4)
    samples = Samples({"x": runs, "s": np.arange(10, dtype=np.float32)}, 10, "made up")
    assert np.allclose(outputs(paired(WEIGHT), samples.feeds)[0], X[:20] @ WEIGHT + np.arange(10).repeat(2)[:, None])
    found = compare(paired(WEIGHT), paired(NOISY), samples)
    want, got = X[:20] @ WEIGHT, X[:20] @ NOISY
    assert (found.images, found.origin, found.top1) == (10, "made up", None)
    assert found.agreement == pytest.approx(100 * (want.argmax(1) == got.argmax(1)).mean(), abs=0.01)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.UINT8])
def test_what_a_network_is_fed_first_is_of_its_type(kind):
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
    shapes = [helper.make_tensor_value_info("x", kind, ["n", 4]), helper.make_tensor_value_info("y", 1, ["n", 4])]
    graph = helper.make_graph([node], "g", shapes[:1], shapes[1:])
    session = Session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))
    (y,) = session.run(first_feeds(session, Images(np.float32([[1, 2, 3, 4]]), None, "")))
    assert y.tolist() == [[1, 2, 3, 4]]


def test_networks_with_other_inputs_cannot_be_compared():
    with pytest.raises(ModelError, match="its inputs are x; they differ"):
        compare(paired(WEIGHT), linear(WEIGHT), Samples({"x": X[None, :2], "s": np.zeros(1, np.float32)}, 1, ""))


def test_labels_of_more_classes_than_the_model_has_are_refused_behind_the_first_images():
    told = []
    with pytest.raises(ModelError, match="labels run to 3, and the model has 3 classes; give images of its own"):
        compare(linear(WEIGHT), linear(NOISY), Images(X, np.full(len(X), 3), ""), tell=told.append)
    assert told == []


def several(*outputs):
    """A network of [n, 4] whose outputs are made by functions of a Net."""
    net = graphs.Net(("n", 4))
    model = net.model(*(make(net) for make in outputs))
    return Session(model)


def times(factor, op="Mul"):
    return lambda net: net.node(op, "x", net.weight(f"w{len(net.weights)}", np.float32(factor)))


def test_labels_need_a_table_of_scores():
    maps = several(lambda net: net.node("Unsqueeze", "x", net.weight("axes", np.array([1]))))
    for network, label in ((maps, 3), (several(times(1)), -1)):
        with pytest.raises(ModelError, match=f"no table of class scores for labels from {label} to"):
            compare(network, network, Images(X, np.full(len(X), label), ""))


def test_each_output_is_judged_and_the_worst_counts():
    """A large exact output must not hide a small one that is wrong: pooled, these have 80 dB."""
    images = Images(X, None, "")
    found = compare(several(times(1e4), times(1)), several(times(1e4), times(0.5)), images)
    assert found.sqnr_db == pytest.approx(20 * np.log10(2), abs=0.01)
    assert [(o.name, o.sqnr_db) for o in found.outputs] == [("mul1", SQNR_CAP), ("mul2", found.sqnr_db)]
    assert found.worst == OutputFidelity("mul2", found.sqnr_db)


def test_an_output_of_labels_does_not_count_beside_scores():
    def net(factor):
        return lambda n: n.node("ArgMax", times(factor)(n), axis=1, keepdims=0)

    model = [several(times(1), net(factor)) for factor in (1, -1)]
    found = compare(*model, Images(X, None, ""))
    assert found.sqnr_db == SQNR_CAP and found.outputs[1].sqnr_db is None and found.outputs[1].equal < 50
    assert not found.notes and "'argmax1'" in by_output(found) and "% equal" in by_output(found)
    alone = compare(several(net(1)), several(net(-1)), Images(X, None, ""))
    # Of indices the share that differs is the noise, wherever they point.
    assert alone.sqnr_db == pytest.approx(-10 * np.log10(1 - found.outputs[1].equal / 100), abs=0.01)


def positive(shift):
    """Where the values above a threshold are: as many as there are."""

    def make(net):
        above = net.node("Greater", "x", net.weight(f"t{len(net.weights)}", np.float32(shift)))
        return net.node("NonZero", above)

    return make


def unsized(*makers):
    session = several(*makers)
    assert all(not all(isinstance(d, int) for d in shape) for _, shape in session.output_shapes)
    return session


def test_what_differs_in_size_by_its_values_is_left_out_and_named():
    found = compare(unsized(positive(0), times(1)), unsized(positive(0.1), times(0.9)), Images(X, None, ""))
    assert [(o.name, o.sqnr_db is None) for o in found.outputs] == [("nonzero1", True), ("mul1", False)]
    assert found.sqnr_db == pytest.approx(20.0, abs=0.01) and found.rows == len(X)
    assert found.notes == (f"not compared: output 'nonzero1': {found.outputs[0].why_not}",)
    with pytest.raises(ModelError, match=r"no output can be compared \('nonzero1': its size depends on values"):
        compare(unsized(positive(0)), unsized(positive(0.1)), Images(X, None, ""))


def test_an_output_that_is_empty_is_left_out():
    images = Images(X, None, "")
    found = compare(several(positive(1e9), times(1)), several(positive(1e9), times(1)), images)
    assert found.outputs[0].why_not == "it is empty on these inputs" and found.sqnr_db == SQNR_CAP
    with pytest.raises(ModelError, match="'nonzero1': it is empty"):
        compare(several(positive(1e9)), several(positive(1e9)), images)


@pytest.mark.parametrize(
    ("stated", "a", "b", "may"),
    [((1, "k", 4), (1, 80, 4), (1, 67, 4), True), (("k", 4), (1, 80, 4), (1, 67, 4), True),
     (("k", 4), (1, 4), (1, 7, 4), True), ((), (1, 3), (1, 4), True), (("n", 3), (5, 3), (5, 2), False),
     ((1, "k", 4), (1, 80, 4), (1, 67, 5), False), ((2, 3), (2, 3), (1, 2, 3), False)],
)  # fmt: skip
def test_sizes_that_a_network_states_do_not_depend_on_values(stated, a, b, may):
    assert StatedOutput("y", stated).may_become(a, b) == may


def detector(error=0.0, channels_last=False):
    """Boxes of hundreds of pixels beside scores, ``[n, 12, 8]`` of x ``[n, 4]``; the scores are wrong by `error`."""
    net = graphs.Net(("n", 4))
    generator = np.random.default_rng(1)
    parts = [300 * generator.standard_normal((4, 4 * 8)), generator.standard_normal((4, 8 * 8))]
    parts[1] = parts[1] + error * generator.standard_normal(parts[1].shape)
    halves = [net.node("MatMul", "x", net.weight(f"w{i}", w.astype(np.float32))) for i, w in enumerate(parts)]
    y = net.node("Reshape", net.node("Concat", *halves, axis=1), net.weight("shape", np.array([0, 12, 8])))
    return Session(net.model(net.node("Transpose", y, perm=[0, 2, 1]) if channels_last else y))


@pytest.mark.parametrize("channels_last", [False, True])
def test_channels_of_unlike_scale_are_judged_by_themselves(channels_last):
    """Pooled, the scores' error of a third is 60 dB below the boxes."""
    images = Images(X, None, "")
    pair = detector(0, channels_last), detector(0.3, channels_last)
    found = compare(*pair, images)
    (want,), (got,) = (outputs(session, X) for session in pair)
    if channels_last:
        want, got = want.transpose(0, 2, 1), got.transpose(0, 2, 1)
    scores = sqnr([want[:, 4:]], [got[:, 4:]])
    assert scores < 12 and found.sqnr_db == pytest.approx(scores, abs=0.01)
    (output,) = found.outputs
    assert [group.channels for group in output.groups] == [((0, 3),), ((4, 11),)]
    assert [group.sqnr_db for group in output.groups] == [SQNR_CAP, found.sqnr_db]
    assert {group.axis for group in output.groups} == {2 if channels_last else 1}
    assert output.worst is output.groups[1] and found.judged_by is output


@pytest.mark.parametrize("at_once", [1, 7, 100, 2**20])
@pytest.mark.parametrize("channels_last", [False, True])
def test_sums_by_channel_do_not_depend_on_the_blocks(monkeypatch, at_once, channels_last):
    pair = detector(0, channels_last), detector(0.3, channels_last)
    images = Images(X[:9], None, "")
    wanted = compare(*pair, images)
    monkeypatch.setattr("dfmpc_onnx.evaluation.output_differences.VALUES_COMPARED_AT_ONCE", at_once)
    found = compare(*pair, images)
    assert [(g.channels, g.sqnr_db) for g in found.outputs[0].groups] == [
        (g.channels, g.sqnr_db) for g in wanted.outputs[0].groups
    ]


def test_axes_are_counted_as_the_network_states_them():
    """An output [12, 8] without a batch becomes one row [1, 12, 8] here."""
    net = graphs.Net((1, 12, 8))
    factor = np.repeat([300.0, 1], [4, 8]).astype(np.float32)[:, None]
    y = net.node("Reshape", net.node("Mul", "x", net.weight("w", factor)), net.weight("shape", np.array([12, 8])))
    session = Session(net.model(y))
    found = compare(session, session, Samples({"x": RANDOM.standard_normal((4, 1, 12, 8)).astype(np.float32)}, 4, ""))
    assert [(group.axis, group.channels) for group in found.outputs[0].groups] == [(0, ((0, 3),)), (0, ((4, 11),))]


@pytest.mark.parametrize("chosen", [True, False])
def test_chosen_rows_in_another_order_or_number_are_held_against_the_nearest(chosen):
    """Boxes whose scores lie near each other change places after the smallest error."""
    boxes = RANDOM.uniform(0, 640, (5, 6, 2)).astype(np.float32)
    stated = StatedOutput("boxes", ("k", 2), chosen)
    found = NetworkDifference("a", "b", [stated], [stated])
    for run in boxes:
        found.add([run[None]], [run[None, ::-1] + 1])
    if not chosen:
        assert found.each[0].sqnr_db < 10
        return
    assert found.each[0].sqnr_db > 40 and found.each[0].result().rows_matched
    found.add([boxes[:1]], [boxes[:1, :4]])
    assert found.each[0].compared and 10 < found.each[0].sqnr_db < 40
    found.add([boxes[:1]], [boxes[:1, :0]])  # a detector that finds nothing any more
    assert found.each[0].compared and found.each[0].sqnr_db < 15
    for empty in (boxes[:1], boxes[:1, :0]), (boxes[:1, :0], boxes[:1, :0]):
        found.add([empty[0][:, :0]], [empty[1][:, :0]])
    assert found.each[0].compared


def test_rows_whose_number_is_stated_are_compared_as_they_stand():
    assert not OutputDifference(StatedOutput("y", (1, 3, 2), True)).result().rows_matched
    found = OutputDifference(StatedOutput("y", (1, 3, 2), True))
    rows = np.array([[[1.0, 0], [2, 0], [3, 0]]])
    found.add(rows, rows[:, ::-1])
    assert found.sqnr_db < 10


def test_images_of_a_batch_whose_rows_pair_off_in_unlike_numbers_are_each_measured():
    """Of one image all rows of the float network have a nearest, of the other those of the candidate are more."""
    want = np.array([[[0.0, 0], [100, 0], [200, 0]], [[0, 0], [1, 0], [2, 0]]])
    got = np.array([[[1.0, 0], [101, 0]], [[0, 0], [300, 0]]])
    stated = StatedOutput("boxes", (2, "k", 2), True)
    found = NetworkDifference("a", "b", [stated], [stated])
    found.add([want], [got])
    by_image = [NetworkDifference("a", "b", [stated], [stated]) for _ in want]
    for image, a, b in zip(by_image, want, got, strict=True):
        image.add([a[None]], [b[None]])
    assert found.each[0].compared
    assert found.each[0].noise == sum(image.each[0].noise for image in by_image) > 0


def test_networks_of_two_inputs_are_fed_in_the_precision_that_each_takes():
    """Of a model in half precision that runs only once it is normalized, the reference computes in single precision."""

    def added(kind: int) -> onnx.ModelProto:
        ends = [helper.make_tensor_value_info(name, kind, [1, 4]) for name in ("a", "b", "y")]
        graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["y"])], "g", ends[:2], ends[2:])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    single, half = (Session(added(kind)) for kind in (TensorProto.FLOAT, TensorProto.FLOAT16))
    feeds = {name: RANDOM.standard_normal((3, 1, 4)).astype(np.float32) for name in "ab"}
    assert compare(single, half, Samples(feeds, 3, "")).sqnr_db > 60


def test_figures_are_rounded_down_so_that_a_threshold_is_not_passed_by_rounding():
    """One change in 20,001 read 100 %, and 19.998 dB read 20."""
    net = Net((1, 2))
    model = net.model(net.node("Mul", "x", net.weight("one", np.float32(1))))
    other = Net((1, 2))
    shifted = other.model(other.node("Max", "x", other.weight("least", np.array([-2, 0.5], np.float32))))
    for one in (model, shifted):
        one.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    x = np.tile(np.array([[1, 0.75]], np.float32), (20_001, 1))
    x[7] = [0, -1]
    found = compare(Session(model), Session(shifted), Images(x, None, ""))
    assert (found.agreeing, found.rows, found.agreement) == (20_000, 20_001, 99.99)
    assert [rounded_down(value) for value in (19.998, 20.0, 19.999995, -0.01)] == [19.99, 20, 20, -0.01]


def finds(threshold):
    """Scores ``[2, 2]`` of two images, and where they lie above a threshold, as ``[finds, 2]``."""
    return Session(
        onnx.parser.parse_model(
            f"""<ir_version: 8, opset_import: ["": 13]>
            net (float[2, 2] x) => (float[2, 2] y, int64[k, 2] found) <float t = {{{threshold}}}>
            {{ y = Identity(x) above = Greater(x, t) places = NonZero(above) found = Transpose(places) }}"""
        )
    )


@pytest.mark.parametrize("thresholds", [(0.0, 1.5), (1.5, 0.0)])
def test_as_many_finds_as_there_are_images_are_no_rows_of_these(thresholds):
    """3 finds of one network stood beside 2 of the other, which are as many as images, and no shape was the same."""
    x = np.array([[1, 2], [3, -1]], np.float32)
    found = compare(*map(finds, thresholds), Images(x, None, "by hand"), {"found"})
    assert [(output.name, output.sqnr_db) for output in found.outputs] == [("y", SQNR_CAP), ("found", None)]
    assert found.outputs[1].rows_matched
