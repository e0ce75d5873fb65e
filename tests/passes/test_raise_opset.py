import numpy as np
import pytest

from dfmpc_onnx.pipeline.facts import FinalOpset, Packed
from dfmpc_onnx.pipeline.manager import PassManager
from tests import graphs


@pytest.mark.parametrize(
    ("weights", "opset"), [("8", 13), ("6", 13), ("4", 21), ("3", 21), ("2/8", 25), ("ternary/4", 25)]
)
def test_to_the_lowest_opset_that_holds_the_codes(weights, opset):
    space, result = graphs.prepared(graphs.chain(), "raise_opset", weights)
    assert space.graph.opset == space.get(FinalOpset).opset == opset
    assert [r.action for r in result.rewrites] == ([f"opset 13 to {opset}"] if opset > 13 else [])


@pytest.mark.parametrize(
    ("weights", "opset"), [("ternary", 13), ("2", 13), ("3", 25), ("4", 21), ("5", 21), ("6", 25), ("7", 25), ("8", 13)]
)
def test_large_layers_take_the_opset_of_their_smallest_form(weights, opset):
    net = graphs.Net(shape=(1, 64, 8, 8))
    model = net.model(net.block(net.block(net.block("x", 64), 64), 64))
    space, _ = graphs.prepared(model, "raise_opset", layers=[f"*={weights}"])
    assert space.graph.opset == opset


def test_a_high_enough_opset_stays():
    space, result = graphs.prepared(graphs.chain(opset=23), "raise_opset", "4")
    assert space.graph.opset == 23
    assert result.rewrites == ()


@pytest.mark.parametrize("network", sorted(graphs.ALL))
def test_the_network_computes_the_same(network):
    space = graphs.workspace(graphs.ALL[network](), layers=["*=2"])
    *before, raise_opset = graphs.pipeline("raise_opset")
    PassManager(before).run(space)
    want = graphs.run(space.graph)
    names = [node.name for node in space.graph.nodes]
    raise_opset.run(space)
    assert space.graph.opset == 25
    assert graphs.relative(graphs.run(space.graph), want) < 1e-6
    assert [node.name for node in space.graph.nodes if node.name] == names


def foreign(opset):
    net = graphs.Net(opset=opset)
    x = net.node("Gelu", net.block("x", 4), domain="com.microsoft")
    return net.model(net.block(net.block(x, 4), 4))


@pytest.mark.parametrize("opset", [9, 11, 13, 21])
def test_what_cannot_be_converted_keeps_its_opset_and_stores_wider_codes(opset):
    model = foreign(opset)
    space, result = graphs.prepared(model, "raise_opset")
    why = graphs.reasons(result)["model"]
    lost = "narrow weights take 8 bits each" if opset < 13 else "tables decode what it has no type for"
    assert why.startswith(f"opset {opset} kept, so {lost}: ")
    assert "domain 'com.microsoft'" in why
    assert result.warnings == ((why,) if opset < 13 else ())
    assert space.graph.opset == space.get(FinalOpset).opset == opset
    want = graphs.run(space.graph)
    steps = graphs.pipeline("pack_weights")[-2:]
    space.settings = graphs.workspace(model, activations="none").settings
    PassManager(steps).run(space)
    assert space.get(Packed).bits == {"conv1": 8, "conv2": 8 if opset < 21 else 4, "conv3": 8}
    assert all(np.array_equal(a, b) for a, b in zip(graphs.run(space.graph), want, strict=True))
