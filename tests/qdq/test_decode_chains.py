"""Reading back what the decoder wrote: the same codes, scale and zero point; and nothing else taken for it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper

import dfmpc_onnx
from dfmpc_onnx.evaluation.kernel_census import take_census
from dfmpc_onnx.graph.exchange import to_model
from dfmpc_onnx.numerics.codebook import Blocks, learn
from dfmpc_onnx.numerics.quantized import QuantizedWeight
from dfmpc_onnx.qdq.code_formats import Kind, forms
from dfmpc_onnx.qdq.decode_chains import DecodeChain, DecodeChains
from dfmpc_onnx.qdq.decoder import Decoder
from dfmpc_onnx.qdq.expansion import expand
from dfmpc_onnx.qdq.stored_bits import stored_layers
from tests import graphs

SHAPE = (8, 5, 3, 3)
# Of each grid: bits, zero point in codes.
GRIDS = {"ternary": (2, 0.0), "symmetric": (5, 0.0), "half steps": (4, -0.5), "asymmetric": (6, 3.0), "wide": (8, 0.0),
         "blocks": (7, 0.0), "padded blocks": (7, 0.0), "9 bits": (7, 0.0), "padded 10 bits": (7, 0.0)}  # fmt: skip
SIZES = {"blocks": Blocks(5), "padded blocks": Blocks(4), "9 bits": Blocks(3, 9), "padded 10 bits": Blocks(2, 10)}


def weight_of(grid: str) -> QuantizedWeight:
    bits, zero = GRIDS[grid]
    random = np.random.default_rng(3)
    least, most = (-1, 1) if grid == "ternary" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    codes = random.integers(least, most, SHAPE, endpoint=True).astype(np.int8)
    scale = random.uniform(0.01, 0.1, (SHAPE[0], 1, 1, 1)).astype(np.float32)
    if grid in SIZES:
        book = learn([codes.reshape(SHAPE[0], -1).astype(np.float32)], SIZES[grid]).book
        codes = book.nearest(codes.reshape(SHAPE[0], -1).astype(np.float32)).reshape(SHAPE)
        return QuantizedWeight(codes, scale, np.zeros_like(scale), bits, book=book)
    return QuantizedWeight(codes, scale, np.full_like(scale, zero), bits, ternary=grid == "ternary")


def written(weight: QuantizedWeight, form: object, integer: bool, opset: int = 25) -> onnx.ModelProto:
    x, y = gs.Variable("x", np.float32, (1, SHAPE[1], 8, 8)), gs.Variable("y", np.float32, (1, SHAPE[0], 6, 6))
    graph = gs.Graph(inputs=[x], outputs=[y], opset=opset)
    decoder = Decoder(graph)
    made = decoder.integer_form(weight, form, "w", 0) if integer else decoder.float_form(weight, form, "w")
    graph.nodes = [*made.nodes, gs.Node("Conv", "layer", {}, [x, made.result], [y])]
    return to_model(graph)


def read(model: onnx.ModelProto) -> DecodeChain | None:
    (layer,) = (node for node in model.graph.node if node.op_type == "Conv")
    return DecodeChains(model.graph).of_layer(layer)


def cases() -> list[object]:
    return [
        pytest.param(grid, form, integer, opset, id=f"{grid}-{number}-{'integer' if integer else 'float'}-{opset}")
        for grid in GRIDS
        for opset in (13, 25)
        for number, form in enumerate(forms(Kind.of(weight_of(grid)), opset))
        for integer in (True, False)
    ]


@pytest.mark.parametrize(("grid", "form", "integer", "opset"), cases())
def test_every_form_is_read_as_it_was_written(grid: str, form: object, integer: bool, opset: int) -> None:
    weight = weight_of(grid)
    model = written(weight, form, integer, opset)
    chain = read(model)
    assert chain is not None and chain.shape == SHAPE and chain.integer == integer
    factor = 2 if chain.doubled else 1
    assert chain.doubled == (integer and grid == "half steps")
    assert np.array_equal(chain.codes(), factor * weight.codes.astype(np.int32))
    assert np.array_equal(chain.scale().reshape(-1), weight.scale.reshape(-1) / np.float32(factor))
    assert (chain.zero() == factor * weight.zero_point).all()
    padding = 8 * form.bytes(weight.codes.size) - chain.stored_bits
    assert 0 <= padding < 8 * len(form.planes)  # of typed planes, whose last byte may not be full
    assert [node.name for node in chain.nodes] == [node.name for node in model.graph.node[:-1]]
    assert set(chain.initializers) == {tensor.name for tensor in model.graph.initializer}


def test_plain_is_a_single_dequantize_linear_over_int8() -> None:
    weight = weight_of("wide")
    plain, *packed = forms(Kind.of(weight_of("symmetric")))
    found = read(written(weight, plain, integer=True))
    assert found is not None and found.plain
    for form in packed:
        found = read(written(weight_of("symmetric"), form, integer=True))
        assert found is not None and not found.plain


def test_a_scale_that_is_stored_in_half_precision_is_read_through_its_cast() -> None:
    model = chain_model(
        helper.make_node("Cast", ["codes"], ["q"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["scale"], ["s"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["q", "s"], ["w"]),
        codes=np.ones(SHAPE, np.int8),
        scale=np.full((SHAPE[0], 1, 1, 1), 0.5, np.float16),
    )
    found = read(model)
    assert found is not None and (found.scale() == 0.5).all() and found.scale().dtype == np.float32


def chain_model(*nodes: onnx.NodeProto, **tensors: npt.NDArray[np.generic]) -> onnx.ModelProto:
    """A Conv of the weight ``w`` that nodes make of tensors."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, SHAPE[1], 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    held = [numpy_helper.from_array(values, name) for name, values in tensors.items()]
    layer = helper.make_node("Conv", ["x", "w"], ["y"], "layer")
    graph = helper.make_graph([*nodes, layer], "g", [x], [y], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("my.ops", 1)])


