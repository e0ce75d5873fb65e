import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfmpc_onnx.evaluation.rounding_switches import ToggledRounding
from dfmpc_onnx.numerics.output_loss import is_vector, output_loss
from tests import graphs


def network(model, groups, scale=0.5):
    space = graphs.workspace(model, "8")
    feeds = {"x": graphs.input_of(model)}
    scales = {name: np.float32(scale) for group in groups for name in group}
    return ToggledRounding(space, scales, groups, feeds), feeds


def lost_share(want, got):
    return output_loss(want, got).share_of_variance


def rounded(x, scale=0.5):
    return np.rint(x / scale) * scale


def test_each_group_is_rounded_only_when_asked():
    net = graphs.Net()
    x = net.node("Relu", "x")
    model = net.model(net.node("Mul", x, net.weight("two", np.float32(2))))
    toggled, feeds = network(model, [["x"], ["relu1"]])
    plain = 2 * np.maximum(feeds["x"], 0).astype(np.float64)
    for groups, got in {
        (): plain,
        (0,): 2 * np.maximum(rounded(feeds["x"]), 0),
        (1,): 2 * rounded(np.maximum(feeds["x"], 0)),
    }.items():
        wanted = lost_share(plain, got.astype(np.float64))
        assert toggled.losses(groups)[0].share_of_variance == pytest.approx(wanted, rel=1e-4, abs=1e-9)
    assert toggled.comparable


def test_beyond_the_codes_nothing_is_clipped():
    net = graphs.Net()
    model = net.model(net.node("Relu", "x"))
    toggled, _ = network(model, [["x"]], scale=1e-4)
    assert toggled.losses([0])[0].share_of_variance < 1e-6


def test_scores_are_compared_before_they_are_squeezed():
    net = graphs.Net()
    x = net.node("Mul", "x", net.weight("far", np.float32(100)))
    x = net.node("Sub", x, net.weight("off", np.float32(1000)))
    model = net.model(net.node("Sigmoid", x))
    toggled, _ = network(model, [["x"]])
    assert toggled.losses([0])[0].share_of_variance > 0.01  # all scores are 0, whatever is done


def test_numbers_that_cannot_be_compared():
    net = graphs.Net()
    model = net.model(net.node("ArgMax", "x", axis=1))
    model.graph.output[0].type.tensor_type.elem_type = graphs.TensorProto.INT64
    toggled, _ = network(model, [["x"]])
    assert not toggled.comparable and toggled.losses([0]) == []


@given(st.integers(0, 2**31), st.sampled_from([(4, 7), (2, 5, 3), (2, 3, 5), (2, 3, 4, 4)]))
def test_the_share_does_not_depend_on_scale_and_shift(seed, shape):
    rng = np.random.default_rng(seed)
    want, noise = rng.standard_normal(shape), 0.1 * rng.standard_normal(shape)
    share = lost_share(want, want + noise)
    assert 0 < share < 0.5
    assert lost_share(3 * want + 7, 3 * (want + noise) + 7) == pytest.approx(share)
    assert lost_share(want, want) == 0.0


def test_the_share_of_channels():
    want = np.random.default_rng(0).standard_normal((2, 3, 50))
    got = want.copy()
    got[:, 1] = 1e9
    assert lost_share(want, got) == pytest.approx(1 / 3)
    assert lost_share(want.transpose(0, 2, 1), got.transpose(0, 2, 1)) == pytest.approx(1 / 3)
    assert lost_share(np.ones((2, 3)), np.zeros((2, 3))) == 0.0  # no signal to lose
    got[0, 0, 0] = np.nan
    assert lost_share(want, got) == pytest.approx(2 / 3)


@pytest.mark.parametrize("shape", [(3, 7), (3, 9, 4), (3, 4, 9), (2, 5, 3, 4), ()])
def test_channels_are_compared_a_few_at_a_time(monkeypatch, shape):
    rng = np.random.default_rng(0)
    want, noise = rng.standard_normal(shape), 0.1 * rng.standard_normal(shape)
    share = lost_share(want, want + noise)
    monkeypatch.setattr("dfmpc_onnx.numerics.output_loss.VALUES_AT_ONCE", 50)
    assert lost_share(want, want + noise) == pytest.approx(share)


