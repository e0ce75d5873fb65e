import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dfmpc_onnx
from dfmpc_onnx.graph.operators import batch_norm_parameters
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.pipeline.settings import Settings, WeightBits
from dfmpc_onnx.pipeline.targets import parse_target
from dfmpc_passes import EqualizeGates
from tests import graphs

SPREAD = np.array([1, 0.15, 0.2, 0.16, 0.3, 0.25, 0.14, 0.5], np.float32)  # of the deviations of eight channels


def silu(net, u):
    return net.node("Mul", u, net.node("Sigmoid", u))


def hard_swish(net, u):
    return net.node("Mul", net.node("HardSigmoid", u, alpha=1 / 6, beta=0.5), u)


def mish(net, u):
    return net.node("Mul", u, net.node("Tanh", net.node("Softplus", u)))


def argument(net, x="x", spread=SPREAD):
    """A Conv and a BatchNormalization whose channels reach as far as `spread` says."""
    channels = len(spread)
    return net.norm(net.conv(x, channels), gamma=spread, beta=np.zeros(channels, np.float32))


def gated(gate=silu, spread=SPREAD, opset=14):
    net = graphs.Net(opset=opset)
    x = gate(net, argument(net, spread=spread))
    net.channels[x] = len(spread)
    return net, x


def network(gate=silu, spread=SPREAD):
    net, x = gated(gate, spread)
    return net.model(net.tail(net.block(x, 8)))


def excited():
    """A depthwise Conv, and squeeze-and-excitation between the gate and the Conv that takes the factors back."""
    net, x = gated()
    x = silu(net, net.norm(net.conv(x, 8, group=8), gamma=SPREAD, beta=np.zeros(8, np.float32)))
    net.channels[x] = 8
    inner = net.relu(net.conv(net.node("GlobalAveragePool", x), 4, 1, bias=True))
    return net.model(net.tail(net.block(net.node("Mul", net.node("Sigmoid", net.conv(inner, 8, 1, bias=True)), x), 8)))


def joined():
    """The gate's channels behind others of a Concat, and pooled in front of a classifier."""
    net, x = gated()
    other = net.block("x", 3)
    y = net.block(net.concat(other, net.node("MaxPool", x, kernel_shape=[1, 1])), 4)
    net.channels[x] = 8
    return net.model(net.tail(y), net.tail(x))


def equalized(model, target="cpu", activations="8", **options):
    """The graphs before and after, and the result."""
    spaces = [graphs.workspace(model, "8", activations) for _ in range(2)]
    for space in spaces:
        space.settings = Settings(WeightBits.parse("8"), activations, target=parse_target(target))
        PassManager(graphs.pipeline("integer_gates")).run(space)
    return spaces[0].graph, spaces[1].graph, EqualizeGates(EqualizeGates.Options(**options)).run(spaces[1])


def reach(node):
    norm = batch_norm_parameters(node)
    return np.abs(norm.beta) + 8 * np.sqrt(norm.output_variance)


def test_all_channels_of_the_argument_reach_as_far_and_the_function_stays():
    before, after, result = equalized(network())
    norms = [next(n for n in graph.nodes if n.op == "BatchNormalization") for graph in (before, after)]
    assert reach(norms[1]).max() == pytest.approx(reach(norms[0]).max(), rel=1e-5)
    assert reach(norms[1]).min() > 0.95 * reach(norms[0]).max() > 5 * reach(norms[0]).min()
    assert graphs.relative(graphs.run(after), graphs.run(before)) < 1e-5
    (rewrite,) = result.rewrites
    assert rewrite.figures["spread"] == pytest.approx(1 / 0.14, rel=0.05) and rewrite.figures["noise_left"] < 0.3


def test_the_gate_reads_the_argument_as_it_was_by_a_product_that_codes_hold():
    _, after, _ = equalized(network())
    norm = next(n for n in after.nodes if n.op == "BatchNormalization")
    back = next(n for n in norm.outputs[0].outputs if n.outputs[0].outputs[0].op == "Sigmoid")
    assert back.op == "Mul"
    steps = 255 * back.inputs[1].values.astype(np.float64)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
    assert back.inputs[1].values.shape == (8, 1, 1) and steps.max() == pytest.approx(255)


@pytest.mark.parametrize("gate", [silu, mish])
def test_every_smooth_gate(gate):
    before, after, result = equalized(network(gate))
    assert len(result.rewrites) == 1 and not result.refusals
    assert graphs.relative(graphs.run(after), graphs.run(before)) < 1e-5


@pytest.mark.parametrize(("model", "gates"), [(excited(), 2), (joined(), 1)])
def test_through_depthwise_convs_excitation_pooling_and_joins(model, gates):
    before, after, result = equalized(model)
    assert len(result.rewrites) == gates and not result.refusals
    assert graphs.relative(graphs.run(after), graphs.run(before)) < 1e-5


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("side", [1, 8])
def test_a_gemm_behind_a_flatten_takes_it_back(trans_b, side):
    net, x = gated()
    x = net.node("GlobalAveragePool", x) if side == 1 else x
    flat = net.node("Flatten", x)
    net.channels[flat] = 8 * side * side
    before, after, result = equalized(net.model(net.gemm(flat, 5, trans_b=trans_b)))
    assert len(result.rewrites) == 1
    assert graphs.relative(graphs.run(after), graphs.run(before)) < 1e-5


