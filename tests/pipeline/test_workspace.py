"""The codes beside the graph and the dequantized values in it are one thing, written in one place."""

import ast
import pathlib

import numpy as np
import pytest

import dfmpc_onnx
import dfmpc_passes
from dfmpc_onnx import catalog
from dfmpc_onnx.numerics.quantized import QuantizedWeight
from dfmpc_onnx.pipeline.facts import Codes
from dfmpc_onnx.pipeline.manager import PassManager
from tests import graphs

SOURCES = [
    p for package in (dfmpc_onnx, dfmpc_passes) for p in sorted(pathlib.Path(package.__file__).parent.rglob("*.py"))
]
WRITER = pathlib.Path(dfmpc_onnx.__file__).parent / "pipeline" / "workspace.py"


def ternary(shape):
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.1, 1, (shape[0], 1, 1, 1)).astype(np.float32)
    return QuantizedWeight(rng.integers(-1, 2, shape).astype(np.int8), scale, np.zeros_like(scale), 2, True)


def test_a_weight_is_set_in_the_graph_and_beside_it():
    space = graphs.workspace(graphs.chain())
    layers = {node.name: node for node in space.graph.nodes}
    weights = {name: ternary(layers[name].inputs[1].shape) for name in ("conv1", "conv2")}
    for name, weight in weights.items():
        assert np.array_equal(space.set_weight(layers[name], weight), weight.dequantize())
    assert space.get(Codes).weights == space.codes() == weights
    for name, weight in weights.items():
        assert np.array_equal(graphs.values(space.graph, f"{name}.w"), weight.dequantize())


def test_before_anything_is_quantized_there_are_no_codes():
    assert graphs.workspace(graphs.chain()).codes() == {}


def writes(path):
    """What a module does that only the writer may: store codes that are any, or put dequantized values into a graph."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Codes":
            if ast.unparse(node) != "Codes({})":
                yield f"{path.name}:{node.lineno} {ast.unparse(node)}"
        elif isinstance(node, ast.Assign | ast.Call) and ".dequantize()" in ast.unparse(node):
            into = (
                [ast.unparse(target) for target in node.targets]
                if isinstance(node, ast.Assign)
                else [ast.unparse(node)]
            )
            if any(".values" in target or target.startswith("gs.Constant(") for target in into):
                yield f"{path.name}:{node.lineno} {ast.unparse(node)}"


def test_nobody_else_writes_codes_or_their_values():
    found = [line for path in SOURCES if path != WRITER for line in writes(path)]
    assert not found
    assert list(writes(WRITER))  # the search does find them


class Agree:
    """After each pass, every layer's constant is what its codes stand for, bit for bit."""

    def __init__(self):
        self.checked = 0

    def before(self, name, workspace): ...

    def after(self, name, workspace, result):
        nodes = {node.name: node for node in workspace.graph.nodes}
        for layer, weight in workspace.codes().items():
            values = np.asarray(nodes[layer].inputs[1].values)
            assert values.dtype == np.float32, (name, layer)
            assert values.tobytes() == weight.dequantize().tobytes(), f"after {name}: {layer}"
            self.checked += 1


@pytest.mark.parametrize("recipe", sorted(catalog.recipes()))
@pytest.mark.parametrize("network", sorted(graphs.ALL))
def test_after_every_pass_up_to_insert_qdq_the_graph_holds_what_the_codes_stand_for(network, recipe):
    found = catalog.find_recipe(recipe)
    steps = graphs.pipeline("insert_qdq", recipe)
    space, agree = graphs.workspace(graphs.ALL[network](), found.weights, found.activations), Agree()
    PassManager(steps[:-1], (agree,)).run(space)
    assert steps[-1].name == "insert_qdq" and agree.checked


def test_a_snapshot_brings_back_graph_inputs_and_facts():
    space = graphs.workspace(graphs.chain())
    space.put(Codes({}))
    before, inputs, names = space.snapshot(), space.inputs, [node.name for node in space.graph.nodes]
    del space.graph.nodes[0]
    space.inputs = space.inputs.with_dtype({"x"}, np.dtype(np.float16))
    space.discard(Codes)
    space.restore(before)
    assert [node.name for node in space.graph.nodes] == names and space.inputs == inputs and space.find(Codes)


def test_codes_that_somebody_has_seen_stay_as_they_were_and_others_are_not_copied():
    """A copy for each layer would take time in proportion to the square of the layers."""
    space = graphs.workspace(graphs.chain())
    layers = {node.name: node for node in space.graph.nodes}
    first, second = (ternary(layers[name].inputs[1].shape) for name in ("conv1", "conv2"))
    space.set_weight(layers["conv1"], first)
    seen = space.get(Codes)
    space.set_weight(layers["conv2"], second)
    assert list(seen.weights) == ["conv1"]
    unseen = space._facts[Codes].weights
    space.set_weight(layers["conv1"], second)
    assert space._facts[Codes].weights is unseen
    before = space.snapshot()
    assert space.codes() == {"conv1": second, "conv2": second}
    space.set_weight(layers["conv1"], first)
    assert before.facts[Codes].weights["conv1"] is second and space.codes()["conv1"] is first
    space.restore(before)
    assert space.codes()["conv1"] is second