def test_an_output_that_holds_nothing_loses_nothing():
    assert lost_share(np.zeros((0, 3, 2)), np.zeros((0, 3, 2))) == 0.0


def test_an_output_that_is_no_tensor_is_passed_over():
    net = graphs.Net()
    relu = net.node("Relu", "x")
    model = net.model(relu)
    model.graph.node.append(graphs.helper.make_node("SplitToSequence", [relu], ["parts"], name="parts", axis=1))
    parts = graphs.helper.make_tensor_sequence_value_info("parts", graphs.TensorProto.FLOAT, None)
    model.graph.output.append(parts)
    toggled, _ = network(model, [["x"]])
    assert toggled.comparable and toggled.losses([0])[0].share_of_variance > 0
    del model.graph.output[0]
    toggled, _ = network(model, [["x"]])
    assert not toggled.comparable and toggled.losses([0]) == []


@pytest.mark.parametrize(
    ("shape", "vector"),
    [((4,), True), ((4, 7), True), ((4, 7, 1, 1), True), ((4, 1, 1, 7), True), ((4, 7, 1), True),
     ((4, 1, 7), False), ((4, 7, 3), False), ((4, 1, 5, 5), False), ((4, 3, 1, 5), False)],
)  # fmt: skip
def test_which_outputs_are_one_vector_an_image(shape, vector):
    assert is_vector(shape) == vector


def test_each_output_is_compared_by_itself():
    """A vector beside a map is a vector, whatever the map may lose."""
    net = graphs.Net()
    x = net.node("Relu", "x")
    y = net.node("GlobalAveragePool", x)
    toggled, feeds = network(net.model(x, y), [["x"], ["relu1"]])
    plain = np.maximum(feeds["x"], 0).astype(np.float64)
    pooled = plain.mean(axis=(2, 3), keepdims=True)
    got = np.maximum(rounded(feeds["x"]), 0)
    shares = lost_share(plain, got), lost_share(pooled, got.mean(axis=(2, 3), keepdims=True))
    found = toggled.losses([0])
    assert [loss.vector for loss in found] == [False, True]
    assert [loss.share_of_variance for loss in found] == pytest.approx(shares, rel=1e-3)
    assert [loss.strictness(3) for loss in found] == [3, 1]


def test_an_output_whose_size_changes_is_no_longer_compared():
    net = graphs.Net()
    net.channels["x"] = 3
    high = net.node("NonZero", net.node("Relu", "x"))
    model = net.model(net.node("Cast", high, to=1), net.node("Neg", "x"))
    toggled, _ = network(model, [["x"], ["relu1"]], scale=2.0)
    assert toggled.passed_over == ()
    assert len(toggled.losses([0])) == 1 and toggled.passed_over == ("cast1",)


def test_in_front_of_a_choice_the_scores_are_compared():
    net = graphs.Net()
    scores = net.conv("x", 4)
    model = net.model(net.node("NonZero", net.node("Relu", scores)))
    model.graph.output[0].type.tensor_type.elem_type = graphs.TensorProto.INT64
    toggled, _ = network(model, [["x"]])
    assert toggled.comparable and toggled.losses([0])[0].share_of_variance > 0
    assert "nonzero1" in toggled.notes[0]


@pytest.mark.parametrize("perm", [[0, 1, 2, 3], [0, 2, 3, 1]])
def test_channels_of_unlike_scale_are_judged_by_themselves(perm):
    """Six exact channels of hundreds beside three that are rounded: a third of what these lose, were all averaged."""
    net = graphs.Net((2, 3, 8, 8))
    far = net.node("Mul", "x", net.weight("far", np.float32(300)))
    both = net.node("Concat", far, net.node("Neg", far), net.node("Relu", "x"), axis=1)
    toggled, feeds = network(net.model(net.node("Transpose", both, perm=perm)), [["relu1"]])
    plain = np.maximum(feeds["x"], 0).astype(np.float64)
    (loss,) = toggled.losses([0])
    assert loss.share_of_variance == pytest.approx(lost_share(plain, rounded(plain)), rel=1e-3)
