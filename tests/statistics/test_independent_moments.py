"""Each rule against a simulation: independent Gaussian channels go through the operator in onnxruntime."""

import numpy as np
import pytest

from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.inputs.spec import resolve
from dfmpc_onnx.statistics.independent_moments import input_moments, propagate
from tests import graphs

CHANNELS, SIZE = 4, 96
UNIT = Preprocess.parse("127.5/1")


def propagated(graph, preprocess=UNIT):
    return propagate(graph, resolve(graph, {}, preprocess))


def gaussian(opset=13):
    """A net whose tensor norm1 is N(beta, gamma^2) in each channel, independent at each pixel."""
    net = graphs.Net((1, CHANNELS, SIZE, SIZE), opset)
    net.norm("x", gamma=[0.5, 1.0, -2.0, 0.3], beta=[0.4, -1.0, 1.5, 2.0], mean=0, variance=1)
    return net


def simulated(net, y, axes=(0, 2, 3)):
    """Known moments of y, and those measured."""
    model = net.model(y)
    x = np.random.default_rng(7).standard_normal((1, CHANNELS, SIZE, SIZE)).astype(np.float32)
    known, unknown = propagated(graphs.workspace(model).graph)
    assert y not in unknown, unknown[y]
    out = graphs.run(model, x)[0].astype(np.float64)
    return known[y], out.mean(axes), out.var(axes), out.min(), out.max()


def agrees(net, y, tolerance=0.05, **options):
    moments, mean, variance, low, high = simulated(net, y, **options)
    spread = np.sqrt(variance) + 1e-9
    assert np.all(np.abs(moments.mean - mean) < tolerance * spread + 1e-6)
    assert np.allclose(np.sqrt(moments.variance), spread, rtol=tolerance, atol=5e-3)
    assert moments.low.min() <= low + 1e-5 and high - 1e-5 <= moments.high.max()


ELEMENTWISE = {
    "Relu": {},
    "LeakyRelu": {"alpha": 0.1},
    "Sigmoid": {},
    "Tanh": {},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "HardSwish": {},
    "Elu": {},
    "Softplus": {},
    "Identity": {},
}


@pytest.mark.parametrize("op", ELEMENTWISE)
def test_elementwise_operators(op):
    net = gaussian(14)
    agrees(net, net.node(op, "norm1", **ELEMENTWISE[op]))


def test_behind_batch_norm_the_bounds_of_its_input_hold():
    net = graphs.Net((1, CHANNELS, SIZE, SIZE))
    gamma, beta, mean = np.array([0.5, 1.0, -2.0, 0.0]), np.array([0.4, -1.0, 1.5, 2.0]), 0.25
    y = net.norm(
        net.relu(net.conv("x", CHANNELS)),
        gamma=gamma,
        beta=beta,
        mean=mean,
        variance=1,
    )
    known, _ = propagated(graphs.workspace(net.model(y)).graph)
    at_zero = beta - gamma * mean / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(known[y].low, [at_zero[0], at_zero[1], -np.inf, 2.0])
    np.testing.assert_allclose(known[y].high, [np.inf, np.inf, at_zero[2], 2.0])


def test_gelu():
    net = gaussian(20)
    agrees(net, net.node("Gelu", "norm1"))


@pytest.mark.parametrize(("low", "high"), [(0, 6), (-1, 1), (0.5, 2)])
def test_clip(low, high):
    net = gaussian()
    agrees(net, net.clip("norm1", low, high))


def test_prelu_with_a_slope_a_channel():
    net = gaussian()
    slope = net.weight("slope", np.array([0.1, 0.5, -0.2, 0], np.float32).reshape(-1, 1, 1))
    agrees(net, net.node("PRelu", "norm1", slope))


@pytest.mark.parametrize(("group", "kernel"), [(1, 1), (1, 3), (2, 3), (4, 3)])
def test_conv_over_independent_channels_and_pixels(group, kernel):
    net = gaussian()
    net.channels["norm1"] = CHANNELS
    name = net.conv("norm1", 8, kernel, group, bias=True)
    net.nodes[-1].attribute[[a.name for a in net.nodes[-1].attribute].index("pads")].ints[:] = [0] * 4
    agrees(net, name, tolerance=0.08)


def test_batch_norm_is_exact_whatever_comes_in():
    net = gaussian()
    x = net.norm(net.node("Erf", "norm1"), gamma=[1, 2, 3, 4], beta=[5, 6, 7, 8])
    known, unknown = propagated(graphs.workspace(net.model(x)).graph)
    assert "erf1" in unknown
    assert np.allclose(known[x].mean, [5, 6, 7, 8])
    assert np.allclose(known[x].variance, [1, 4, 9, 16], rtol=1e-4)


def test_a_channel_that_never_varied_has_no_variance():
    net = gaussian()
    x = net.norm("norm1", gamma=1, variance=[0, 1, 1, 1])
    known, _ = propagated(graphs.workspace(net.model(x)).graph)
    assert known[x].variance[0] == 0 and known[x].variance[1] > 0.99