def test_a_gate_whose_channels_reach_alike_stays():
    before, after, result = equalized(network(spread=np.linspace(0.8, 1, 8, dtype=np.float32)))
    assert not result.rewrites and not result.refusals and graphs.ops(after) == graphs.ops(before)
    assert equalized(network(spread=np.linspace(0.8, 1, 8, dtype=np.float32)), remains=1.0)[2].rewrites


def test_a_hard_gate_stays():
    before, after, result = equalized(network(hard_swish))
    assert not result.rewrites and not result.refusals and graphs.ops(after) == graphs.ops(before)


def read_by_others():
    net = graphs.Net()
    u = argument(net)
    x = net.node("Add", silu(net, u), u)
    return net.model(net.tail(net.block(x, 8)))


def added_behind():
    net, x = gated()
    return net.model(net.tail(net.block(net.node("Add", x, net.conv(x, 8)), 8)))


def squared():
    net, x = gated()
    return net.model(net.tail(net.block(net.node("Mul", x, net.node("MaxPool", x, kernel_shape=[1, 1])), 8)))


def given_out():
    net, x = gated()
    return net.model(net.tail(net.block(x, 8)), x)


def shared_behind():
    net, x = gated()
    y = net.conv(x, 8)
    again = net.node("Conv", net.relu(y), net.nodes[-2].input[1], pads=[1, 1, 1, 1])
    net.channels[again] = 8
    return net.model(net.tail(again))


def without_norm():
    net = graphs.Net()
    x = silu(net, net.conv("x", 8, bias=True))
    net.channels[x] = 8
    return net.model(net.tail(net.block(x, 8)))


@pytest.mark.parametrize(
    ("model", "why", "code"),
    [
        (read_by_others(), "reads what it reads", "gate-not-equalized"),
        (added_behind(), "Add 'add1' reads it", "gate-not-equalized"),
        (squared(), "multiplied by itself", "gate-not-equalized"),
        (given_out(), "the output of the model reads it", "gate-not-equalized"),
        (shared_behind(), "takes no factor", "gate-not-equalized"),
        (without_norm(), "no BatchNormalization", "moments-unknown"),
    ],
)
def test_refused_with_the_reason(model, why, code):
    before, after, result = equalized(model)
    assert graphs.ops(after) == graphs.ops(before) and not result.rewrites
    (refusal,) = result.refusals
    assert why in refusal.reason and refusal.code == code


@pytest.mark.parametrize(("target", "activations"), [("tensorrt", "8"), ("cpu", "none")])
def test_nothing_is_done_where_nothing_between_layers_computes_in_integers(target, activations):
    before, after, result = equalized(network(), target, activations)
    assert graphs.ops(after) == graphs.ops(before) and result.notes and not result.rewrites


def noise(model, recipe, tmp_path):
    """Of the quantized network's outputs, relative to them; and the kernels that onnxruntime takes."""
    onnx.save(model, tmp_path / "in.onnx")
    dfmpc_onnx.quantize(str(tmp_path / "in.onnx"), tmp_path / "out.onnx", recipe, preprocess="imagenet", check=False)
    made = onnx.load(tmp_path / "out.onnx")
    x = np.random.default_rng(3).standard_normal((16, 3, 8, 8)).astype(np.float32)
    pairs = [(graphs.run(made, x[i : i + 1])[0], graphs.run(model, x[i : i + 1])[0]) for i in range(len(x))]
    got, want = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return float(np.square(got - want).mean()), {node.op_type for node in graphs.optimized(made).graph.node}


def test_rounding_costs_less_and_all_of_it_is_computed_in_integers(tmp_path):
    # What the faint channels hold counts as much as the rest: the layer behind has larger weights for them.
    net, x = gated()
    weight = net.random.standard_normal((8, 8, 3, 3)) / SPREAD[:, None, None]
    model = net.model(net.tail(net.norm(net.conv(x, 8, weight=weight.astype(np.float32)))))
    without = tmp_path / "without.toml"
    without.write_text('extends = "int8"\nsummary = "as it is"\nwithout = ["equalize_gates"]\n')
    (less, kernels), (more, _) = (noise(model, recipe, tmp_path) for recipe in ("int8", str(without)))
    assert less < 0.75 * more
    assert "QLinearMul" in kernels and not {"Mul", "Add", "Clip", "Sigmoid", "HardSigmoid", "Conv"} & kernels


@settings(max_examples=20, deadline=None)
@given(
    spread=st.lists(st.floats(0, 100, width=32), min_size=2, max_size=6),
    gate=st.sampled_from([silu, mish]),
)
def test_the_function_stays_for_any_reach(spread, gate):
    before, after, result = equalized(network(gate, np.array(spread, np.float32)), remains=1.0)
    assert len(result.rewrites) == 1
    assert graphs.relative(graphs.run(after), graphs.run(before)) < 1e-5
