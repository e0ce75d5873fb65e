"""Sums of two products within 16 bits, in written files and in the pass that has the last word."""

import dataclasses
import pathlib

import numpy as np
import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx.graph.query import nodes_by_name
from dfmpc_onnx.numerics.saturation import MOST_PAIR, neighbours, neighbours_of_conv, pair_sums, saturating_products
from dfmpc_onnx.pipeline.facts import Codes, Layers
from dfmpc_onnx.pipeline.settings import Settings, WeightBits
from dfmpc_onnx.pipeline.targets import parse_target
from dfmpc_onnx.qdq.kernel_pairs import neighbours_of
from dfmpc_passes.limit_pair_sums import LimitPairSums
from tests import graphs
from tests.commands import ROOT, dfmpc

RESNET = ROOT / "models" / "resnet20_cifar10.onnx"

PRODUCTS = {"QLinearMatMul": 3, "MatMulIntegerToFloat": 1}  # and which input are the codes of the weight


def heavy(shape):
    """Weights of which a few reach far, side by side."""
    weight = np.random.default_rng(7).standard_t(5, shape).astype(np.float32)
    weight[0, :2] = np.abs(weight).max()
    return weight / 20


def network():
    net = graphs.Net()
    x = net.relu(net.norm(net.conv(net.block("x", 8), 8, weight=heavy((8, 8, 3, 3)))))
    return net.model(net.tail(net.block(net.block(x, 8, group=8), 6)))


def codes_of(space):
    layers, found = space.get(Layers).by_name(), {}
    for name, weight in space.get(Codes).weights.items():
        beside = neighbours_of(layers[name])
        rows = np.moveaxis(weight.codes, layers[name].axis, 0)
        found[name] = None if beside is None else pair_sums(rows.reshape(len(rows), -1), beside).max()
    return found


def limited(model, recipe="per-channel", **settings):
    """The pass alone, on codes that were made as if no sum were limited."""
    space = graphs.workspace(model, "8")
    space.settings = Settings(WeightBits.parse("8"), "8", target=parse_target("openvino"))
    steps = graphs.pipeline("raise_opset", recipe)
    graphs.PassManager(steps).run(space)
    before = dict(space.get(Codes).weights)
    space.settings = dataclasses.replace(space.settings, **{"target": parse_target("cpu"), **settings})
    return space, before, LimitPairSums().run(space)


@pytest.mark.parametrize("recipe", ["per-channel", "paper"])
def test_before_and_after(recipe):
    space, before, result = limited(network(), recipe)
    after, sums = space.get(Codes).weights, codes_of(space)
    changed = [rewrite.site for rewrite in result.rewrites]
    assert "conv2" in changed and "conv3" not in changed and sums.pop("conv3") is None
    assert max(sums.values()) <= MOST_PAIR
    nodes = nodes_by_name(space.graph)
    for name, weight in after.items():
        assert (weight is before[name]) is (name not in changed)
        if name in changed:
            assert np.array_equal(nodes[name].inputs[1].values, weight.dequantize())
            moved = weight.dequantize() - before[name].dequantize()
            assert np.linalg.norm(moved) < 0.05 * np.linalg.norm(before[name].dequantize())


@pytest.mark.parametrize(
    "settings", [{"target": parse_target("openvino")}, {"activations": "none"}, {"reduce_range": True}], ids=str
)
def test_nothing_is_done_where_no_sum_is_limited(settings):
    space, before, result = limited(network(), **settings)
    assert not result.rewrites and result.notes
    assert all(space.get(Codes).weights[name] is weight for name, weight in before.items())


def test_layers_that_share_codes_go_on_sharing_them():
    net = graphs.Net()
    x = net.block("x", 8)
    shared = net.weight("shared", heavy((8, 8, 3, 3)))
    for _ in range(2):
        x = net.relu(net.node("Conv", x, shared, pads=[1] * 4))
    space, _, result = limited(net.model(net.tail(x)))
    assert {"conv2", "conv3"} <= {rewrite.site for rewrite in result.rewrites}
    weights = space.get(Codes).weights
    assert weights["conv2"] is weights["conv3"]


# Whole files


def integer_layers(path):
    """Codes ``[out, k]`` and neighbours of every layer as onnxruntime's integer kernels get them."""
    model = graphs.optimized(onnx.load(path))
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        attributes = {a.name: a.i for a in node.attribute}
        if node.op_type == "QLinearConv":
            codes = constants[node.input[3]]
            beside = neighbours_of_conv(codes.shape, attributes.get("group", 1))
            if beside is not None:
                yield codes.reshape(len(codes), -1), beside
        elif node.op_type == "QGemm":
            codes = constants[node.input[3]]
            rows = codes if attributes.get("transB") else codes.T
            yield np.ascontiguousarray(rows), neighbours(rows.shape[1], 1)
        elif node.op_type in PRODUCTS:
            rows = constants[node.input[PRODUCTS[node.op_type]]].T
            yield np.ascontiguousarray(rows), neighbours(rows.shape[1], 1)


