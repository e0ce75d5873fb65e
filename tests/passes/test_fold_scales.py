import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_passes import FoldScales
from tests import graphs


def folded(model):
    """The graphs before and after, and the result."""
    spaces = [graphs.workspace(model, "8") for _ in range(2)]
    for space in spaces:
        PassManager(graphs.pipeline("normalize")).run(space)
    return spaces[0].graph, spaces[1].graph, FoldScales().run(spaces[1])


def numbers(net, *values):
    """One number, or one a channel, under a name of its own."""
    return net.weight(f"k{len(net.weights)}", np.asarray(values if len(values) > 1 else values[0], np.float32))


def by_channel(net, count, low, high):
    values = np.linspace(low, high, count, dtype=np.float32).reshape(count, 1, 1)
    return net.weight(f"k{len(net.weights)}", values)


def behind(norm=False, bias=True, per_channel=False):
    """Conv -> Mul -> Add -> Relu -> Conv, one number each or one a channel."""
    net = graphs.Net()
    x = net.conv("x", 8, bias=bias)
    x = net.norm(x) if norm else x
    k, t = (by_channel(net, 8, *ends) if per_channel else numbers(net, ends[1]) for ends in ((-2, 3), (-1, 0.5)))
    x = net.node("Add", t, net.node("Mul", k, x))
    net.channels[x] = 8
    return net.model(net.tail(net.conv(net.relu(x), 8)))


def in_front(kernel=1, per_channel=False, group=1):
    """Relu -> Mul -> Add -> Conv, which pads where its kernel is 3."""
    net = graphs.Net()
    x = net.relu(net.conv("x", 8, bias=True))
    k, t = (by_channel(net, 8, *ends) if per_channel else numbers(net, ends[1]) for ends in ((0.5, 3), (-1, 0.5)))
    x = net.node("Add", net.node("Mul", x, k), t)
    return net.model(net.tail(net.conv(x, 8, kernel, group)))


def ops(graph):
    return [node.op for node in graph.nodes]


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_factor_and_a_shift_behind_a_layer_become_part_of_it(norm, bias, per_channel):
    before, after, result = folded(behind(norm, bias, per_channel))
    assert {"Mul", "Add"} <= set(ops(before)) and not {"Mul", "Add"} & set(ops(after))
    assert [rewrite.site for rewrite in result.rewrites] == ["mul1", "add1"]
    assert graphs.relative(graphs.run(after), graphs.run(before)) < 1e-5


@pytest.mark.parametrize("group", [1, 2, 8])
@pytest.mark.parametrize("per_channel", [False, True])
def test_what_stands_in_front_of_a_layer_that_does_not_pad_becomes_part_of_it(per_channel, group):
    before, after, _ = folded(in_front(1, per_channel, group))
    assert not {"Mul", "Add"} & set(ops(after))
    assert graphs.relative(graphs.run(after), graphs.run(before)) < 1e-5


@pytest.mark.parametrize("group", [1, 8])
@pytest.mark.parametrize("per_channel", [False, True])
def test_in_front_of_padding_the_shift_stays_and_the_factor_goes(per_channel, group):
    before, after, _ = folded(in_front(3, per_channel, group))
    assert "Mul" not in ops(after) and ops(after).count("Add") == 1
    assert graphs.relative(graphs.run(after), graphs.run(before)) < 1e-5


def test_division_and_subtraction_are_folded_as_well():
    net = graphs.Net()
    x = net.node("Sub", net.node("Div", net.conv("x", 8), numbers(net, 6.0)), numbers(net, 0.25))
    before, after, _ = folded(net.model(net.tail(net.block(net.relu(x), 8))))
    assert not {"Div", "Sub"} & set(ops(after))
    assert graphs.relative(graphs.run(after), graphs.run(before)) < 1e-5


def test_a_folded_node_that_gave_the_output_leaves_its_name_to_the_layer():
    net = graphs.Net()
    before, after, _ = folded(net.model(net.node("Mul", net.conv("x", 8), numbers(net, 3.0))))
    assert [t.name for t in after.outputs] == ["mul1"] and ops(after) == ["Conv"]
    assert graphs.relative(graphs.run(after), graphs.run(before)) < 1e-5


def reversed_division(net, x):
    return net.node("Div", numbers(net, 1.0), net.node("Add", net.node("Abs", x), numbers(net, 1.0)))


def read_twice(net, x):
    return net.node("Add", net.node("Mul", x, numbers(net, 2.0)), x)


def by_column(net, x):
    return net.node("Mul", x, net.weight("columns", np.linspace(1, 2, 8, dtype=np.float32)))


def by_zero(net, x):
    return net.node("Mul", x, numbers(net, 0.0))


def widened(net, x):
    wide = net.node("Mul", x, net.weight("k", np.full((1, 1, 1, 1, 1), 2, np.float32)))
    return net.node("Reshape", wide, net.weight("shape", np.array([1, 8, 8, 8])))


@pytest.mark.parametrize("case", [reversed_division, read_twice, by_column, by_zero, widened])
def test_what_no_channel_of_a_layer_takes_stays(case):
    net = graphs.Net()
    x = case(net, net.conv("x", 8))
    net.channels[x] = 8
    before, after, result = folded(net.model(net.tail(net.block(net.relu(x), 8))))
    assert not result.rewrites and ops(after) == ops(before)


@settings(max_examples=25, deadline=None)
@given(
    factor=st.floats(0.01, 100).flatmap(lambda k: st.sampled_from([k, -k])),
    shift=st.floats(-10, 10),
    kernel=st.sampled_from([1, 3]),
    order=st.permutations(["Mul", "Add", "Div", "Sub"]),
)
def test_the_function_stays_whatever_is_folded(factor, shift, kernel, order):
    net = graphs.Net()
    x = net.conv("x", 4, bias=True)
    for op in order[:2]:
        x = net.node(op, x, numbers(net, factor if op in ("Mul", "Div") else shift))
    x = net.relu(x)
    for op in order[2:]:
        x = net.node(op, x, numbers(net, factor if op in ("Mul", "Div") else shift))
    before, after, _ = folded(net.model(net.tail(net.conv(x, 4, kernel))))
    assert graphs.relative(graphs.run(after), graphs.run(before)) < 1e-5