def two(net):
    """A second tensor, independent of norm1: the same noise shifted by some pixels."""
    size = SIZE - 8
    shifted = []
    for start in ((0, 0), (8, 8)):
        bounds = [
            net.weight(f"{start}.{i}", np.array(v))
            for i, v in enumerate((start, [s + size for s in start], [2, 3]))
        ]  # fmt: skip
        shifted.append(net.node("Slice", "norm1", *bounds))
    return shifted


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul"])
def test_two_independent_tensors(op):
    net = gaussian()
    a, b = two(net)
    agrees(net, net.node(op, a, net.relu(b)))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("shape", [(), (CHANNELS, 1, 1), (1, CHANNELS, 1, 1)])
def test_a_constant_operand(op, shape):
    net = gaussian()
    values = np.broadcast_to(np.float32(2.5), shape) if not shape else np.array([1, -2, 3, 0.5], np.float32)
    agrees(net, net.node(op, "norm1", net.weight("k", values.astype(np.float32).reshape(shape))))


def test_a_constant_that_varies_within_a_channel_is_unknown():
    net = gaussian()
    y = net.node("Add", "norm1", net.weight("k", np.arange(SIZE * 4, dtype=np.float32).reshape(1, 4, 1, SIZE)))
    assert "varies within a channel" in propagated(graphs.workspace(net.model(y)).graph)[1][y]


@pytest.mark.parametrize("op", ["Add", "Mul", "PRelu"])
def test_shapes_are_aligned_at_their_ends(op):
    """As many values as channels along the width are none a channel, and a bias of a matrix has one a column."""
    net = graphs.Net((1, 4, 4, 4))
    y = net.node(op, net.norm("x"), net.weight("k", np.arange(4, dtype=np.float32)))
    assert "varies within a channel" in propagated(graphs.workspace(net.model(y)).graph)[1][y]
    net = graphs.Net((1, 4))
    rows = net.node("Add", net.matmul("x", 3), net.weight("k", np.array([[5.0, -5.0, 0.0]], np.float32)))
    same = net.node("Add", net.matmul("x", 3), net.weight("l", np.array([5.0, -5.0, 0.0], np.float32)))
    known, _ = propagated(graphs.workspace(net.model(rows, same)).graph)
    bare = known["matmul1"].mean, known["matmul2"].mean
    assert np.allclose(known[rows].mean - bare[0], [5, -5, 0]) and np.allclose(known[same].mean - bare[1], [5, -5, 0])


def test_a_constant_beside_a_tensor_of_unknown_rank_is_unknown_unless_it_is_one_number():
    net = graphs.Net((1, 4, 4, 4))
    one = net.node("Add", net.norm("x"), net.weight("k", np.array([2.0], np.float32)))
    four = net.node("Add", "norm1", net.weight("l", np.arange(4, dtype=np.float32).reshape(4, 1, 1)))
    graph = graphs.workspace(net.model(one, four)).graph
    for tensor in graph.tensors().values():
        if isinstance(tensor, graphs.gs.Variable) and tensor not in graph.inputs:
            tensor.shape = None
    known, unknown = propagated(graph)
    assert one in known and "aligned" in unknown[four]


def test_concat_pad_and_slice_of_channels():
    net = gaussian()
    joined = net.node("Concat", "norm1", net.relu("norm1"), axis=1)
    agrees(net, joined)
    agrees(net, net.node("Concat", "norm1", "relu1", axis=-3))
    bounds = [net.weight(f"s{i}", np.array([v])) for i, v in enumerate((1, 7, 1, 2))]
    agrees(net, net.node("Slice", joined, *bounds))
    pads, three = net.weight("pads", np.array([0, 1, 0, 0, 0, 2, 0, 0])), net.weight("three", np.float32(3))
    agrees(net, net.node("Pad", "norm1", pads, three))


def test_flatten_and_gemm():
    net = graphs.Net((4096, CHANNELS, 1, 1))
    net.norm("x", gamma=[0.5, 1.0, -2.0, 0.3], beta=[0.4, -1.0, 1.5, 2.0], mean=0, variance=1)
    y = net.gemm(net.node("Flatten", "norm1"), 6)
    model = net.model(y)
    x = np.random.default_rng(7).standard_normal((4096, CHANNELS, 1, 1)).astype(np.float32)
    out = graphs.run(model, x)[0]
    known = propagated(graphs.workspace(model).graph)[0][y]
    assert np.allclose(known.mean, out.mean(0), atol=0.1)
    assert np.allclose(known.variance, out.var(0), rtol=0.15)


def test_a_matrix_along_the_width_of_a_map_or_without_columns_is_unknown():
    net = gaussian()
    wide = net.node("MatMul", "norm1", net.weight("w", np.ones((SIZE, CHANNELS), np.float32)))
    flat = net.node("Flatten", net.node("GlobalAveragePool", "norm1"))
    none = net.node("MatMul", flat, net.weight("none", np.zeros((CHANNELS, 0), np.float32)))
    unknown = propagated(graphs.workspace(net.model(wide, none)).graph)[1]
    assert "along the width of a map" in unknown[wide]
    assert "its input's channels are not known" in unknown[none]


