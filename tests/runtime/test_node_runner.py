"""One node alone, fed what it needs to know of its inputs' shapes."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from dfmpc_onnx.errors import UserError
from dfmpc_onnx.runtime.node_runner import NodeRunner, NodeSessions

MAP = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
NONE = np.zeros(0, np.float32)


def int64(*values):
    return np.array(values, np.int64)


def runner_of(opset, op, feeds, attributes=None, domain="", fixed=()):
    """A runner of one node that reads every array of `feeds` by its key; None stands for an input left out."""
    inputs = [
        gs.Variable.empty() if x is None else gs.Constant(name, x) if name in fixed else gs.Variable(name)
        for name, x in feeds.items()
    ]
    node = gs.Node(op, "node", attributes or {}, inputs, [gs.Variable("y", np.float32)], domain or None)
    graph = gs.Graph([node], [t for t in inputs if isinstance(t, gs.Variable) and not t.is_empty()], node.outputs)
    graph.opset, graph.import_domains = opset, [onnx.helper.make_opsetid("", opset)]
    graph.ir_version = 8
    return NodeRunner(graph, node), {n: x for n, x in feeds.items() if x is not None and n not in fixed}


def result(*args, **kwargs):
    runner, feeds = runner_of(*args, **kwargs)
    (y,) = runner(feeds)
    return y


LINEAR = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
SIZES, SCALES = int64(1, 1, 8, 8), np.float32([1, 1, 2, 2])


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 18, 19])
def test_a_resize_takes_sizes_that_are_computed(opset):
    feeds = {"x": MAP, "roi": NONE, "scales": NONE, "sizes": SIZES}
    assert result(opset, "Resize", feeds, LINEAR, fixed=("roi", "scales")).shape == (1, 1, 8, 8)
    if opset < 13:  # from then on scales that are no constant may not stand beside sizes
        assert result(opset, "Resize", feeds, LINEAR).shape == (1, 1, 8, 8)
    else:
        assert result(opset, "Resize", {**feeds, "roi": None, "scales": None}, LINEAR).shape == (1, 1, 8, 8)


@pytest.mark.parametrize("opset", [10, 11, 13, 18])
def test_a_resize_takes_scales_that_are_computed(opset):
    feeds = {"x": MAP, "scales": SCALES} if opset == 10 else {"x": MAP, "roi": NONE, "scales": SCALES}
    assert result(opset, "Resize", feeds, {"mode": "linear"}).shape == (1, 1, 8, 8)


def test_one_empty_tensor_stands_for_roi_and_scales():
    x, none, sizes = gs.Variable("x"), gs.Constant("none", NONE), gs.Variable("sizes")
    node = gs.Node("Resize", "node", dict(LINEAR), [x, none, none, sizes], [gs.Variable("y", np.float32)])
    graph = gs.Graph([node], [x, sizes], node.outputs, opset=11)
    graph.ir_version = 8
    (y,) = NodeRunner(graph, node)({"x": MAP, "sizes": SIZES})
    assert y.shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    ("op", "feeds", "attributes", "shape"),
    [
        ("Reshape", {"x": MAP, "shape": int64(1, 16)}, {}, (1, 16)),
        ("Expand", {"x": MAP, "shape": int64(2, 3, 1, 1)}, {}, (2, 3, 4, 4)),
        ("Tile", {"x": MAP, "repeats": int64(1, 2, 1, 1)}, {}, (1, 2, 4, 4)),
        ("Slice", {"x": MAP, "starts": int64(1), "ends": int64(3), "axes": int64(2)}, {}, (1, 1, 2, 4)),
        ("Slice", {"x": MAP, "s": int64(0), "e": int64(4), "a": int64(3), "t": int64(2)}, {}, (1, 1, 4, 2)),
        ("Pad", {"x": MAP, "pads": int64(0, 0, 1, 1, 0, 0, 1, 1), "v": np.array(2, np.float32)}, {}, (1, 1, 6, 6)),
        ("Pad", {"x": MAP, "pads": int64(1, 1), "v": None, "axes": int64(2)}, {}, (1, 1, 6, 4)),
        ("ConstantOfShape", {"shape": int64(2, 3)}, {}, (2, 3)),
        ("ConstantOfShape", {"shape": int64()}, {}, ()),
        ("Range", {"start": np.array(0), "limit": np.array(5), "delta": np.array(2)}, {}, (3,)),
        ("Unsqueeze", {"x": MAP, "axes": int64(0)}, {}, (1, 1, 1, 4, 4)),
        ("Squeeze", {"x": MAP, "axes": int64(0, 1)}, {}, (4, 4)),
        ("ReduceSum", {"x": MAP, "axes": int64(2, 3)}, {"keepdims": 0}, (1, 1)),
        ("ReduceMean", {"x": MAP, "axes": int64(2, 3)}, {"keepdims": 0}, (1, 1)),
        ("Split", {"x": MAP, "split": int64(4)}, {"axis": 2}, (1, 1, 4, 4)),
        ("OneHot", {"i": int64(1, 2), "depth": int64(4), "values": np.float32([0, 1])}, {}, (2, 4)),
        ("CenterCropPad", {"x": MAP, "shape": int64(2, 2)}, {"axes": [2, 3]}, (1, 1, 2, 2)),
        ("AffineGrid", {"theta": np.zeros((1, 2, 3), np.float32), "size": int64(1, 1, 2, 2)}, {}, (1, 2, 2, 2)),
        ("Gather", {"x": MAP, "indices": int64(0, 2)}, {"axis": 3}, (1, 1, 4, 2)),
        ("ScatterND", {"x": np.float32([1, 2, 3]), "i": int64(1).reshape(1, 1), "u": np.float32([9])}, {}, (3,)),
        ("GatherND", {"x": np.float32([1, 2, 3]), "i": int64(1, 2).reshape(2, 1)}, {}, (2,)),
    ],
)
def test_a_node_takes_the_sizes_that_another_computes(op, feeds, attributes, shape):
    assert result(20, op, feeds, attributes).shape == shape


def test_one_session_serves_both_networks_while_shapes_agree(monkeypatch):
    runner, feeds = runner_of(13, "Resize", {"x": MAP, "roi": None, "scales": None, "sizes": SIZES}, LINEAR)
    loads, load = [], NodeRunner._load
    monkeypatch.setattr(NodeRunner, "_load", lambda self, fed: loads.append(1) or load(self, fed))
    assert runner(feeds)[0].shape == (1, 1, 8, 8)
    assert runner({**feeds, "sizes": int64(1, 1, 2, 2)})[0].shape == (1, 1, 2, 2)
    assert loads == [1]


def test_a_selection_may_have_another_length_in_the_other_network():
    runner, feeds = runner_of(13, "Gather", {"x": MAP, "indices": int64(0, 2)}, {"axis": 3})
    assert runner(feeds)[0].shape == (1, 1, 4, 2)
    assert runner({**feeds, "indices": int64(1)})[0].shape == (1, 1, 4, 1)


def same_nodes(count, op="Relu", **attributes):
    """As many nodes in a chain that do the same."""
    tensors = [gs.Variable(f"t{k}", np.float32) for k in range(count + 1)]
    nodes = [gs.Node(op, f"n{k}", dict(attributes), [tensors[k]], [tensors[k + 1]]) for k in range(count)]
    graph = gs.Graph(nodes, tensors[:1], tensors[-1:], opset=17)
    graph.ir_version = 8
    return graph


def loads_of(graph, monkeypatch, x=MAP):
    loads, load = [], NodeRunner._load
    monkeypatch.setattr(NodeRunner, "_load", lambda self, fed: loads.append(1) or load(self, fed))
    sessions = NodeSessions()
    for node in graph.nodes:
        (x,) = sessions.run(graph, node, {node.inputs[0].name: x})
    return len(loads), x


def test_nodes_that_do_the_same_share_a_session(monkeypatch):
    loads, y = loads_of(same_nodes(50), monkeypatch)
    assert loads == 1
    np.testing.assert_array_equal(y, MAP)


def test_nodes_of_other_attributes_do_not(monkeypatch):
    graph = same_nodes(6, "LeakyRelu", alpha=0.5)
    for node, alpha in zip(graph.nodes, (0.5, 0.5, 0.25, 0.5, 0.25, 1.0), strict=True):
        node.attrs["alpha"] = alpha
    loads, y = loads_of(graph, monkeypatch, -np.ones_like(MAP))
    assert loads == 3
    np.testing.assert_allclose(y, -(0.5**3) * 0.25**2 * np.ones_like(MAP))


@pytest.mark.parametrize("op", ["RandomNormalLike", "Bernoulli"])
def test_what_a_run_changes_is_made_anew(monkeypatch, op):
    assert loads_of(same_nodes(3, op, seed=1.0), monkeypatch, np.full_like(MAP, 0.5))[0] == 3


def test_a_session_of_large_tensors_is_not_kept(monkeypatch):
    assert loads_of(same_nodes(3), monkeypatch, np.zeros((1, 1, 1024, 512), np.float32))[0] == 3


def test_an_error_names_the_node_that_was_run():
    graph = same_nodes(2, "Squeeze")
    sessions = NodeSessions()
    sessions.run(graph, graph.nodes[0], {"t0": MAP})
    graph = same_nodes(2, "Reshape")
    for node in graph.nodes:
        node.inputs.append(gs.Constant("shape", int64(4, 4)))
    sessions.run(graph, graph.nodes[0], {"t0": MAP})
    with pytest.raises(UserError, match="'n1'"):
        sessions.run(graph, graph.nodes[1], {"t1": MAP[:, :, :3]})


def layers(weights, op="Conv", **attributes):
    """Layers in a row that read the same tensor."""
    x = gs.Variable("x")
    nodes = [
        gs.Node(
            op, f"n{k}", dict(attributes), [x, gs.Constant(f"w{k}", w), gs.Constant(f"b{k}", b)], [gs.Variable(f"y{k}")]
        )
        for k, (w, b) in enumerate(weights)
    ]
    graph = gs.Graph(nodes, [x], [n.outputs[0] for n in nodes], opset=17)
    graph.ir_version = 8
    return graph


def weights_of(count, out, channels, kernel, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (rng.standard_normal((out, channels, *kernel)).astype(np.float32), rng.standard_normal(out).astype(np.float32))
        for _ in range(count)
    ]


@pytest.mark.parametrize("often", [False, True])
@pytest.mark.parametrize(("kernel", "group", "loads"), [((1, 1), 1, (1, 1)), ((3, 3), 1, (1, 4)), ((3, 3), 2, (6, 6))])
def test_layers_that_differ_in_their_weights_alone_share_a_session(monkeypatch, often, kernel, group, loads):
    """Unless a weight that is laid out for the processor is worth a session of its own."""
    made, load = [], NodeRunner._load
    monkeypatch.setattr(NodeRunner, "_load", lambda self, fed: made.append(1) or load(self, fed))
    x = np.random.default_rng(1).standard_normal((2, 4, 5, 5)).astype(np.float32)
    graph = layers(weights_of(3, 6, 4 // group, kernel), group=group)
    others, sessions = weights_of(3, 6, 4 // group, kernel, seed=2), NodeSessions()
    for node, (other, _) in zip(graph.nodes, others, strict=True):
        (own,) = sessions.run(graph, node, {"x": x}, often=often)
        np.testing.assert_allclose(own, NodeRunner(graph, node)({"x": x})[0], rtol=1e-4, atol=1e-5)
        made.pop()
        (changed,) = sessions.run(graph, node, {"x": x}, other)
        want = NodeRunner(graph, node, [None, other, None])({"x": x})[0]
        made.pop()
        np.testing.assert_allclose(changed, want, rtol=1e-4, atol=1e-5)
    assert len(made) == loads[often]
