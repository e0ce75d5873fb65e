"""The plain form of a packed file: the same codes, the same outputs, nothing but INT8 and DequantizeLinear."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import dfmpc_onnx
from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.qdq.decode_chains import DecodeChains
from tests import graphs
from tests.commands import assert_refused, dfmpc, held

NARROW = {TensorProto.INT2, TensorProto.UINT2, TensorProto.INT4, TensorProto.UINT4}


def wide(opset: int = 13) -> onnx.ModelProto:
    """Layers large enough for packing to pay: four Convs and a Gemm."""
    net = graphs.Net(opset=opset)
    x = net.block("x", 32)
    x = net.block(net.block(x, 64), 64)
    return net.model(net.tail(net.block(x, 48), 10))


@pytest.fixture(scope="module")
def packed() -> dict[str, onnx.ModelProto]:
    """The network in several widths: between quantized activations, and in float arithmetic."""
    made = {}
    for weights, activations in (("ternary/6", "8"), ("3", "8"), ("5", "8"), ("7", "none"), ("ternary/6", "none")):
        model = dfmpc_onnx.quantize(
            wide(), None, "per-channel", weights=weights, activations=activations, check=False
        ).model
        made[f"{weights} {activations}"] = model
    made["dorefa"] = dfmpc_onnx.quantize(wide(), None, "paper", check=False).model
    return made


CASES = ("ternary/6 8", "3 8", "5 8", "7 none", "ternary/6 none", "dorefa")


@pytest.mark.parametrize("case", CASES)
def test_every_weight_is_plain_int8_of_the_same_values(packed: dict[str, onnx.ModelProto], case: str) -> None:
    model = packed[case]
    before = model.SerializeToString(deterministic=True)
    done = dfmpc_onnx.expand(model)
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(done.model, full_check=True)
    constants = {t.name: t for t in done.model.graph.initializer}
    makers = {name: node for node in done.model.graph.node for name in node.output}
    ends = [makers[n.input[1]] for n in done.model.graph.node if n.op_type in ("Conv", "Gemm")]
    assert len(ends) == 5 and {end.op_type for end in ends} == {"DequantizeLinear"}
    for end in ends:
        codes, scale, zero = (constants[name] for name in end.input)
        assert codes.data_type == zero.data_type == TensorProto.INT8 and zero.dims == scale.dims
    assert not {t.data_type for t in constants.values()} & NARROW
    assert not {"Cast", "Gather", "BitShift", "Slice"} & {n.op_type for n in done.model.graph.node}
    x = graphs.input_of(model, 3)
    assert all(map(np.array_equal, graphs.run(done.model, x), graphs.run(model, x)))


def test_what_only_decoding_needed_is_gone(packed: dict[str, onnx.ModelProto]) -> None:
    done = dfmpc_onnx.expand(packed["ternary/6 8"])
    assert (done.report.opset, done.report.ir_version, done.report.oldest_onnxruntime) == (
        14,
        7,
        "1.16",
    )  # Relu has no way back to 13
    assert done.model.opset_import[0].version == 14 and done.model.ir_version == 7
    read = {name for node in done.model.graph.node for name in node.input}
    assert {t.name for t in done.model.graph.initializer} <= read
    assert graphs.kernels(done.model) == graphs.kernels(packed["ternary/6 8"])


def test_an_asymmetric_zero_point_that_does_not_fit_the_codes_stays_a_zero_point() -> None:
    """8-bit codes less a zero point of -100 are no INT8."""
    codes = np.random.default_rng(0).integers(-128, 128, (4, 3, 3, 3)).astype(np.int8)
    scale, zero = np.full((4, 1, 1, 1), 0.01, np.float32), np.full((4, 1, 1, 1), -100, np.float32)
    net = graphs.Net()
    x = net.node("Cast", net.weight("codes", codes), to=TensorProto.FLOAT)
    x = net.node("Mul", net.node("Sub", x, net.weight("zero", zero)), net.weight("scale", scale))
    model = net.model(net.node("Conv", "x", x))
    onnx.helper.set_model_props(model, {"dfmpc_onnx.version": "0"})
    done = dfmpc_onnx.expand(model)
    (end,) = (n for n in done.model.graph.node if n.op_type == "DequantizeLinear")
    constants = {t.name: numpy_helper.to_array(t) for t in done.model.graph.initializer}
    assert np.array_equal(constants[end.input[0]], codes) and (constants[end.input[2]] == -100).all()
    x = graphs.input_of(model)
    assert np.array_equal(graphs.run(done.model, x)[0], graphs.run(model, x)[0])


def test_bodies_of_control_flow_keep_what_they_read() -> None:
    model = wide()
    bodies = {
        name: helper.make_graph(
            [helper.make_node("Mul", ["relu4", "factor"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 48, 8, 8])],
        )
        for name in ("then_branch", "else_branch")
    }
    model.graph.node.append(helper.make_node("If", ["yes"], ["chosen"], "choice", **bodies))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(3), "factor"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.output.append(helper.make_tensor_value_info("chosen", TensorProto.FLOAT, [1, 48, 8, 8]))
    packed = dfmpc_onnx.quantize(model, None, "per-channel", weights="3", check=False).model
    assert any(node.op_type == "Gather" for node in packed.graph.node)  # such a model keeps its opset, hence tables
    done = dfmpc_onnx.expand(packed)
    assert len(done.report.layers) >= 3
    x = graphs.input_of(model)
    assert all(map(np.array_equal, graphs.run(done.model, x), graphs.run(packed, x)))


def test_the_command_writes_the_plain_form_and_says_what_it_needs(
    packed: dict[str, onnx.ModelProto], tmp_path: pathlib.Path
) -> None:
    small, plain = tmp_path / "small.onnx", tmp_path / "plain.onnx"
    onnx.save(packed["3 8"], small)
    result = dfmpc("expand", small, "-o", plain)
    assert result.exit_code == 0, result.stderr
    assert "onnxruntime 1.16 or newer (opset 14, IR 7)" in result.stdout
    figures = json.loads(dfmpc("expand", small, "-o", plain, "--json").stdout)
    assert figures["bytes"] == plain.stat().st_size > figures["packed_bytes"] == small.stat().st_size
    assert figures["layers"] == ["conv2", "conv3", "conv4"]  # the others are small, and plain
    props = {p.key: p.value for p in onnx.load(plain).metadata_props}
    assert props["dfmpc_onnx.expanded"] == "yes" and props["dfmpc_onnx.weights"] == "3"
    assert_refused(dfmpc("expand", plain, "-o", tmp_path / "again.onnx"), "none of its weights is packed")


def test_refused_what_quantize_did_not_write_and_the_input_as_output(tmp_path: pathlib.Path) -> None:
    model = tmp_path / "float.onnx"
    onnx.save(wide(), model)
    before = held(tmp_path)
    assert_refused(dfmpc("expand", model, "-o", tmp_path / "out.onnx"), "was not written by dfmpc-onnx quantize")
    assert_refused(dfmpc("expand", model, "-o", model), "is the input itself")
    assert held(tmp_path) == before


def tokens() -> onnx.ModelProto:
    """A Conv, and behind it MatMul with and without a bias and Gemm both ways round."""
    net = graphs.Net()
    x = net.node("Flatten", net.node("GlobalAveragePool", net.block("x", 128)))
    net.channels[x] = 128
    x = net.matmul(x, 128)
    x = net.relu(net.node("Add", x, net.weight("bias", net.random.standard_normal(128).astype(np.float32))))
    net.channels[x] = 128
    return net.model(net.gemm(net.gemm(net.matmul(x, 128), 128, trans_b=0), 128, trans_b=1))


@pytest.mark.parametrize("target", ["cpu", "tensorrt", "portable", "cuda", "openvino", "webgpu"])
@pytest.mark.parametrize(("recipe", "weights"), [("int8", "2/6"), ("int8", "3"), ("per-channel", "4"), ("paper", None)])
def test_the_plain_form_of_every_target_gives_the_outputs_of_the_packed_one(
    target: str, recipe: str, weights: str | None
) -> None:
    model = tokens()
    exact = {"fp16": False} if target == "tensorrt" else {}  # float16 is rounded anew wherever kernels differ
    for activations in ("8", "none") if target in ("cpu", "tensorrt", "portable") else ("none",):
        packed = dfmpc_onnx.quantize(
            model, None, recipe, weights=weights, activations=activations, target=target, check=False, **exact
        ).model
        plain = dfmpc_onnx.expand(packed).model
        x = graphs.input_of(model, 4)
        want, got = graphs.run(packed, x)[0], graphs.run(plain, x)[0]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
        assert "MatMulNBits" not in graphs.kernels(plain)


def test_what_keeps_a_product_in_float_is_looked_through_when_the_plain_form_is_read() -> None:
    packed = dfmpc_onnx.quantize(tokens(), None, "int8", weights="3", activations="none", check=False).model
    plain = dfmpc_onnx.expand(packed).model
    assert [node.op_type for node in plain.graph.node].count("Max") == 3
    chains = DecodeChains(plain.graph)
    layers = [node for node in plain.graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    assert all((chain := chains.of_layer(node)) is not None and chain.plain for node in layers)
    with pytest.raises(ModelError, match="none of its weights is packed"):
        dfmpc_onnx.expand(plain)


def test_refused_where_the_plain_form_would_not_be_the_same_bit_for_bit() -> None:
    """Half a step of the smallest scale there is underflows to 0."""
    codes = np.random.default_rng(0).integers(-8, 8, (4, 3, 3, 3)).astype(np.int8)
    scale, zero = np.full((4, 1, 1, 1), 1.4e-45, np.float32), np.full((4, 1, 1, 1), -0.5, np.float32)
    net = graphs.Net()
    x = net.node("Cast", net.weight("codes", codes), to=TensorProto.FLOAT)
    x = net.node("Mul", net.node("Sub", x, net.weight("zero", zero)), net.weight("scale", scale))
    model = net.model(net.node("Conv", "x", x))
    onnx.helper.set_model_props(model, {"dfmpc_onnx.version": "0"})
    with pytest.raises(ModelError, match="'conv1' would not read the same weight, bit for bit; it stays packed"):
        dfmpc_onnx.expand(model)


def test_below_a_step_that_the_converter_cannot_take_no_opset_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    converted, tried = onnx.version_converter.convert_version, []

    def convert(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
        tried.append(version)
        return converted(model, version)

    monkeypatch.setattr(onnx.version_converter, "convert_version", convert)
    net = graphs.Net(opset=18)
    halves = net.node("Split", net.block("x", 32), axis=1, num_outputs=2)
    net.nodes[-1].output.append("second")  # onnx's converter takes no step for Split from opset 18 down
    net.channels[halves] = net.channels["second"] = 16
    x = net.concat(net.block(halves, 64), net.block("second", 64))
    packed = dfmpc_onnx.quantize(net.model(net.tail(x)), None, "per-channel", weights="ternary/6", check=False).model
    tried.clear()
    assert dfmpc_onnx.expand(packed).report.opset == 18
    assert tried == [13, 18]


def test_an_output_that_a_sum_reads_as_well_survives_the_fusion_of_its_conv() -> None:
    net = graphs.Net((1, 8, 8, 8))
    first, second = net.conv("x", 16), net.conv("x", 16)
    model = net.model(first, net.node("Relu", net.node("Add", first, second)))
    made = dfmpc_onnx.quantize(model, None, "per-channel", weights="4", activations="none").model
    want, got = (graphs.run(m) for m in (made, dfmpc_onnx.expand(made).model))
    assert graphs.relative(got, want) < 1e-5
