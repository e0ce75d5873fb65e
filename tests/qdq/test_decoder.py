import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from dfmpc_onnx.graph.edit import insert
from dfmpc_onnx.graph.exchange import to_model
from dfmpc_onnx.numerics.codebook import Blocks, learn, trits
from dfmpc_onnx.numerics.granularity import PerAxis, PerTensor
from dfmpc_onnx.numerics.quantized import QuantizedWeight
from dfmpc_onnx.numerics.ternary import ternary
from dfmpc_onnx.numerics.uniform import dorefa, symmetric
from dfmpc_onnx.qdq.code_formats import CONSTANT_BYTES, PLAIN, Form, Kind, Plane, forms
from dfmpc_onnx.qdq.decoder import Decoder, fits_int8, integer_scale
from tests import graphs

# Sizes that fill the last byte of no plane (135), of trits alone (135), and of all planes but trits (64).
WEIGHT = np.random.default_rng(3).standard_normal((5, 3, 3, 3)).astype(np.float32)
EVEN = np.random.default_rng(4).standard_normal((4, 4, 2, 2)).astype(np.float32)
WIDE = np.random.default_rng(5).standard_normal((8, 5, 3, 3)).astype(np.float32)
TYPED = {2: Form((Plane(2),)), 4: Form((Plane(4),)), 6: Form((Plane(4, 2), Plane(2, 0, False)))}
TABLE, TRITS = Form((Plane(4, encoding="table"),)), Form((Plane(2, encoding="blocks", book=trits()),))


