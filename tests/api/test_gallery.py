"""The patterns of docs/patterns.md, each in a small network: what is quantized, and that it still computes it."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest

import dfmpc_onnx
from tests import graphs
from tests.graphs import Net

BATCH = ("n", 8, 16, 16)


def _net(shape: tuple[int | str, ...] = BATCH, opset: int = 14) -> Net:
    return Net(shape, opset)


def _between(activate: Callable[[Net, str], str], opset: int = 14) -> onnx.ModelProto:
    """Conv-BN, an activation, Conv-BN-Relu and a classifier."""
    net = _net(opset=opset)
    y = activate(net, net.norm(net.conv("x", 8)))
    return net.model(net.tail(net.block(y, 8)))


def _leaky(net: Net, x: str) -> str:
    return net.node("LeakyRelu", x, alpha=0.1)


def _prelu(net: Net, x: str) -> str:
    return net.node("PRelu", x, net.weight("slope", np.linspace(0, 0.5, 8, dtype=np.float32).reshape(8, 1, 1)))


def _hard_swish(net: Net, x: str) -> str:
    return net.node("HardSwish", x)


def _silu(net: Net, x: str) -> str:
    return net.node("Mul", x, net.node("Sigmoid", x))


def _gate(net: Net, x: str) -> str:
    return net.node("Mul", x, net.node("HardSigmoid", x))


def squeeze_and_excitation() -> onnx.ModelProto:
    net = _net()
    x = net.block("x", 8)
    squeezed = net.node("Relu", net.conv(net.node("GlobalAveragePool", x), 4, 1, bias=True))
    gate = net.node("Sigmoid", net.conv(squeezed, 8, 1, bias=True))
    return net.model(net.tail(net.block(net.node("Mul", x, gate), 8)))


def dense_block() -> onnx.ModelProto:
    """DenseNet: every Conv's output is read by all later layers."""
    net = _net()
    x = net.conv("x", 8)
    for _ in range(2):
        x = net.concat(x, net.conv(net.relu(net.norm(x)), 4))
    return net.model(net.tail(net.relu(net.norm(x))))


def dense_bottlenecks() -> onnx.ModelProto:
    """DenseNet-BC: a 1x1 in front of each 3x3, and a transition between two blocks."""
    net = _net()
    x = net.dense(net.dense(net.conv("x", 8), 16, 8), 16, 8)
    x = net.node("AveragePool", net.conv(net.relu(net.norm(x)), 8, 1), kernel_shape=[2, 2], strides=[2, 2])
    x = net.dense(net.dense(x, 16, 8), 16, 8)
    return net.model(net.tail(net.relu(net.norm(x))))


def pre_activation() -> onnx.ModelProto:
    net = _net()
    x = net.conv("x", 8)
    inner = net.conv(net.relu(net.norm(x)), 8)
    inner = net.conv(net.relu(net.norm(inner)), 8)
    return net.model(net.tail(net.relu(net.norm(net.node("Add", inner, x)))))


