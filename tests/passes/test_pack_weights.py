import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from dfmpc_onnx.facts import Codes, Layers, Packed
from dfmpc_onnx.graph import Namer, insert
from dfmpc_onnx.numerics.granularity import PerAxis, PerTensor
from dfmpc_onnx.numerics.quantized import QuantizedWeight
from dfmpc_onnx.numerics.ternary import ternary
from dfmpc_onnx.numerics.uniform import dorefa, symmetric
from dfmpc_onnx.serialization import to_model
from dfmpc_onnx.storage import float_form, integer_form, stored_bits
from tests import graphs

# Odd sizes, so that the last byte of packed codes is not full.
WEIGHT = np.random.default_rng(3).standard_normal((5, 3, 3, 3)).astype(np.float32)


def asymmetric(bits: int) -> QuantizedWeight:
    """Any codes under integer zero points, one a channel."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    random = np.random.default_rng(bits)
    codes = random.integers(low, high, WEIGHT.shape, np.int8, endpoint=True)
    zero = random.integers(low, high, (5, 1, 1, 1), endpoint=True).astype(np.float32)
    zero[0], zero[1] = low, high
    codes[0].flat[:2], codes[1].flat[:2] = (low, high), (low, high)
    return QuantizedWeight(codes, random.uniform(0.01, 0.1, (5, 1, 1, 1)).astype(np.float32), zero, bits)


GRIDS = {
    "ternary": ternary(WEIGHT, PerAxis(0)),
    "ternary per tensor": ternary(WEIGHT, PerTensor()),
    **{f"symmetric {b}": symmetric(WEIGHT, b, PerAxis(0)) for b in (2, 3, 4, 5, 6, 7, 8)},
    **{f"dorefa {b}": dorefa(WEIGHT, b, PerTensor()) for b in (2, 3, 4, 5, 6, 7, 8)},
    "dorefa 4 per channel": dorefa(WEIGHT, 4, PerAxis(0)),
    **{f"asymmetric {b}": asymmetric(b) for b in (2, 3, 4, 5, 6, 7)},
    "mirrored": dorefa(WEIGHT, 3, PerAxis(0)).scaled(np.array([1, -1, 0, -2, 3], np.float32).reshape(-1, 1, 1, 1)),
}
FORMS = {
    "float": lambda weight, names, opset: float_form(weight, "w", names, opset),
    "integer": lambda weight, names, opset: integer_form(weight, 0, "w", names, opset),
}


def decoder(weight, form, opset):
    """A network whose only output is the decoded weight."""
    graph = graphs.gs.Graph(opset=opset)
    graph.ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    emitted = FORMS[form](weight, Namer(graph), opset)
    insert(graph, first=emitted.nodes)
    emitted.result.dtype, emitted.result.shape = np.float32, weight.codes.shape
    graph.outputs = [emitted.result]
    return to_model(graph), emitted


def same(a, b):
    return a.dtype == b.dtype and np.array_equal(a, b)


@pytest.mark.parametrize("opset", [13, 21, 25])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("grid", GRIDS)
def test_onnxruntime_decodes_bit_for_bit(grid, form, opset):
    model, _ = decoder(GRIDS[grid], form, opset)
    assert same(graphs.run(model)[0], GRIDS[grid].dequantize())


@pytest.mark.parametrize(
    ("form", "opset"), [("float", 13), ("float", 21), ("float", 25), ("integer", 21), ("integer", 25)]
)
@pytest.mark.parametrize("grid", GRIDS)
def test_the_reference_implementation_agrees(grid, form, opset):
    model, _ = decoder(GRIDS[grid], form, opset)
    assert same(ReferenceEvaluator(model).run(None, {})[0], GRIDS[grid].dequantize())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("grid", GRIDS)
def test_the_specification_accepts_it(grid, form):
    onnx.checker.check_model(decoder(GRIDS[grid], form, 25)[0], full_check=True)


@pytest.mark.parametrize(
    ("bits", "widths"),
    [(2, (8, 8, 4, 2)), (3, (8, 8, 4, 4)), (4, (8, 8, 4, 4)), (5, (8, 8, 8, 8)), (8, (8, 8, 8, 8))],
)
def test_codes_take_the_next_larger_type_that_the_opset_has(bits, widths):
    weight = symmetric(WEIGHT, bits, PerAxis(0))
    assert tuple(stored_bits(weight, opset) for opset in (9, 13, 21, 25)) == widths
    for opset, width in zip((13, 21, 25), widths[1:], strict=True):
        assert decoder(weight, "float", opset)[1].bytes == -(-weight.codes.size * width // 8)


def packed(model, **options):
    """The workspace after the pass, and its result."""
    space, _ = graphs.prepared(model, "insert_qdq", **options)
    return space, graphs.pipeline()[-1].run(space)


@pytest.mark.parametrize("activations", ["8", "none"])
@pytest.mark.parametrize("network", sorted(graphs.ALL))
def test_every_layer_reads_the_weight_that_stood_there_bit_for_bit(network, activations):
    space, _ = graphs.prepared(graphs.ALL[network](), "insert_qdq", activations=activations)
    layers = space.get(Layers).all
    want = [graphs.values(space.graph, layer.weight) for layer in layers]
    graphs.pipeline()[-1].run(space)
    nodes = {node.name: node for node in space.graph.nodes}
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


def test_names_of_the_model_are_not_taken_twice():
    net = graphs.Net()
    net.weight("conv1.w.codes", np.zeros(4, np.float32))
    x = net.block("x", 4)
    model = net.model(net.node("Add", x, net.weight("conv1.w.scale", np.ones((4, 1, 1), np.float32))))
    space, _ = packed(model)
    names = [t.name for n in space.graph.nodes for t in n.outputs]
    assert len(names) == len(set(names))
