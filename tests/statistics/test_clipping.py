"""Which nodes may clip in the memory of what they read."""

import numpy as np
import pytest

from dfmpc_onnx.statistics.clipping import OwnTensors, clip_in_place
from tests import graphs


def node_of(kind):
    net = graphs.Net(("n", 3, 8, 8))
    x = net.conv("x", 4)
    y = net.relu(x) if kind == "Relu" else net.clip(x) if kind == "Clip" else net.node(kind, x)
    graph = graphs.workspace(net.model(net.tail(y))).graph
    return next(node for node in graph.nodes if node.op == kind)


def owner(node):
    own = OwnTensors()
    own.add(node.inputs[0].name)
    return own


@pytest.mark.parametrize(("kind", "bounds"), [("Relu", (0.0, np.inf)), ("Clip", (0.0, 6.0)), ("Sigmoid", None)])
def test_only_what_clips_between_constants_has_bounds(kind, bounds):
    node = node_of(kind)
    assert owner(node).bounds(node, 1) == bounds


def test_a_tensor_that_another_reads_or_made_is_left_alone():
    node = node_of("Relu")
    assert owner(node).bounds(node, 2) is None and OwnTensors().bounds(node, 1) is None


@pytest.mark.parametrize("bounds", [(0.0, np.inf), (-0.5, 0.5)])
def test_values_are_clipped_in_their_own_memory(bounds):
    values = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    wanted = np.clip(values, *bounds)
    assert clip_in_place(values, bounds) is values and np.array_equal(values, wanted)
