import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dfmpc_onnx
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.pipeline.settings import Settings, WeightBits
from dfmpc_onnx.pipeline.targets import parse_target
from dfmpc_passes import IntegerGates
from tests import graphs

ALPHA = 1 / 6


def number(net, value):
    return net.weight(f"k{len(net.weights)}", np.float32(value))


def hard_sigmoid(net, u, alpha=ALPHA, beta=0.5):
    return net.node("Mul", u, net.node("HardSigmoid", u, alpha=alpha, beta=beta))


def hard_swish(net, u):
    return net.node("HardSwish", u)


def bounded(net, u):
    return net.clip(net.node("Add", u, number(net, 3.0)))


def divided_behind(net, u):
    return net.node("Div", net.node("Mul", u, bounded(net, u)), number(net, 6.0))


def divided_within(net, u):
    return net.node("Mul", net.node("Div", bounded(net, u), number(net, 6.0)), u)


def multiplied_behind(net, u):
    return net.node("Mul", number(net, ALPHA), net.node("Mul", bounded(net, u), u))


GATES = [hard_sigmoid, hard_swish, divided_behind, divided_within, multiplied_behind]


def network(gate, norm=True, opset=14):
    """A Conv, a gate, and layers behind it."""
    net = graphs.Net(opset=opset)
    u = net.conv("x", 8, bias=not norm)
    x = gate(net, net.norm(u) if norm else u)
    net.channels[x] = 8
    return net.model(net.tail(net.block(x, 8)))


def excited(gate):
    """Squeeze-and-excitation: a map times a gate of its own means."""
    net = graphs.Net()
    x = net.block("x", 8)
    inner = net.relu(net.conv(net.node("GlobalAveragePool", x), 4, 1, bias=True))
    x = net.node("Mul", x, gate(net, net.conv(inner, 8, 1, bias=True)))
    return net.model(net.tail(net.block(x, 8)))


def written(model, target="cpu", activations="8"):
    """The graphs before and after, and the result."""
    spaces = [graphs.workspace(model, "8", activations) for _ in range(2)]
    for space in spaces:
        space.settings = Settings(WeightBits.parse("8"), activations, target=parse_target(target))
        PassManager(graphs.pipeline("normalize")).run(space)
    return spaces[0].graph, spaces[1].graph, IntegerGates().run(spaces[1])


def ops(graph):
    return [node.op for node in graph.nodes]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("gate", GATES)
def test_a_tensor_times_its_own_gate_becomes_a_sum_a_bound_and_a_product(gate, norm):
    before, after, result = written(network(gate, norm))
    assert len(result.rewrites) == 1 and not result.refusals
    at = ops(after).index("Add")
    assert ops(after)[at : at + 3] == ["Add", "Clip", "Mul"]
    assert not {"HardSigmoid", "HardSwish", "Div"} & set(ops(after)) and ops(after).count("Mul") == 1
    assert graphs.relative(graphs.run(after), graphs.run(before)) < 1e-5


def test_below_opset_11_gates_stay_since_clip_has_its_bounds_as_attributes():
    """A model with bodies that no converter takes stays in its opset."""
    space = graphs.workspace(network(hard_sigmoid), "8", "8")
    PassManager(graphs.pipeline("normalize")).run(space)
    space.graph.opset, before = 10, ops(space.graph)
    assert not IntegerGates().run(space).rewrites and ops(space.graph) == before


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("alpha", [0.2, 3.0])
def test_any_slope_and_any_offset(alpha, beta):
    before, after, _ = written(network(lambda net, u: hard_sigmoid(net, u, alpha, beta)))
    assert "HardSigmoid" not in ops(after)
    assert graphs.relative(graphs.run(after), graphs.run(before)) < 1e-5


@pytest.mark.parametrize(
    "gate",
    [
        lambda net, u: net.node("HardSigmoid", u, alpha=0.2, beta=0.5),
        lambda net, u: net.node("Div", net.clip(u), number(net, 6.0)),
        lambda net, u: net.node("Div", bounded(net, u), number(net, 6.0)),
    ],
)
def test_a_gate_for_something_else_becomes_the_bound_of_the_layer_in_front(gate):
    before, after, _ = written(excited(gate))
    assert ops(after).count("Clip") == 1 and not {"HardSigmoid", "Add", "Div"} & set(ops(after))
    assert graphs.relative(graphs.run(after), graphs.run(before)) < 1e-5