def transposed(group: int = 1) -> onnx.ModelProto:
    net = _net()
    x = net.block("x", 8)
    weight = net.weight("up.w", net.random.standard_normal((8, 8 // group, 2, 2)).astype(np.float32) / 4)
    up = net.node("ConvTranspose", x, weight, strides=[2, 2], group=group)
    return net.model(net.tail(net.block(up, 8)))


def resized() -> onnx.ModelProto:
    net = _net()
    scales = net.weight("scales", np.array([1, 1, 2, 2], np.float32))
    up = net.node("Resize", net.block("x", 8), "", scales, mode="nearest")
    net.channels[up] = 8
    return net.model(net.tail(net.block(up, 8)))


def convolution(dimensions: int) -> onnx.ModelProto:
    """Two layers over a sequence, or over a volume."""
    net = _net(("n", 4, *(8,) * dimensions))
    y = "x"
    for fan in (4, 8):
        weight = net.random.standard_normal((8, fan, *(3,) * dimensions)) / np.sqrt(fan * 3**dimensions)
        y = net.weight(f"w{fan}", weight.astype(np.float32)) and net.node(
            "Conv", y, f"w{fan}", pads=[1] * 2 * dimensions
        )
        net.channels[y] = 8
        y = net.relu(net.norm(y))
    return net.model(net.tail(y))


def moved() -> onnx.ModelProto:
    """Pad, Transpose there and back, Reshape in front of the classifier."""
    net = _net(("n", 8, 8, 8))
    padded = net.node("Pad", net.block("x", 8), net.weight("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)))
    turned = net.node("Transpose", net.node("Transpose", padded, perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2])
    pooled = net.node("GlobalAveragePool", net.block(turned, 8))
    return net.model(net.gemm(net.node("Reshape", pooled, net.weight("shape", np.array([0, 8], np.int64))), 5))


def channels_last() -> onnx.ModelProto:
    """As converters from TensorFlow write it: a Transpose at the input, and one at the output."""
    net = Net(("n", 16, 16, 3), 14)
    x = net.node("Transpose", "x", perm=[0, 3, 1, 2])
    net.channels[x] = 3
    y = net.block(net.block(x, 8), 8)
    return net.model(net.node("Transpose", net.conv(y, 4), perm=[0, 2, 3, 1]))


def shared_weight() -> onnx.ModelProto:
    net = _net()
    x = net.block("x", 8)
    first = net.relu(net.norm(net.conv(x, 8)))
    again = net.node("Conv", first, "conv2.w", pads=[1] * 4)
    return net.model(net.tail(net.relu(net.norm(again))))


GALLERY: dict[str, tuple[Callable[[], onnx.ModelProto], set[str]]] = {
    "LeakyRelu": (lambda: _between(_leaky), set()),
    "PRelu": (lambda: _between(_prelu), set()),
    "HardSwish": (lambda: _between(_hard_swish), set()),
    "SiLU": (lambda: _between(_silu), set()),
    "HardSigmoid gate": (lambda: _between(_gate), set()),
    "squeeze and excitation": (squeeze_and_excitation, set()),
    "DenseNet": (dense_block, set()),
    "DenseNet-BC": (dense_bottlenecks, set()),
    "pre-activation ResNet": (pre_activation, set()),
    "Conv-Relu-BN": (graphs.activation_first, set()),
    "ConvTranspose": (transposed, set()),
    "depthwise ConvTranspose": (lambda: transposed(8), set()),
    "grouped ConvTranspose": (lambda: transposed(2), {"ConvTranspose"}),
    "Resize": (resized, set()),
    "Conv1D": (lambda: convolution(1), set()),
    "Conv3D": (lambda: convolution(3), set()),
    "Pad, Transpose, Reshape": (moved, set()),
    "channels last": (channels_last, set()),
    "shared weight": (shared_weight, set()),
    "MatMul": (graphs.matmul_tail, set()),
}


@pytest.mark.parametrize("recipe", ["mixed", "int8", "closed-form"])
@pytest.mark.parametrize("name", GALLERY)
def test_what_the_gallery_says(name, recipe):
    build, left = GALLERY[name]
    made = dfmpc_onnx.quantize(build(), recipe=recipe, preprocess="unit")
    assert {layer.op for layer in made.report.layers if layer.refused} == left
    assert made.report.fidelity is not None
    assert made.report.fidelity.sqnr_db > (20 if recipe == "int8" else 8)


@pytest.mark.parametrize("name", ["LeakyRelu", "PRelu"])
def test_a_leaky_activation_lets_the_factor_through(name):
    net = _net()
    y = net.block("x", 8)
    y = {"LeakyRelu": _leaky, "PRelu": _prelu}[name](net, net.norm(net.conv(y, 8)))
    made = dfmpc_onnx.quantize(
        net.model(net.tail(net.block(y, 8))), recipe="per-channel", weights="2/6", preprocess="unit"
    )
    assert {layer.name: layer.role for layer in made.report.layers}["conv2"] == "low"


@pytest.mark.parametrize("group", [1, 8])
@pytest.mark.parametrize("recipe", ["mixed", "int8", "closed-form", "per-channel", "paper"])
def test_a_conv_transpose_is_stored_in_codes_and_computes_in_float(recipe, group):
    made = dfmpc_onnx.quantize(transposed(group), recipe=recipe, input_ranges=["x=-4:4"])
    (layer,) = (layer for layer in made.report.layers if layer.op == "ConvTranspose")
    assert layer.bits == (6 if recipe == "paper" else 8)
    assert all(t.data_type != onnx.TensorProto.FLOAT or t.dims != [8, 8 // group, 2, 2] for t in _tensors(made.model))
    ran = graphs.kernels(made.model)
    assert ran["ConvTranspose"] == 1 and not ran["Mul"]
    assert not any(
        node.op_type == "DequantizeLinear" and node.input[0] in {t.name for t in _tensors(graphs.optimized(made.model))}
        for node in graphs.optimized(made.model).graph.node
    )
    if recipe != "paper":
        census = dfmpc_onnx.inspect(made.model).census
        assert census is not None
        # An input of a stated range is finer than bytes, so the layer in front is in float too.
        assert layer.name in census.float_layers["its input is float; integer weights, float arithmetic"]


@pytest.mark.parametrize("group", [1, 8])
def test_a_conv_transpose_can_be_expanded(group):
    made = dfmpc_onnx.quantize(transposed(group), recipe="int8", weights="4", preprocess="unit")
    plain = dfmpc_onnx.expand(made.model)
    x = np.random.default_rng(0).standard_normal((2, 8, 16, 16)).astype(np.float32)
    assert graphs.relative(graphs.run(plain.model, x), graphs.run(made.model, x)) < 0.02


def _tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    return list(model.graph.initializer)


def low_layers(model: onnx.ModelProto, recipe: str = "per-channel") -> set[str]:
    made = dfmpc_onnx.quantize(model, recipe=recipe, weights="2/6", preprocess="unit")
    return {layer.name for layer in made.report.layers if layer.role == "low"}


@pytest.mark.parametrize("recipe", ["mixed", "closed-form", "per-channel", "paper"])
def test_in_a_dense_net_every_3x3_is_low_and_every_1x1_high(recipe):
    assert low_layers(dense_bottlenecks(), recipe) == {"conv3", "conv5", "conv8", "conv10"}


def test_in_a_pre_activation_block_the_first_conv_is_low():
    assert low_layers(pre_activation()) == {"conv2"}
    refused = {layer.name: layer.not_low for layer in dfmpc_onnx.inspect(pre_activation()).layers}
    assert (refused["conv3"] or "").startswith("Add 'add1' follows, not BatchNormalization")


@pytest.mark.parametrize(("recipe", "weights", "doubted"), [("int8", None, False), ("paper", "ternary/2", True)])
def test_a_result_that_lost_much_is_doubted(recipe, weights, doubted):
    made = dfmpc_onnx.quantize(graphs.bottleneck(), recipe=recipe, weights=weights, preprocess="unit")
    assert made.report.fidelity is not None
    assert (made.report.fidelity.sqnr_db < 10) == doubted
    assert any("above their error" in warning for warning in made.report.warnings) == doubted