FLOATS = np.linspace(-1, 1, int(np.prod(SHAPE)), dtype=np.float32).reshape(SHAPE)
CODES = np.ones(SHAPE, np.int8)
SCALE = np.full((SHAPE[0], 1, 1, 1), 0.5, np.float32)


def to_float(name: str = "codes", **attributes: object) -> onnx.NodeProto:
    return helper.make_node("Cast", [name], ["q"], to=TensorProto.FLOAT, **attributes)


OTHERS = {
    "weight normalization": (
        helper.make_node("ReduceL2", ["v"], ["n"], axes=[1, 2, 3]),
        helper.make_node("Div", ["v", "n"], ["u"]),
        helper.make_node("Mul", ["u", "scale"], ["w"]),
    ),
    "a product of two floats": (helper.make_node("Mul", ["v", "scale"], ["w"]),),
    "half precision": (to_float("half"), helper.make_node("Mul", ["q", "scale"], ["w"])),
    "unsigned bytes": (to_float("bytes"), helper.make_node("Mul", ["q", "scale"], ["w"])),
    "another domain's Cast": (to_float(domain="my.ops"), helper.make_node("Mul", ["q", "scale"], ["w"])),
    "a scale for each value": (to_float(), helper.make_node("Mul", ["q", "v"], ["w"])),
    "a zero point for each value": (
        to_float(),
        helper.make_node("Sub", ["q", "v"], ["r"]),
        helper.make_node("Mul", ["r", "scale"], ["w"]),
    ),
    "a zero point of another's": (helper.make_node("DequantizeLinear", ["codes", "one", "seven"], ["w"]),),
    "a table of floats": (
        helper.make_node("Cast", ["bytes"], ["i"], to=TensorProto.INT32),
        helper.make_node("Gather", ["floats"], ["q"]),
        helper.make_node("Mul", ["q", "scale"], ["w"]),
    ),
    "an input of the model": (helper.make_node("Mul", ["x", "scale"], ["w"]),),
}
HELD = {
    "v": FLOATS,
    "half": FLOATS.astype(np.float16),
    "bytes": np.ones(SHAPE, np.uint8),
    "codes": CODES,
    "scale": SCALE,
    "one": np.float32(1),
    "seven": np.int8(7),
    "floats": np.ones((256, 4), np.float32),
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_another_wrote_is_none_of_ours(other: str) -> None:
    assert read(chain_model(*OTHERS[other], **HELD)) is None


@pytest.mark.parametrize("constant", ["columns", "powers", "bits", "byte"])
def test_indices_that_are_put_together_otherwise_are_none_of_ours(constant: str) -> None:
    weight = weight_of("9 bits")
    form = next(form for form in forms(Kind.of(weight), 13) if form.planes[0].encoding == "blocks")
    model = written(weight, form, True, 13)
    assert read(model) is not None
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == constant)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, constant))
    assert read(model) is None