def test_a_gate_behind_a_gemm():
    net = graphs.Net()
    x = net.gemm(net.node("Flatten", net.node("GlobalAveragePool", net.block("x", 8))), 6, trans_b=0)
    gated = hard_sigmoid(net, x)
    net.channels[gated] = 6
    before, after, _ = written(net.model(net.gemm(gated, 5)))
    assert "HardSigmoid" not in ops(after)
    assert graphs.relative(graphs.run(after), graphs.run(before)) < 1e-5


def read_by_others(net, u):
    return net.node("Add", hard_sigmoid(net, u), u)


def two_gates(net, u):
    return net.node("Add", hard_sigmoid(net, u), net.node("HardSigmoid", u))


def behind_a_sum(net, u):
    return hard_sigmoid(net, net.node("Add", u, net.conv(u, 8)))


@pytest.mark.parametrize(
    ("gate", "why"),
    [
        (read_by_others, "Add 'add1' reads what it reads"),
        (two_gates, "reads what it reads"),
        (behind_a_sum, "Add 'add1' in front of it takes no factor"),
    ],
)
def test_refused_with_the_reason(gate, why):
    before, after, result = written(network(gate))
    assert ops(after) == ops(before) and not result.rewrites
    assert result.refusals and all(refusal.code == "gate-cannot-move" for refusal in result.refusals)
    assert any(why in refusal.reason for refusal in result.refusals)


def test_a_gate_of_the_models_input_or_output_is_refused():
    net = graphs.Net(opset=14)
    net.node("HardSwish", net.conv("x", 8))
    model = net.model("conv1", "hardswish1")
    assert "output of the model reads" in written(model)[2].refusals[0].reason
    net = graphs.Net(opset=14)
    model = net.model(net.tail(net.block(net.node("HardSwish", "x"), 8)))
    assert "an input in front of it" in written(model)[2].refusals[0].reason


@pytest.mark.parametrize(("target", "activations"), [("tensorrt", "8"), ("cpu", "none")])
def test_nothing_is_done_where_nothing_between_layers_computes_in_integers(target, activations):
    before, after, result = written(network(hard_swish), target, activations)
    assert ops(after) == ops(before) and result.notes


@pytest.mark.parametrize("bound", [0.0, float("inf")])
def test_a_bound_that_is_no_gate_stays(bound):
    net = graphs.Net()
    x = net.clip(net.norm(net.conv("x", 8)), bound - 6.0 if bound == 0.0 else 0.0, bound or 6.0)
    before, after, result = written(net.model(net.tail(net.block(x, 8))))
    assert ops(after) == ops(before) and not result.rewrites and not result.refusals


@pytest.mark.parametrize("model", [*(network(gate) for gate in GATES), excited(GATES[0])])
def test_onnxruntime_computes_all_of_it_in_integers(model, tmp_path):
    onnx.save(model, tmp_path / "in.onnx")
    dfmpc_onnx.quantize(str(tmp_path / "in.onnx"), tmp_path / "out.onnx", "int8", preprocess="imagenet", check=False)
    found = {node.op_type for node in graphs.optimized(onnx.load(tmp_path / "out.onnx")).graph.node}
    assert "QLinearMul" in found and not {"Mul", "Add", "Clip", "HardSigmoid", "HardSwish", "Conv"} & found


@settings(max_examples=25, deadline=None)
@given(
    alpha=st.floats(0.01, 10), beta=st.floats(-2, 2), scale=st.floats(0.01, 100), gate=st.sampled_from(["own", "other"])
)
def test_the_function_stays_for_every_gate(alpha, beta, scale, gate):
    def of(net, u):
        return net.node("HardSigmoid", u, alpha=alpha, beta=beta)

    net = graphs.Net()
    u = net.conv("x", 8, weight=scale * net.random.standard_normal((8, 3, 3, 3)))
    x = net.node("Mul", u, of(net, u)) if gate == "own" else net.node("Mul", of(net, u), net.conv("x", 8))
    net.channels[x] = 8
    before, after, result = written(net.model(net.conv(x, 4)))
    assert result.rewrites
    assert graphs.relative(graphs.run(after), graphs.run(before)) < 1e-5
