import numpy as np
import pytest

from dfmpc_onnx.pipeline.facts import FloatActivations, Placement
from dfmpc_onnx.pipeline.manager import PassManager
from tests import graphs

NAME = "keep_activations_float"


def prepared(model, upto=NAME, **options):
    """Without the pass that gives channels the same reach: what stays unlike is looked at here."""
    space = graphs.workspace(model, "8", options.pop("activations", "8"))
    steps = [step for step in graphs.pipeline(upto, "int8", **options) if step.name != "equalize_channels"]
    return space, PassManager(steps).run(space)[-1]


def wide():
    """A tensor of which one scale leaves all channels but one no codes; all others are read, too."""
    net = graphs.Net()
    x = net.block("x", 8)
    weight = np.random.default_rng(1).standard_normal((8, 8, 3, 3)) / np.sqrt(72)
    weight[0] *= 2000
    x = net.conv(x, 8, weight=weight)
    weight = np.random.default_rng(2).standard_normal((8, 8, 3, 3)) / np.sqrt(72)
    weight[:, 0] = 0
    return net.model(net.conv(net.block(net.conv(x, 8, weight=weight), 8), 4))


def test_before_and_after():
    space, result = prepared(wide())
    assert set(space.get(FloatActivations).tensors) == {"conv2"}
    assert set(graphs.reasons(result)) == {"conv2"}
    assert "stays in float: 8 bits of 'conv2' cost" in graphs.reasons(result)["conv2"]
    assert "1 of" in result.notes[0]
    whole, _ = prepared(wide(), "pack_weights")
    integer = whole.get(Placement).integer
    assert {"conv1", "conv4", "conv5"} <= integer and not {"conv2", "conv3"} & integer
    x = graphs.input_of(wide())
    assert graphs.relative(graphs.run(whole.graph, x), graphs.run(wide(), x)) < 0.06


def test_the_layers_it_touches_say_why_they_compute_in_float():
    _, result = prepared(wide(), "insert_qdq")
    reasons = graphs.reasons(result)
    assert set(reasons) == {"conv2", "conv3"}
    assert all("8 bits of 'conv2' cost" in why and "float arithmetic" in why for why in reasons.values())


@pytest.mark.parametrize("network", ["chain", "residual", "depthwise", "activation_first", "gemm_tail"])
def test_a_network_that_bears_it_is_left_as_it_is(network):
    space, result = prepared(graphs.ALL[network]())
    assert space.get(FloatActivations).tensors == {} and result.refusals == ()
    assert "cost" in result.notes[0]


def test_a_tensor_that_is_asked_for_stays_in_float_whatever_it_costs():
    space, result = prepared(graphs.chain(), **{NAME: {"tensors": ("relu1", "none")}})
    assert space.get(FloatActivations).tensors == {"relu1": "asked for"}
    assert graphs.reasons(result) == {"relu1": "stays in float: asked for"}
    assert "'none' is no activation to quantize" in result.notes


def test_a_tensor_that_is_moved_takes_what_it_becomes_along():
    net = graphs.Net()
    weight = np.random.default_rng(1).standard_normal((8, 8, 3, 3)) / np.sqrt(72)
    weight[0] *= 2000
    x = net.relu(net.conv(net.block("x", 8), 8, weight=weight))
    x = net.node("MaxPool", x, kernel_shape=[2, 2])
    weight = np.random.default_rng(2).standard_normal((8, 8, 3, 3)) / np.sqrt(72)
    weight[:, 0] = 0
    model = net.model(net.conv(net.block(net.conv(x, 8, weight=weight), 8), 4))
    space, _ = prepared(model)
    assert set(space.get(FloatActivations).tensors) == {"relu2", "maxpool1"}


def test_nothing_to_do_in_float():
    space, result = prepared(graphs.chain(), activations="none")
    assert space.get(FloatActivations).tensors == {} and result.notes == ("activations stay in float",)


def whole_numbers(op, **attributes):
    """A network of one output of whole numbers."""
    model = graphs.chain()
    scores = model.graph.output[0].name
    model.graph.node.append(graphs.helper.make_node(op, [scores], ["best"], name="best", **attributes))
    del model.graph.output[:]
    model.graph.output.append(graphs.helper.make_tensor_value_info("best", graphs.TensorProto.INT64, None))
    return model


def test_refused_where_nothing_can_be_compared():
    _, result = prepared(whole_numbers("Cast", to=graphs.TensorProto.INT64))
    assert "no output holds finite numbers" in graphs.reasons(result)["model"]


def test_of_a_label_the_scores_are_compared():
    _, result = prepared(whole_numbers("ArgMax", axis=1))
    assert result.notes[0].startswith("8-bit activations cost ") and "'best'" in result.notes[1]


def test_a_search_cut_short_takes_whole_groups(monkeypatch):
    monkeypatch.setattr("dfmpc_passes.keep_activations_float.MOST_RUNS", 1)
    space, result = prepared(wide())
    assert "conv2" in space.get(FloatActivations).tensors
    assert "activations around it" in graphs.reasons(result)["conv2"]
    assert all("cut short" in why for why in graphs.reasons(result).values())


def test_a_map_may_lose_a_little_less_than_a_vector_may():
    net = graphs.Net()
    model = net.model(net.conv(net.block("x", 8), 4))
    _, result = prepared(model)
    cost = float(result.notes[0].split()[3]) / 100
    for budget, left in ((1.3 * cost, True), (1.02 * cost, False)):
        space, _ = prepared(model, keep_activations_float={"budget": budget})
        assert (space.get(FloatActivations).tensors == {}) == left


def test_what_is_drawn_at_random_is_not_compared():
    net = graphs.Net()
    x = net.block("x", 8)
    noise = net.node("RandomNormalLike", x)
    y = net.conv(net.block(x, 8), 4)
    space, result = prepared(net.model(y, net.node("Add", x, noise)))
    assert (
        space.get(FloatActivations).tensors == {}
        and "not compared" in result.notes[1]
        and "'add" in result.notes[1].lower()
    )
    space, result = prepared(net.model(net.node("Add", x, noise)))
    assert space.get(FloatActivations).tensors == {}
    assert "the same in every run" in graphs.reasons(result)["model"]