def cut(path):
    """How many layers the kernels for AVX2 compute otherwise than those with VNNI, of all; on activations that may be.

    Each layer gets 255 where its first outputs have codes of one sign, and values at random.
    """
    rng, wrong, count = np.random.default_rng(0), 0, 0
    for codes, beside in integer_layers(path):
        worst = [np.where(np.sign(codes) == sign, 255, 0)[:16] for sign in (1, -1)]
        activations = np.concatenate([*worst, rng.integers(0, 256, (4, codes.shape[1]))]).astype(np.uint8)
        exact = activations.astype(np.int64) @ codes.T.astype(np.int64)
        wrong += not np.array_equal(saturating_products(activations, codes, beside), exact)
        count += 1
    return wrong, count


@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_no_layer_of_a_written_file_is_cut(tmp_path: pathlib.Path, target: str) -> None:
    out = tmp_path / "out.onnx"
    dfmpc_onnx.quantize(RESNET, out, "int8", target=target, preprocess="imagenet", check=False)
    assert cut(out) == (0, 22)
    found = dfmpc_onnx.inspect(out)
    assert found.metadata["pair_sums"] == "22"
    assert max(layer.pair_sum or 0 for layer in found.quantized_layers) <= MOST_PAIR
    said = " ".join(dfmpc("inspect", out).stdout.split())
    assert "without VNNI) give the same results: 22 layers are rounded so that they do" in said


def test_what_it_would_have_cost(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out.onnx"
    dfmpc_onnx.quantize(RESNET, out, "int8", target="openvino", preprocess="imagenet", check=False)
    wrong, count = cut(out)
    assert wrong > 0.8 * count
    found = dfmpc_onnx.inspect(out)
    assert "pair_sums" not in found.metadata
    assert sum((layer.pair_sum or 0) > MOST_PAIR for layer in found.quantized_layers) >= wrong


def any_network(seed):
    """One to three spatial dimensions, groups, channels odd in number, shared weights, Gemm of both layouts, MatMul."""
    rng = np.random.default_rng(seed)
    dims, channels = int(rng.integers(1, 4)), int(rng.choice([1, 3, 4]))
    net = graphs.Net((1, channels, *[{1: 32, 2: 12, 3: 8}[dims]] * dims))

    def conv(x, out, kernel, group, name=None):
        shape = (out, net.channels[x] // group, *[kernel] * dims)
        values = (rng.standard_t(4, shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        weight = name or net.weight(f"w{len(net.weights)}", values)
        made = net.node("Conv", x, weight, group=group, pads=[kernel // 2] * 2 * dims)
        net.channels[made] = out
        return made

    x = net.relu(net.norm(conv("x", int(rng.choice([12, 15, 24])), 3, 1), gamma=rng.uniform(-1.5, 1.5)))
    for _ in range(2):
        group = int(rng.choice([1, 3, net.channels[x]]))
        x = net.relu(net.norm(conv(x, 2 * group if group > 3 else 24, int(rng.choice([1, 3])), group)))
    shared = net.weight("shared", (rng.standard_t(4, (net.channels[x],) * 2 + (1,) * dims) / 6).astype(np.float32))
    for _ in range(2):
        x = net.relu(conv(x, net.channels[x], 1, 1, shared))
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    square = net.weight("square", (rng.standard_t(3, (net.channels[x],) * 2) / 5).astype(np.float32))
    for trans in (1, 0):
        x = net.relu(net.node("Gemm", x, square, transB=trans))
    return net.model(net.matmul(x, 9))


@pytest.mark.parametrize("seed", range(12))
def test_no_layer_of_any_network_is_cut(tmp_path: pathlib.Path, seed: int) -> None:
    recipe, weights = [("mixed", None), ("closed-form", "2/8"), ("per-channel", "8"), ("paper", "8")][seed % 4]
    target = "cpu" if seed % 3 else "portable"
    made = dfmpc_onnx.quantize(
        any_network(seed), None, recipe, weights=weights, activations="8", target=target, check=False
    ).model
    files = {"packed": made}
    if any(layer.stored_bits < 8 for layer in dfmpc_onnx.inspect(made).quantized_layers):
        files["expanded"] = dfmpc_onnx.expand(made).model
    for name, model in files.items():
        onnx.save(model, tmp_path / name)
        wrong, count = cut(tmp_path / name)
        assert wrong == 0 and count > 0, name
