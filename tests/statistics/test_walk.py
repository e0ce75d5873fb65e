"""What the walk does for every engine: order, liveness, what a visitor returns, and who writes it."""

import contextlib

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from dfmpc_onnx.inputs.spec import resolve
from dfmpc_onnx.numerics.quantized import QuantizedWeight
from dfmpc_onnx.pipeline.facts import Codes
from dfmpc_onnx.statistics.channel_statistics import ChannelStatistics
from dfmpc_onnx.statistics.gaussian_streams import GaussianStreams
from dfmpc_onnx.statistics.image_streams import ImageStreams
from dfmpc_onnx.statistics.walk import BatchNormUpdate, GraphWriter, Live, walk
from tests import graphs
from tests.statistics.test_gaussian_streams import UNIT


class Names:
    """An engine to whom a tensor is its name; it notes what it is asked for and what lived at the time."""

    def __init__(self, graph, kept=()):
        self.live = Live(graph, size=lambda name: 1, kept=kept)
        self.lived, self.asked = {}, []
        for tensor in graph.inputs:
            self.live.put(tensor.name, tensor.name)

    def _ran(self, node, asked):
        self.lived[node.name] = sorted(self.live)
        self.asked.append(asked)
        return node.outputs[0].name

    def guard(self):
        return contextlib.nullcontext()

    def check(self, node):
        self.asked.append(("check", node.name))

    def patch_moments(self, node):
        return f"moments of {node.inputs[0].name}"

    def known(self, tensor):
        return None

    def layer(self, node, weight, weight_hat):
        return self._ran(node, ("layer", node.name, weight_hat is None))

    def shortfall(self, output):
        return None

    def with_bias(self, output, old, new):
        self.asked.append(("bias", output, old is None))
        return output

    def normalizes(self, node):
        return True

    def channel_statistics(self, node, norm):
        return ChannelStatistics(*(np.ones(len(norm.gamma)) for _ in range(4)))

    def affine(self, node, plain, hat):
        return self._ran(node, ("norm", node.name, plain is hat))

    def other(self, node):
        return [self._ran(node, ("other", node.name))]

    def values(self, output):
        return None

    def advance(self, node): ...

    def losses(self):
        return []


class Changes:
    """A visitor that returns what it is given for a node's name; nothing elsewhere."""

    def __init__(self, weights=(), biases=(), norms=()):
        self.weights, self.biases, self.norms = dict(weights), dict(biases), dict(norms)
        self.seen = {}

    def layer(self, node, moments, known):
        self.seen[node.name] = moments()
        return self.weights.get(node.name)

    def after_layer(self, node, shift):
        return self.biases.get(node.name)

    def batch_norm(self, node, norm, statistics):
        return self.norms.get(node.name)

    def observe(self, tensor, values): ...


def codes(shape):
    ones = np.ones((shape[0], 1, 1, 1), np.float32)
    return QuantizedWeight(np.ones(shape, np.int8), ones, 0 * ones, 2)


LAYERS = frozenset({"conv1", "conv2", "conv3", "gemm1"})


def test_a_tensor_lives_until_its_last_reader_has_run():
    space = graphs.workspace(graphs.residual())
    engine = Names(space.graph)
    walk(space.graph, engine, Changes(), LAYERS)
    assert engine.lived["conv1"] == ["x"] and engine.lived["norm1"] == ["conv1"]
    assert engine.lived["norm2"] == ["conv2", "relu1"]  # the shortcut is still read
    assert engine.lived["add1"] == ["norm3", "relu1"] and engine.lived["relu3"] == ["add1"]
    assert not engine.live and engine.live.peak == 3


def test_what_is_compared_at_the_end_lives_until_then():
    space = graphs.workspace(graphs.chain())
    engine = Names(space.graph, kept=space.graph.outputs)
    walk(space.graph, engine, Changes(), LAYERS)
    assert list(engine.live) == ["gemm1"]


def test_a_visitor_is_shown_the_layers_that_were_asked_for():
    space = graphs.workspace(graphs.chain())
    engine, visitor = Names(space.graph), Changes()
    walk(space.graph, engine, visitor, frozenset({"conv2"}))
    assert visitor.seen == {"conv2": "moments of relu1"}
    assert ("other", "conv1") in engine.asked and ("layer", "conv2", True) in engine.asked


