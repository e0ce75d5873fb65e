"""What Convs read is moved until the BatchNormalizations behind see what they saw in training."""

import pathlib

import numpy as np
import onnx.helper as oh
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper

import dfmpc_onnx
from dfmpc_onnx.graph.exchange import to_graph
from dfmpc_onnx.model.source import load
from dfmpc_onnx.runtime.node_runner import NodeRunner
from dfmpc_onnx.statistics.recoloured_streams import READ, RecolouredStreams, norm_behind, transpose_of, without_bias

MODELS = pathlib.Path(__file__).resolve().parents[2] / "models"


def network(std, rng):
    """Conv, Relu, Conv, BatchNormalization, whose deviations in training were `std` times those of a normal input."""
    first, second = rng.normal(size=(4, 3, 1, 1)), rng.normal(size=(6, 4, 3, 3)) / 6
    norm = {"g": np.ones(6), "b": np.zeros(6), "m": np.zeros(6), "v": np.full(6, std**2)}
    tensors = {"w1": first, "w2": second, **norm}
    nodes = [
        oh.make_node("Conv", ["x", "w1"], ["a"], "first"),
        oh.make_node("Relu", ["a"], ["r"], "relu"),
        oh.make_node("Conv", ["r", "w2"], ["c"], "second", pads=[1, 1, 1, 1]),
        oh.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["y"], "norm"),
    ]
    graph = oh.make_graph(
        nodes,
        "net",
        [oh.make_tensor_value_info("x", 1, ["n", 3, 8, 8])],
        [oh.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in tensors.items()],
    )
    return to_graph(load(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 13)], ir_version=8)))


def advanced(graph, images):
    x = np.random.default_rng(1).normal(size=(images, 3, 8, 8)).astype(np.float32)
    engine = RecolouredStreams(graph, {"x": x}, 0)
    for node in graph.nodes[:2]:
        (value,) = engine.other(node)
        engine.live.keep(node, [value])
        if node.op == "Relu":
            before = value.plain
        engine.advance(node)
    return engine, before


def test_deviations_come_next_to_those_of_training_and_what_was_rectified_stays_so():
    engine, before = advanced(network(1.5, np.random.default_rng(0)), 32)
    was, now = engine.moved["second"]
    moved = engine.live["r"].plain
    assert now < 0.7 * was
    assert moved.min() >= 0 and moved.max() <= before.max() and not np.array_equal(moved, before)


def test_few_images_and_right_ones_stay_as_they_are():
    graph = network(1.5, np.random.default_rng(0))
    engine, before = advanced(graph, 8)
    assert not engine.moved and np.array_equal(engine.live["r"].plain, before)


@pytest.mark.parametrize(
    ("stride", "group", "kernel", "size"), [(1, 1, 3, 8), (2, 4, 3, 9), (2, 1, 1, 8), (3, 2, 5, 11)]
)
def test_the_transpose_of_a_conv_is_its_transpose(stride, group, kernel, size):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(8, 4 // group, kernel, kernel)).astype(np.float32)
    attrs = {"strides": [stride] * 2, "group": group, "pads": [kernel // 2] * 4, "kernel_shape": [kernel] * 2}
    node = gs.Node("Conv", "c", attrs, [gs.Variable("x"), gs.Constant("w", weight)], [gs.Variable("y")])
    x, graph = rng.normal(size=(2, 4, size, size)).astype(np.float32), gs.Graph(opset=13)
    (y,) = NodeRunner(graph, without_bias(node))({READ: x})
    g = rng.normal(size=y.shape).astype(np.float32)
    (back,) = NodeRunner(graph, transpose_of(node, x.shape[2:]))({READ: g})
    np.testing.assert_allclose(np.vdot(y, g), np.vdot(x, back), rtol=1e-3, atol=1e-2)


def test_a_conv_without_a_normalization_is_not_asked():
    graph = network(1.0, np.random.default_rng(0))
    first, second = (next(n for n in graph.nodes if n.name == name) for name in ("first", "second"))
    assert norm_behind(graph, first) is None
    assert norm_behind(graph, second) is not None


@pytest.mark.parametrize(("weights", "moved"), [("2/6", True), ("8", False)])
def test_inputs_are_moved_where_few_bits_are_asked_for(weights, moved):
    made = dfmpc_onnx.quantize(MODELS / "resnet20_cifar10.onnx", None, weights=weights, activations="none", check=False)
    assert any("moved to what BatchNormalizations measured" in str(step) for step in made.report.passes) == moved