def test_a_chain_of_sums_as_long_as_a_file_is_given_up_soon() -> None:
    sums = [helper.make_node("Add", [f"t{i}", "codes"], [f"t{i + 1}"]) for i in range(20_000)]
    model = chain_model(*sums, helper.make_node("Mul", ["t20000", "scale"], ["w"]), t0=CODES, codes=CODES, scale=SCALE)
    assert read(model) is None


# -- a weight that is computed as g v / |v| beside packed ones


def weight_norm() -> onnx.ModelProto:
    """Convs large enough to be packed, the second of which normalizes its weight in the graph."""
    net = graphs.Net(opset=13)
    x = net.block(net.block("x", 32), 48)
    values = net.random.standard_normal((48, 48, 3, 3)).astype(np.float32)
    length = net.node("ReduceL2", net.weight("v", values), axes=[1, 2, 3], keepdims=1)
    unit = net.node("Div", "v", length)
    scaled = net.node("Mul", unit, net.weight("g", np.full((48, 1, 1, 1), 1.5, np.float32)))
    x = net.relu(net.node("Conv", x, scaled, stem="normed", pads=[1] * 4))
    net.channels[x] = 48
    return net.model(net.tail(net.block(x, 48)))


@pytest.fixture(scope="module")
def packed() -> onnx.ModelProto:
    """As a writer leaves it who does not fold the weight: its three nodes stand in the file beside packed weights."""
    made = dfmpc_onnx.quantize(weight_norm(), None, "per-channel", weights="3", activations="none", check=False).model
    names = {name for node in made.graph.node for name in node.output}
    assert {"reducel21", "div1", "mul1"} <= names
    return made


def test_expand_leaves_a_normalized_weight_as_it_is(packed: onnx.ModelProto) -> None:
    done = expand(packed, "m")
    assert done.layers and "normed1" not in done.layers
    makers = {name: node.op_type for node in done.model.graph.node for name in node.output}
    assert (makers["reducel21"], makers["div1"], makers["mul1"]) == ("ReduceL2", "Div", "Mul")
    x = graphs.input_of(packed)
    assert all(map(np.array_equal, graphs.run(done.model, x), graphs.run(packed, x)))


def test_stored_bits_do_not_list_it_and_the_census_calls_it_float(packed: onnx.ModelProto) -> None:
    """What the file stores of it are the factors that it is computed from."""
    rows = {layer.name: layer for layer in stored_layers(packed)}
    assert "normed1" not in rows and rows["conv2"].coded
    reasons = {name: why for why, names in take_census(packed, packed, "m").float_layers.items() for name in names}
    assert "integer weights" not in reasons["normed1"] and "integer weights" in reasons["conv2"]


def test_layers_that_share_a_weight_are_expanded_together() -> None:
    weight = weight_of("asymmetric")
    model = written(weight, forms(Kind.of(weight))[-1], integer=False)
    twin = helper.make_node("Conv", ["x", model.graph.node[-1].input[1]], ["y2"], "twin")
    model.graph.node.append(twin)
    model.graph.output.append(helper.make_tensor_value_info("y2", TensorProto.FLOAT, None))
    done = expand(model, "m")
    assert done.layers == ("layer", "twin")
    x = np.random.default_rng(0).standard_normal((1, SHAPE[1], 8, 8)).astype(np.float32)
    assert all(map(np.array_equal, graphs.run(done.model, x), graphs.run(model, x)))


def test_a_factor_without_dimensions_as_earlier_versions_wrote_it_is_read():
    weight = weight_of("asymmetric")
    form = next(form for form in forms(Kind.of(weight), 25) if any(plane.shift for plane in form.planes))
    model = written(weight, form, integer=False)
    (factor,) = (t for t in model.graph.initializer if t.name == "times")
    del factor.dims[:]
    found = read(model)
    assert found is not None and np.array_equal(found.codes(), weight.codes)
