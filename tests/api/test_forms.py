"""Graphs as exporters and people write them: each comes out quantized, or is refused with the reason."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import dfmpc_onnx
from dfmpc_onnx.errors import ModelError
from tests import graphs

SIXTEEN = ", ".join(str(float(i % 5 - 2)) for i in range(16))


def parsed(inputs, outputs, body, more=""):
    """A network of one to several Convs with the weight w on four channels."""
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 13]> net ({inputs}) => ({outputs}) '
        f"<float[4,4,1,1] w = {{{SIXTEEN}}}{more}> {{ {body} }}"
    )


def quantized(model, count, recipe="int8", least=15.0, **options):
    """What comes out, where so many layers were quantized and the result is close to the model."""
    options = {"activations": 8, **options}  # in 8 bits, though nothing tells the scale of most inputs here
    made = dfmpc_onnx.quantize(model, recipe=recipe, **options)
    assert sum(layer.refused is None for layer in made.report.layers) == count
    assert made.report.fidelity is not None, made.report.warnings
    assert made.report.fidelity.sqnr_db > least
    return made


X, Y = "float[1, 4, 6, 6] x", "float[1, 4, 6, 6] y"


@pytest.mark.parametrize("recipe", ["mixed", "int8", "closed-form"])
def test_several_inputs_and_outputs(recipe):
    model = parsed(
        f"{X}, float[1, 4, 6, 6] z",
        f"{Y}, float[1, 4, 6, 6] v",
        "a = Conv(x, w) b = Conv(z, w) y = Add(a, b) v = Relu(b)",
    )
    made = quantized(model, 2, recipe, least=10)
    assert [v.name for v in made.model.graph.input] == ["x", "z"]
    assert [v.name for v in made.model.graph.output] == ["y", "v"]


@pytest.mark.parametrize("recipe", ["mixed", "int8", "closed-form"])
def test_shapes_that_are_symbols(recipe):
    net = graphs.Net(shape=("batch", 3, "height", "width"))
    made = quantized(net.model(net.tail(net.block(net.block("x", 4), 4))), 3, recipe, input_shapes=["x:1x3x8x8"])
    shape = made.model.graph.input[0].type.tensor_type.shape
    assert [d.dim_param or d.dim_value for d in shape.dim] == ["batch", 3, "height", "width"]


def test_optional_inputs_that_are_left_out():
    body = "a = Conv(x, w) b = Clip(a, , top) r = Resize(b, , s) y = Conv(r, w)"
    more = ", float top = {3.0}, float[4] s = {1.0, 1.0, 2.0, 2.0}"
    made = quantized(parsed(X, "float[1, 4, 12, 12] y", body, more), 2)
    clip, resize = (next(n for n in made.model.graph.node if n.op_type == op) for op in ("Clip", "Resize"))
    assert list(clip.input)[1:] == ["", "top"] and list(resize.input)[1:] == ["", "s"]


def test_a_scalar_and_a_text_beside_the_picture():
    model = parsed(
        f"{X}, float top",
        f"{Y}, string[1] t",
        'a = Conv(x, w) b = Clip(a, , top) y = Conv(b, w) t = Constant<value_strings = ["hi"]>()',
    )
    made = quantized(model, 2, least=10, input_ranges=["x=-4:4", "top=-4:4"])
    larger, *others = made.report.warnings
    assert larger.startswith("the file takes ") and "more than the float model" in larger
    assert others == ["not compared: output 't': its values are not numbers of one size"]


def test_sequences_between_layers_are_followed():
    body = "s = SplitToSequence<axis = 1, keepdims = 1>(a) b = ConcatFromSequence<axis = 1>(s)"
    quantized(parsed(X, Y, f"a = Conv(x, w) {body} y = Conv(b, w)"), 2, "mixed")


def loop():
    """Two Convs around a Loop that runs twice, with a Conv of its own, and a Scan that adds channels up."""
    text = f"""<ir_version: 8, opset_import: ["": 13]> net ({X}) => ({Y}, float[1, 4, 6, 6] sums)
        <float[4,4,1,1] w = {{{SIXTEEN}}}, int64 two = {{2}}, bool yes = {{1}}, float half = {{0.5}}>
        {{
            a = Conv(x, w)
            b = Loop(two, yes, a) <body = body (int64 i, bool c, float[1, 4, 6, 6] v) => (bool d, float[1, 4, 6, 6] u)
                {{ d = Identity(c)  k = Conv(v, w)  u = Mul(k, half) }}>
            y = Conv(b, w)
            first = Constant<value = float[6, 6] {{{", ".join("0.0" for _ in range(36))}}}>()
            rows = Squeeze(y, axis)
            last, all = Scan<num_scan_inputs = 1, body = step (float[6, 6] s, float[6, 6] r)
                => (float[6, 6] t, float[6, 6] o) {{ t = Add(s, r)  o = Identity(t) }}>(first, rows)
            sums = Unsqueeze(all, axis)
        }}"""
    text = text.replace("bool yes = {1}", "bool yes = {1}, int64[1] axis = {0}")
    return onnx.parser.parse_model(text)


@pytest.mark.parametrize("recipe", ["mixed", "int8", "closed-form"])
def test_loops_and_scans_stay_as_they_are_and_what_is_around_them_is_quantized(recipe):
    model = loop()
    made = quantized(model, 2, recipe, least=5)
    inner = [layer for layer in made.report.layers if layer.refused]
    assert [layer.refused for layer in inner] == [
        "it lies in the body of Loop 'Loop_1', which is not entered; left in float"
    ]
    for op in ("Loop", "Scan"):
        bodies = [next(n for n in m.graph.node if n.op_type == op).attribute for m in (model, made.model)]
        graphs_in = [next(a.g for a in b if a.name == "body") for b in bodies]
        assert [n.op_type for n in graphs_in[0].node] == [n.op_type for n in graphs_in[1].node]


def test_what_is_quantized_already_is_left_as_it_is():
    partly = dfmpc_onnx.quantize(graphs.chain(), recipe="int8", layers=["conv1=float"], check=False).model
    made = quantized(partly, 1)
    refused = {layer.name: layer.refused for layer in made.report.layers if layer.refused}
    assert refused == dict.fromkeys(("conv2", "conv3", "gemm1"), "its weight is already quantized")
    before, after = graphs.kernels(partly), graphs.kernels(made.model)
    assert (before["Conv"], before["QLinearConv"]) == (1, 2)
    assert (after["Conv"], after["QLinearConv"]) == (0, 3)
    assert after["QuantizeLinear"] == before["QuantizeLinear"]  # that of conv1's output became that of the picture
    kept = {t.name: t for t in made.model.graph.initializer}
    assert all(kept[t.name] == t for t in partly.graph.initializer if t.data_type == TensorProto.INT8)


def test_a_model_that_is_quantized_in_full_is_refused():
    done = dfmpc_onnx.quantize(graphs.chain(), recipe="int8", check=False).model
    with pytest.raises(ModelError, match="quantized already; give the float model that it was made from"):
        dfmpc_onnx.quantize(done)


def test_weights_behind_cast_and_transpose_as_channels_last_frameworks_store_them():
    model = graphs.chain()
    plain = dfmpc_onnx.quantize(model, recipe="int8", check=False)
    for tensor in model.graph.initializer:
        if tensor.name in ("conv2.w", "conv3.w"):
            values = np.ascontiguousarray(numpy_helper.to_array(tensor).transpose(2, 3, 1, 0))
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(values, f"{name}.hwio"))
            model.graph.node.insert(0, helper.make_node("Transpose", [f"{name}.hwio"], [name], perm=[3, 2, 0, 1]))
    made = quantized(model, 4)
    assert [layer.bits for layer in made.report.layers] == [layer.bits for layer in plain.report.layers]
    assert "Transpose" not in {node.op_type for node in made.model.graph.node}


def test_a_model_of_an_opset_that_onnxruntime_has_no_kernels_for_is_converted_and_compared():
    model = onnx.parser.parse_model(
        f'<ir_version: 3, opset_import: ["": 6]> net ({X}, float[4,4,1,1] w) => (float[1, 4, 6, 6] y) '
        f"<float[4,4,1,1] w = {{{SIXTEEN}}}, float[1] k = {{0.5}}> "
        "{ a = Conv(x, w) b = Add<broadcast = 1>(a, k) y = Conv(b, w) }"
    )
    model.graph.input.append(helper.make_tensor_value_info("k", TensorProto.FLOAT, [1]))
    made = quantized(model, 2)
    assert [v.name for v in made.model.graph.input] == ["x"]
    assert any(w.startswith("compared with the model as normalized: ") for w in made.report.warnings)


@pytest.mark.parametrize("kind", ["uint8", "double"])
def test_pictures_as_bytes_or_doubles(kind, tmp_path):
    body = "f = Cast<to = 1>(x) s = Sub(f, m) d = Div(s, m) t = Transpose<perm = [0, 3, 1, 2]>(d) "
    more = ", float[4,3,1,1] u = {" + ", ".join(str(float(i % 5 - 2)) for i in range(12)) + "}, float m = {127.5}"
    output = "float[n, 4, 16, 16] y"
    model = parsed(f"{kind}[n, 16, 16, 3] x", output, f"{body} a = Conv(t, u) y = Conv(a, w)", more)
    made = quantized(model, 2, preprocess="raw")
    assert made.report.fidelity.origin == "64 generated images of 16x16 (16, each flipped 3 ways)"
    np.savez(tmp_path / "own.npz", x=np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8))
    quantized(model, 2, images=tmp_path / "own.npz", preprocess="raw")
    onnx.save(model, tmp_path / "a.onnx")
    onnx.save(made.model, tmp_path / "b.onnx")
    (row,) = dfmpc_onnx.verify(tmp_path / "a.onnx", tmp_path / "b.onnx", images=tmp_path / "own.npz").providers
    assert row.fidelity.sqnr_db > 15


def test_an_input_that_is_a_sequence_is_refused():
    model = graphs.chain()
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [1]))
    model.graph.input.append(helper.make_value_info("many", kind))
    with pytest.raises(ModelError, match="input 'many' is a sequence; nothing can be generated for it"):
        dfmpc_onnx.quantize(model)