def test_what_a_visitor_returns_reaches_the_engine():
    space = graphs.workspace(graphs.own_bias())
    shape = graphs.values(space.graph, "conv2.w").shape
    update = BatchNormUpdate(*(np.full(8, value) for value in (2.0, 0.5, 0.25, 3.0)))
    visitor = Changes({"conv1": None, "conv2": codes(shape)}, {"conv3": np.ones(8, np.float32)}, {"norm2": update})
    engine = Names(space.graph)
    walk(space.graph, engine, visitor, LAYERS)
    assert {("layer", "conv1", True), ("layer", "conv2", False)} < set(engine.asked)
    assert [asked for asked in engine.asked if asked[0] == "bias"] == [("bias", "conv3", False)]
    assert {("norm", "norm1", True), ("norm", "norm2", False)} < set(engine.asked)


def test_a_bias_that_is_returned_unchanged_moves_nothing():
    space = graphs.workspace(graphs.own_bias())
    engine = Names(space.graph)
    same = {"conv2": graphs.values(space.graph, "conv2.b").copy()}
    walk(space.graph, engine, Changes(biases=same), LAYERS)
    assert not [asked for asked in engine.asked if asked[0] == "bias"]


def changes(graph):
    """A new weight, bias, and BatchNormalization for the second block."""
    shape = graphs.values(graph, "conv2.w").shape
    update = BatchNormUpdate(*(np.full(8, value) for value in (2.0, 0.5, 0.25, 3.0)))
    return Changes({"conv2": codes(shape)}, {"conv2": np.arange(8, dtype=np.float32)}, {"norm2": update})


def engines(graph):
    return {
        "images": ImageStreams(graph, {"x": np.random.default_rng(0).random((4, 3, 8, 8), np.float32)}, 0),
        "gaussian": GaussianStreams(graph, resolve(graph, {}, UNIT)),
    }


@pytest.mark.parametrize("engine", ["images", "gaussian"])
def test_without_a_writer_the_graph_stays_as_it_is(engine):
    model = graphs.own_bias()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    space = graphs.workspace(model)
    before = graphs.snapshot(space.graph)
    walk(space.graph, engines(space.graph)[engine], changes(space.graph), LAYERS)
    assert graphs.snapshot(space.graph) == before


@pytest.mark.parametrize("engine", ["images", "gaussian"])
def test_the_quantized_network_goes_on_with_what_was_returned_whether_it_is_written_or_not(engine):
    """Both engines, with and without a writer: the moments behind the changed block are the same."""
    found = []
    for written in (True, False):
        model = graphs.own_bias()
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
        space = graphs.workspace(model)
        visitor = changes(space.graph)
        writer = GraphWriter(space.graph, space.set_weight) if written else None
        walk(space.graph, engines(space.graph)[engine], visitor, LAYERS, writer)
        found.append(visitor.seen["conv3"])
    np.testing.assert_array_equal(found[0].hat, found[1].hat)
    assert not found[0].same


def test_the_writer_puts_codes_bias_and_normalization_into_the_workspace():
    space = graphs.workspace(graphs.own_bias())
    visitor = changes(space.graph)
    walk(space.graph, Names(space.graph), visitor, LAYERS, GraphWriter(space.graph, space.set_weight))
    node = next(node for node in space.graph.nodes if node.name == "conv2")
    assert space.get(Codes).weights == {"conv2": visitor.weights["conv2"]}
    assert np.array_equal(node.inputs[1].values, visitor.weights["conv2"].dequantize())
    assert node.inputs[2].name == "conv2.bias" and node.inputs[2].values.tolist() == list(range(8))
    assert (graphs.values(space.graph, "norm2.mean") == 0.25).all()
    assert (graphs.values(space.graph, "norm2.variance") == 3).all()


def test_what_lives_is_counted_once_and_not_summed_at_every_node():
    """A sum of all that lives at every node would be quadratic where many tensors live to the end."""
    outputs = [gs.Variable(f"y{i}", np.float32, (1, 2)) for i in range(50)]
    x = gs.Variable("x", np.float32, (1, 2))
    nodes = [gs.Node("Relu", f"relu{i}", {}, [x], [y]) for i, y in enumerate(outputs)]
    asked = []
    live = Live(gs.Graph(nodes, [x], outputs), size=lambda name: asked.append(name) or len(name), kept=outputs)
    for node in nodes:
        live.keep(node, [node.outputs[0].name])
        live.forget(node)
    assert asked == [y.name for y in outputs]
    assert live.bytes == live.peak == sum(len(y.name) for y in outputs)
    live.drop("y0")
    assert live.bytes == live.peak - 2