def test_a_constant_of_infinity_is_unknown():
    net = gaussian()
    y = net.node("Add", "norm1", net.weight("k", np.array([np.inf, 0, 0, 0], np.float32).reshape(4, 1, 1)))
    assert "holds NaN or infinity" in propagated(graphs.workspace(net.model(y)).graph)[1][y]


def test_pooling_bounds_hold():
    net = gaussian()
    moments, *_, low, high = simulated(net, net.node("MaxPool", net.relu("norm1"), kernel_shape=[2, 2]))
    assert moments.low.min() <= low and high <= moments.high.max()


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "said"),
    [
        ("Erf", [], {}, "no rule for this operator"),
        ("ReduceMean", [], {"axes": [1]}, "averages over other axes"),
        ("Concat", ["norm1"], {"axis": 2}, "joins along another axis"),
        ("Elu", [], {"alpha": 0.5}, "its alpha is not 1"),
        ("Transpose", [], {"perm": [0, 2, 3, 1]}, "no rule for this operator"),
        ("Flatten", [], {"axis": 3}, "it does not make one row of each image"),
    ],
)
def test_what_does_not_follow_is_unknown_with_its_reason_and_so_is_what_stands_behind(op, inputs, attributes, said):
    net = gaussian()
    y = net.node(op, "norm1", *inputs, **attributes)
    z = net.relu(y)
    known, unknown = propagated(graphs.workspace(net.model(z)).graph)
    assert said in unknown[y]
    assert "the moments of its input are not known" in unknown[z]
    assert y not in known and z not in known


def test_operators_of_other_domains_have_no_rule():
    net = gaussian()
    y = net.node("Gelu", "norm1", domain="com.microsoft")
    assert "no rule" in propagated(graphs.workspace(net.model(y)).graph)[1][y]


def test_an_input_has_the_moments_of_photographs_after_the_preprocess():
    net = graphs.Net()
    graph = graphs.workspace(net.model(net.conv("x", 4))).graph
    known = propagated(graph, Preprocess.parse("imagenet"))[0]["x"]
    assert np.allclose(known.mean, 0, atol=1e-5) and np.allclose(known.variance, 1, atol=1e-5)


def silu(net, x):
    return net.node("Mul", x, net.node("Sigmoid", x))


def hard_swish(net, x):
    three, sixth = net.weight("three", np.float32(3)), net.weight("sixth", np.float32(1 / 6))
    gate = net.node(
        "Clip", net.node("Add", x, three), net.weight("zero", np.float32(0)), net.weight("six", np.float32(6))
    )
    return net.node("Mul", net.node("Mul", gate, sixth), x)


FUNCTIONS_OF_ONE = {
    "SiLU": silu,
    "HardSwish of nodes": hard_swish,
    "Mish": lambda net, x: net.node("Mul", x, net.node("Tanh", net.node("Softplus", x))),
    "square": lambda net, x: net.node("Mul", x, x),
    "cube": lambda net, x: net.node("Mul", net.node("Mul", x, x), x),
    "of a Relu": lambda net, x: silu(net, net.node("Relu", x)),
    "sum": lambda net, x: net.node("Add", x, net.node("Relu", x)),
    "difference": lambda net, x: net.node("Sub", net.node("Relu", x), x),
    "nothing": lambda net, x: net.node("Sub", x, x),
}


@pytest.mark.parametrize("name", FUNCTIONS_OF_ONE)
def test_functions_of_one_tensor_are_not_taken_as_independent(name):
    net = gaussian()
    agrees(net, FUNCTIONS_OF_ONE[name](net, "norm1"), tolerance=0.06)


def test_the_bounds_of_a_function_of_one_tensor():
    net = gaussian()
    y = silu(net, net.conv("norm1", 3))
    known, _ = propagated(graphs.workspace(net.model(y)).graph)
    assert np.allclose(known[y].low, -0.2785, atol=1e-3) and np.isinf(known[y].high).all()


def test_a_product_of_maps_of_other_channels_keeps_its_rule():
    """A gate of one channel for all is no function of one tensor, entry by entry."""
    net = gaussian()
    gate = net.node("Sigmoid", net.conv("norm1", 1))
    y = net.node("Mul", "norm1", gate)
    known, _ = propagated(graphs.workspace(net.model(y)).graph)
    assert len(known[y].mean) == CHANNELS


def test_rows_of_an_input_with_channels_last_have_all_colours():
    """The second dimension of ``[n, rows, columns, 3]`` is the rows, and each has what the colours have."""
    net = graphs.Net((1, 8, 8, 3))
    spec = resolve(net.model(net.relu("x")), {}, Preprocess.parse("imagenet"))["x"]
    found = input_moments(spec)
    mean, variance = spec.preprocess.moments(3)
    low, high = spec.preprocess.bounds(3)
    assert found.mean.shape == (8,) and set(found.low) == {low.min()} and set(found.high) == {high.max()}
    np.testing.assert_allclose(found.mean, mean.mean())
    np.testing.assert_allclose(found.variance, np.mean(variance + mean**2) - mean.mean() ** 2)
