import numpy as np
import pytest

from dfmpc_onnx.pipeline.facts import Codes, Layers, Packed
from tests import graphs


def same(a, b):
    return a.dtype == b.dtype and np.array_equal(a, b)


def packed(model, **options):
    """The workspace after the pass, and its result."""
    space, _ = graphs.prepared(model, "insert_qdq", **options)
    return space, graphs.pipeline("pack_weights")[-1].run(space)


@pytest.mark.parametrize("activations", ["8", "none"])
@pytest.mark.parametrize("network", sorted(graphs.ALL))
def test_every_layer_reads_the_weight_that_stood_there_bit_for_bit(network, activations):
    space, _ = graphs.prepared(graphs.ALL[network](), "insert_qdq", activations=activations)
    layers = space.get(Layers).all
    nodes = {node.name: node for node in space.graph.nodes}
    want = [nodes[layer.name].inputs[1].values for layer in layers]
    graphs.pipeline("pack_weights")[-1].run(space)
    space.graph.outputs = [nodes[layer.name].inputs[1] for layer in layers]
    assert all(same(a, b) for a, b in zip(graphs.run(space.graph), want, strict=True))


def weight_of(graph, name):
    """What stands between the codes and a layer, from the layer backward."""
    found, tensor = [], next(n for n in graph.nodes if n.name == name).inputs[1]
    while tensor.inputs:
        found.append(tensor.inputs[0].op)
        tensor = tensor.inputs[0].inputs[0]
    return found


def test_float_activations_get_cast_and_mul_which_fold_at_load():
    space, _ = packed(graphs.chain(), activations="none")
    assert [weight_of(space.graph, name) for name in ("conv1", "conv2")] == [["Mul", "Cast"]] * 2
    assert set(graphs.kernels(space.graph)) == {"FusedConv", "GlobalAveragePool", "Flatten", "Gemm"}


def test_integer_layers_get_dequantize_linear_behind_a_cast_where_codes_are_narrow():
    space, _ = packed(graphs.chain())
    assert weight_of(space.graph, "conv1") == ["DequantizeLinear"]
    assert weight_of(space.graph, "conv2") == ["DequantizeLinear", "Cast"]


def test_a_float_layer_keeps_its_weight():
    space, result = packed(graphs.chain(), layers=["conv3=float"])
    assert weight_of(space.graph, "conv3") == []
    assert "conv3" not in {r.site for r in result.rewrites}


def test_sizes_and_widths_are_told():
    space, result = packed(graphs.chain())
    sizes = {layer.name: layer.size for layer in space.get(Layers).all}
    assert space.get(Packed).bits == {"conv1": 8, "conv2": 2, "conv3": 8, "gemm1": 8}
    assert space.get(Packed).bytes == {n: sizes[n] * b // 8 for n, b in space.get(Packed).bits.items()}
    assert {r.site: r.figures["bytes"] for r in result.rewrites} == space.get(Packed).bytes
    assert set(space.get(Codes).weights) == set(sizes)


def wide(opset: int = 13, domain: str = ""):
    """A plain chain of layers large enough that every width pays; an operator of `domain` keeps the opset as it is."""
    net = graphs.Net(opset=opset)
    x = net.block(net.block(net.block("x", 48), 48), 48)
    if domain:
        x = net.relu(net.node("Gelu", x, domain=domain))
    return net.model(net.tail(net.block(x, 48)))


@pytest.mark.parametrize(("weights", "bits"), [
    ("ternary", 1.6), ("3", 3), ("4", 4), ("5", 5), ("6", 6), ("7", 7), ("8", 8),
])  # fmt: skip
@pytest.mark.parametrize("domain", ["", "com.microsoft"])
def test_every_width_is_stored_as_it_is_and_computes_in_the_integer_kernels_of_8_bits(weights, bits, domain):
    inner = [f"conv{i}={weights}" for i in (2, 3, 4)]
    space, _ = packed(wide(domain=domain), layers=inner)
    eight, _ = packed(wide(domain=domain), layers=["*=8"])
    assert [space.get(Packed).bits[f"conv{i}"] for i in (2, 3, 4)] == [bits] * 3
    assert (space.graph.opset == 13) or not domain
    kernels = graphs.kernels(space.graph)
    assert kernels == graphs.kernels(eight.graph)
    assert kernels["QLinearConv"] == (4 if not domain else 3)


@pytest.mark.parametrize("weights", ["ternary", "3", "6"])
def test_every_width_folds_into_float_weights_between_float_activations(weights):
    space, _ = packed(wide(), activations="none", layers=[f"conv*={weights}"])
    eight, _ = packed(wide(), activations="none", layers=["*=8"])
    assert graphs.kernels(space.graph) == graphs.kernels(eight.graph)


def test_a_table_is_shared_by_the_layers():
    space, result = packed(wide(), layers=["conv*=ternary"])
    gathers = [node for node in space.graph.nodes if node.op == "Gather"]
    assert len(gathers) == 3 and len({id(node.inputs[0]) for node in gathers}) == 1
    assert {r.figures["bits"] for r in result.rewrites} == {1.6, 2, 8}


@pytest.mark.parametrize(("weights", "runtime"), [("ternary", "1.24"), ("4", "1.23"), ("8", "1.16")])
def test_the_oldest_onnxruntime_that_loads_the_stored_types_is_told(weights, runtime):
    space, _ = packed(wide(), layers=[f"conv*={weights}"])
    assert space.get(Packed).oldest_runtime == runtime


def test_names_of_the_model_are_not_taken_twice():
    net = graphs.Net()
    net.weight("conv1.w.codes", np.zeros(4, np.float32))
    x = net.block("x", 4)
    model = net.model(net.node("Add", x, net.weight("conv1.w.scale", np.ones((4, 1, 1), np.float32))))
    space, _ = packed(model)
    names = [t.name for n in space.graph.nodes for t in n.outputs]
    assert len(names) == len(set(names))