def asymmetric(bits: int) -> QuantizedWeight:
    """Any codes under integer zero points, one a channel, from end to end of their range."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    random = np.random.default_rng(bits)
    codes = random.integers(low, high, WEIGHT.shape, np.int8, endpoint=True)
    zero = random.integers(low, high, (5, 1, 1, 1), endpoint=True).astype(np.float32)
    zero[0], zero[1] = low, high
    codes[0].flat[:2], codes[1].flat[:2] = (low, high), (low, high)
    return QuantizedWeight(codes, random.uniform(0.01, 0.1, (5, 1, 1, 1)).astype(np.float32), zero, bits)


def full(bits: int) -> QuantizedWeight:
    """Every code that so many bits have, the lowest too."""
    codes = np.resize(np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)), EVEN.shape).astype(np.int8)
    return QuantizedWeight(codes, np.float32([[[[0.1]]]]), np.float32([[[[0]]]]), bits)


def blocks(length: int, index_bits: int = 8, of: np.ndarray = WEIGHT) -> QuantizedWeight:
    """Blocks of a codebook, the last of each channel of `WEIGHT` cut off for every length but 3, and of `WIDE`."""
    rows = of.reshape(len(of), -1)
    learnt = learn([rows], Blocks(length, index_bits))
    scale = np.full((len(of), 1, 1, 1), learnt.unit, np.float32)
    codes = learnt.book.nearest(rows / np.float32(learnt.unit)).reshape(of.shape)
    return QuantizedWeight(codes, scale, np.zeros_like(scale), 7, book=learnt.book)


GRIDS = {
    **{f"blocks of {length}": blocks(length) for length in (2, 3, 4, 5)},
    **{f"blocks of {length}, {bits} bits": blocks(length, bits, WIDE) for length, bits in ((3, 9), (2, 10))},
    "blocks of 3, 9 bits, whole": blocks(3, 9, WIDE[:, :3]),
    "blocks of 3, 9 bits, uneven": blocks(3, 9),
    "ternary": ternary(WEIGHT, PerAxis(0)),
    "ternary per tensor": ternary(EVEN, PerTensor()),
    **{f"symmetric {b}": symmetric(WEIGHT, b, PerAxis(0)) for b in (2, 3, 4, 5, 6, 7, 8)},
    **{f"all codes of {b}": full(b) for b in (2, 3, 4, 5, 6, 7, 8)},
    **{f"dorefa {b}": dorefa(WEIGHT, b, PerTensor()) for b in (2, 3, 4, 5, 6, 7, 8)},
    "dorefa 4 per channel": dorefa(EVEN, 4, PerAxis(0)),
    **{f"asymmetric {b}": asymmetric(b) for b in (2, 3, 4, 5, 6, 7)},
    "mirrored": dorefa(WEIGHT, 3, PerAxis(0)).scaled(np.array([1, -1, 0, -2, 3], np.float32).reshape(-1, 1, 1, 1)),
    "far zero point": QuantizedWeight(np.full((3, 1), -100, np.int8), np.ones((3, 1), np.float32),
                                      np.full((3, 1), -200, np.float32), 8),
}  # fmt: skip


def decode(decoder, weight, form, kind, stem="w"):
    if kind == "float":
        return decoder.float_form(weight, form, stem)
    return decoder.integer_form(weight, form, stem, 0)


def network(weight, kind, opset):
    """A network with one output for every form: the decoded weight."""
    graph = graphs.gs.Graph(opset=opset)
    graph.ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    decoder = Decoder(graph)
    emitted = [decode(decoder, weight, form, kind) for form in forms(Kind.of(weight), opset)]
    insert(graph, first=[node for one in emitted for node in one.nodes])
    for one in emitted:
        one.result.dtype, one.result.shape = np.float32, weight.codes.shape
    graph.outputs = [one.result for one in emitted]
    return to_model(graph)


def all_same(found, want):
    return all(a.dtype == want.dtype and np.array_equal(a, want) for a in found)


@pytest.mark.parametrize("opset", [13, 21, 25])
@pytest.mark.parametrize("kind", ["float", "integer"])
@pytest.mark.parametrize("grid", GRIDS)
def test_onnxruntime_decodes_every_form_bit_for_bit(grid, kind, opset):
    assert all_same(graphs.run(network(GRIDS[grid], kind, opset)), GRIDS[grid].dequantize())


@pytest.mark.parametrize(
    ("kind", "opset"), [("float", 13), ("float", 21), ("float", 25), ("integer", 21), ("integer", 25)]
)
@pytest.mark.parametrize("grid", GRIDS)
def test_the_reference_implementation_agrees(grid, kind, opset):
    found = ReferenceEvaluator(network(GRIDS[grid], kind, opset)).run(None, {})
    assert all_same(found, GRIDS[grid].dequantize())


@pytest.mark.parametrize("opset", [13, 21, 25])
@pytest.mark.parametrize("kind", ["float", "integer"])
@pytest.mark.parametrize("grid", GRIDS)
def test_the_specification_accepts_it(grid, kind, opset):
    onnx.checker.check_model(network(GRIDS[grid], kind, opset), full_check=True)


@pytest.mark.parametrize("kind", ["float", "integer"])
def test_a_factor_of_codes_has_their_rank(kind):
    """A factor of rank 0 is spread number by number by onnxruntime, which takes most of the time of a load."""
    graph = graphs.gs.Graph(opset=25)
    nodes = decode(Decoder(graph), asymmetric(6), TYPED[6], kind).nodes
    factors = [t.values for node in nodes for t in node.inputs if t.name.startswith("times")]
    assert [(factor.shape, factor.item()) for factor in factors] == [((1, 1, 1, 1), 4)]


@pytest.mark.parametrize("opset", [9, 12])
@pytest.mark.parametrize("grid", GRIDS)
def test_old_opsets_decode_8_bits_in_float(grid, opset):
    assert all_same(graphs.run(network(GRIDS[grid], "float", opset)), GRIDS[grid].dequantize())


@pytest.mark.parametrize("opset", [13, 25])
@pytest.mark.parametrize("kind", ["float", "integer"])
def test_a_weight_of_size_zero(kind, opset):
    empty = QuantizedWeight(np.zeros((4, 0, 3, 3), np.int8), np.ones((4, 1, 1, 1), np.float32),
                            np.zeros((4, 1, 1, 1), np.float32), 6)  # fmt: skip
    assert forms(Kind.of(empty), opset) == (PLAIN,)
    assert all_same(graphs.run(network(empty, kind, opset)), empty.dequantize())


def chain(weight, form, kind, opset):
    graph = graphs.gs.Graph(opset=opset)
    return [node.op for node in decode(Decoder(graph), weight, form, kind).nodes]


CUT = ["Cast", "Gather", "Reshape", "Slice", "Reshape"]
INDEX = ["Cast", "Split", "Div", "Mod", "Mul", "Add"]
BOTH = ["Cast", "Mul", "Cast", "Add"]


@pytest.mark.parametrize(
    ("grid", "form", "opset", "floats", "integers"),
    [
        ("symmetric 8", PLAIN, 13, ["Cast", "Mul"], ["DequantizeLinear"]),
        ("symmetric 4", TYPED[4], 21, ["Cast", "Mul"], ["Cast", "DequantizeLinear"]),
        ("asymmetric 4", TYPED[4], 25, ["Cast", "Sub", "Mul"], ["Cast", "Sub", "DequantizeLinear"]),
        ("asymmetric 4", TYPED[4], 21, ["Cast", "Sub", "Mul"], ["Cast", "Sub", "Cast", "DequantizeLinear"]),
        ("dorefa 3", TYPED[4], 21, ["Cast", "Sub", "Mul"], ["Cast", "Add", "Sub", "Cast", "DequantizeLinear"]),
        ("symmetric 6", TYPED[6], 25, [*BOTH, "Mul"], [*BOTH, "DequantizeLinear"]),
        ("symmetric 4", TABLE, 13, [*CUT, "Cast", "Mul"], [*CUT, "DequantizeLinear"]),
        ("dorefa 4 per channel", TABLE, 13, ["Cast", "Gather", "Reshape", "Cast", "Sub", "Mul"],
         ["Cast", "Gather", "Reshape", "Cast", "Add", "Sub", "Cast", "DequantizeLinear"]),
        ("ternary", TRITS, 13, [*CUT[:3], "Cast", "Mul"], [*CUT[:3], "DequantizeLinear"]),
        ("ternary per tensor", TRITS, 13, [*CUT, "Cast", "Mul"], [*CUT, "DequantizeLinear"]),
        ("blocks of 3, 9 bits, whole", None, 13, [*INDEX, *CUT[1:3], "Cast", "Mul"],
         [*INDEX, *CUT[1:3], "DequantizeLinear"]),
        ("blocks of 2, 10 bits", None, 25, [*INDEX, *CUT[1:], "Cast", "Mul"], [*INDEX, *CUT[1:], "DequantizeLinear"]),
    ],
)  # fmt: skip
def test_the_nodes_that_decode(grid, form, opset, floats, integers):
    form = form or next(form for form in forms(Kind.of(GRIDS[grid]), opset) if form.planes[0].encoding == "blocks")
    assert chain(GRIDS[grid], form, "float", opset) == floats
    assert chain(GRIDS[grid], form, "integer", opset) == integers


@pytest.mark.parametrize("opset", [14, 21, 24])
@pytest.mark.parametrize("grid", GRIDS)
def test_files_that_older_runtimes_load_do_no_arithmetic_in_8_bits(grid, opset):
    model = onnx.shape_inference.infer_shapes(network(GRIDS[grid], "integer", opset))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    sums = [node for node in model.graph.node if node.op_type in ("Add", "Sub", "Mul")]
    assert {types[node.output[0]] for node in sums} <= {onnx.TensorProto.INT32}


def test_tables_shapes_and_zero_points_stand_once_in_a_model():
    weight = GRIDS["dorefa 7"]
    seven = next(form for form in forms(Kind.of(weight), 13) if form.widths == (4, 2, 1))
    graph = graphs.gs.Graph(opset=13)
    decoder = Decoder(graph)
    emitted = [decode(decoder, weight, seven, "integer", stem) for stem in ("a", "b", "c")]
    insert(graph, first=[node for one in emitted for node in one.nodes])
    graph.outputs = [one.result for one in emitted]
    constants = [t for t in graph.tensors().values() if isinstance(t, graphs.gs.Constant)]
    assert sorted(t.values.shape for t in constants if t.values.ndim == 2) == [(256, 2), (256, 4), (256, 8)]
    assert sum(t.values.nbytes for t in constants if t.name.startswith(("flat", "start", "shape", "zp"))) <= 8 * 7
    assert len({t.name for t in graph.tensors().values()}) == len(graph.tensors())
    assert all(one.bytes == -(-135 // 2) + -(-135 // 4) + -(-135 // 8) for one in emitted)


@pytest.mark.parametrize(("grid", "opset"), [
    ("symmetric 8", 25), ("symmetric 4", 21), ("symmetric 6", 25), ("all codes of 6", 21), ("ternary", 13),
    ("ternary per tensor", 25), ("symmetric 7", 13), ("all codes of 3", 25), ("blocks of 2, 10 bits", 13),
    ("blocks of 3, 9 bits, whole", 25),
])  # fmt: skip
def test_the_stated_overhead_is_what_one_more_weight_adds_to_a_file(grid, opset):
    weight = GRIDS[grid]
    for form in forms(Kind.of(weight), opset):
        added = sizes(weight, form, opset, 30) - sizes(weight, form, opset, 10)
        beyond = (added - sizes(weight, PLAIN, opset, 30) + sizes(weight, PLAIN, opset, 10)) / 20
        beyond -= form.bytes(weight.codes.size) - weight.codes.size
        shared = CONSTANT_BYTES * sum(plane.encoding == "blocks" for plane in form.planes)  # copies have one shape
        assert form.overhead(weight.codes.size, opset) - shared == pytest.approx(beyond, rel=0.15, abs=18), form


def sizes(weight, form, opset, copies):
    """The bytes of a file that decodes so many copies of a weight."""
    graph = graphs.gs.Graph(opset=opset)
    decoder = Decoder(graph)
    emitted = [decode(decoder, weight, form, "integer", f"w{i}") for i in range(copies)]
    insert(graph, first=[node for one in emitted for node in one.nodes])
    graph.outputs = [one.result for one in emitted]
    return to_model(graph).ByteSize()


def test_one_scale_a_tensor_is_a_scalar_without_axis():
    node = decode(Decoder(graphs.gs.Graph(opset=21)), symmetric(WEIGHT, 8, PerTensor()), PLAIN, "integer").nodes[-1]
    assert node.inputs[1].values.shape == () and "axis" not in node.attrs


@pytest.mark.parametrize(("grid", "share"), [(symmetric, 1.0), (dorefa, 0.5)])
def test_the_scale_of_the_integer_form_halves_for_half_steps(grid, share):
    weight = grid(WEIGHT, 4, PerAxis(0))
    assert np.array_equal(integer_scale(weight), weight.scale.reshape(-1) * np.float32(share))


def eight(codes, zero):
    return QuantizedWeight(np.array([codes], np.int8), np.float32([[1]]), np.float32([[zero]]), 8)


@pytest.mark.parametrize(("codes", "zero", "fits"), [
    ([-128, 127], 0, True), ([-128, 126], 0, True), ([-127, 127], -1, False), ([-128, 126], -1, True),
    ([-127, 127], 1, True), ([-128, 0], 1, False), ([0, 127], 100, True), ([-64, 63], -0.5, True),
    ([-64, 64], -0.5, False), ([-65, 0], -0.5, False), ([], 3, True),
])  # fmt: skip
def test_8_bit_codes_whose_steps_need_nine_bits_are_told_from_those_that_fit(codes, zero, fits):
    weight = eight(codes, zero)
    assert fits_int8(weight) is fits
    if not fits:
        with pytest.raises(ValueError, match="do not fit into INT8"):
            decode(Decoder(graphs.gs.Graph(opset=25)), weight, PLAIN, "integer")


@pytest.mark.parametrize(("codes", "zero", "fits"), [
    ([-64, 63], 0, True), ([-65, 0], 0, False), ([0, 65], 0, False), ([-32, 31], -0.5, True), ([-64, 63], -0.5, False),
    ([-64, 0], 0, True), ([-64, 0], 1, False),
])  # fmt: skip
def test_the_reduced_range_is_64_either_way(codes, zero, fits):
    """Two products with 255 then stay within 2^15 - 1."""
    assert fits_int8(eight(codes, zero), reduced=True) is fits
    assert 2 * 255 * 64 < 2**15 <= 2 * 255 * 65


@pytest.mark.parametrize("grid", GRIDS)
def test_every_grid_fits(grid):
    assert fits_int8(GRIDS[grid])
