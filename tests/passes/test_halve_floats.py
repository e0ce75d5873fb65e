"""Floats in float16 for targets that compute in it: where values fit, with Casts at the ends and nowhere else."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import dfmpc_onnx
from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.graph.float16 import fits_float16
from tests import graphs
from tests.commands import assert_refused, dfmpc


def made(model: onnx.ModelProto, **options: object) -> dfmpc_onnx.Quantized:
    return dfmpc_onnx.quantize(model, None, "int8", target="tensorrt", check=False, **options)


def types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every tensor."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    found = {v.name: v.type.tensor_type.elem_type for v in (*inferred.input, *inferred.output, *inferred.value_info)}
    return found | {t.name: t.data_type for t in inferred.initializer}


def refused(result: dfmpc_onnx.Quantized) -> dict[str, str]:
    step = next(step for step in result.report.passes if step.name == "halve_floats")
    return {refusal.site: refusal.code for refusal in step.result.refusals}


@pytest.mark.parametrize("network", sorted(graphs.ALL))
def test_the_file_is_valid_and_close_to_the_float_network(network: str) -> None:
    model = graphs.ALL[network]()
    result = made(model).model
    onnx.checker.check_model(result, full_check=True)
    assert result.ir_version == helper.find_min_ir_version_for(result.opset_import)
    stored = {tensor.name for tensor in model.graph.initializer}
    assert [v.type for v in result.graph.input] == [v.type for v in model.graph.input if v.name not in stored]
    assert {v.type.tensor_type.elem_type for v in result.graph.output} == {TensorProto.FLOAT}
    x = graphs.input_of(model, 2)
    assert graphs.relative(graphs.run(result, x), graphs.run(model, x)) < 0.08


def test_what_is_not_int8_is_float16_and_casts_stand_at_the_end_alone() -> None:
    result = made(graphs.residual())
    assert refused(result) == {}
    found, graph = types(result.model), result.model.graph
    assert Counter(n.op_type for n in graph.node)["Cast"] == 1 and graph.node[-1].op_type == "Cast"
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert [found[name] for name in node.input] == [TensorProto.FLOAT16] * 3
    first = next(n for n in graph.node if n.op_type == "QuantizeLinear")
    assert first.input[0] == "x" and found[first.input[1]] == TensorProto.FLOAT, "the input is quantized as it comes"


def test_quantize_and_dequantize_of_one_tensor_have_one_scale_whatever_its_type() -> None:
    graph = made(graphs.residual()).model.graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    scales = {node.output[0]: values[node.input[1]] for node in graph.node if node.op_type == "QuantizeLinear"}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in scales:
            assert float(values[node.input[1]]) == float(scales[node.input[0]])


def test_no_fp16_keeps_float32() -> None:
    result = made(graphs.residual(), fp16=False).model
    assert TensorProto.FLOAT16 not in types(result).values()
    assert result.opset_import[0].version == 13
    stated = {p.key: p.value for p in result.metadata_props}
    assert "dfmpc_onnx.float_type" not in stated


def test_a_target_that_computes_in_float32_takes_no_such_option(tmp_path) -> None:
    with pytest.raises(OptionError, match=r"^fp16: floats are float32 for cpu"):
        dfmpc_onnx.quantize(graphs.chain(), None, fp16=True)
    file = tmp_path / "m.onnx"
    onnx.save(graphs.chain(), file)
    assert_refused(dfmpc("quantize", file, "-o", tmp_path / "o.onnx", "--no-fp16"), "fp16: floats are float32 for cpu")


def scaled(factor: float) -> onnx.ModelProto:
    """A chain whose last layers see values that are a factor larger, and give what they gave."""
    net = graphs.Net()
    x = net.node("Mul", net.block("x", 8), net.weight("up", np.float32([factor])))
    x = net.node("Softplus", x)  # no pass takes the factor past it
    x = net.node("Mul", x, net.weight("down", np.float32([1 / factor])))
    return net.model(net.tail(net.block(x, 8)))


@pytest.mark.parametrize("factor", [1e6, 1e-7])
def test_values_that_do_not_fit_stay_in_float32_with_the_reason(factor: float) -> None:
    model = scaled(factor)
    result = made(model)
    left = refused(result)
    assert "float16-range" in left.values()
    found = types(result.model)
    softplus = next(n for n in result.model.graph.node if n.op_type == "Softplus")
    assert found[softplus.input[0]] == TensorProto.FLOAT
    assert TensorProto.FLOAT16 in found.values()
    onnx.checker.check_model(result.model, full_check=True)


def test_an_operator_without_a_float16_form_reads_float32() -> None:
    net = graphs.Net()
    x = net.block("x", 8)
    sizes = net.weight("scales", np.float32([1, 1, 2, 2]))
    up = net.node("Resize", x, "", sizes, mode="nearest")
    pooled = net.node("Det", net.node("MaxPool", up, kernel_shape=[4, 4], strides=[4, 4]))
    result = made(net.model(net.tail(net.block(up, 8)), pooled))
    found = types(result.model)
    nodes = {node.op_type: node for node in result.model.graph.node}
    assert found[nodes["Resize"].input[0]] == TensorProto.FLOAT16
    assert found[nodes["Resize"].input[2]] == TensorProto.FLOAT, "sizes are no values of the network"
    onnx.checker.check_model(result.model, full_check=True)


def test_control_flow_keeps_its_types_and_so_does_what_it_reads() -> None:
    model = graphs.nested()
    for holder in (model, *model.functions):
        next(opset for opset in holder.opset_import if not opset.domain).version = 19
    result = made(model)
    onnx.checker.check_model(result.model, full_check=True)
    assert "no-float16" in refused(result).values()
    feeds = {"x": graphs.input_of(model), "c": np.array(True)}
    single = made(model, fp16=False).model
    got, want = (
        onnxruntime.InferenceSession(file.SerializeToString()).run(None, feeds) for file in (result.model, single)
    )
    assert graphs.relative(got, want) < 0.1


def test_packed_weights_are_read_back_and_expanded() -> None:
    model = graphs.residual()
    packed = made(model, weights="4").model
    plain = dfmpc_onnx.expand(packed).model
    onnx.checker.check_model(plain, full_check=True)
    x = graphs.input_of(model, 2)
    assert graphs.relative(graphs.run(plain, x), graphs.run(packed, x)) < 0.03


def test_weights_alone_are_float16_too() -> None:
    result = made(graphs.chain(), activations="none")
    found = types(result.model)
    conv = next(n for n in result.model.graph.node if n.op_type == "Conv")
    assert found[conv.input[1]] == TensorProto.FLOAT16
    x = graphs.input_of(graphs.chain(), 2)
    assert graphs.relative(graphs.run(result.model, x), graphs.run(graphs.chain(), x)) < 0.02


def test_for_tensorrt_a_transposed_conv_computes_in_int8_by_channel() -> None:
    net = graphs.Net()
    x = net.block("x", 8)
    weight = net.weight("w", np.random.default_rng(2).normal(size=(8, 8, 2, 2)).astype(np.float32) / 6)
    up = net.node("ConvTranspose", x, weight, strides=[2, 2], kernel_shape=[2, 2])
    model = net.model(net.tail(net.relu(up)))
    result = made(model).model
    makers = {name: node for node in result.graph.node for name in node.output}
    layer = next(node for node in result.graph.node if node.op_type == "ConvTranspose")
    decoders = [makers[name] for name in layer.input[:2]]
    assert [node.op_type for node in decoders] == ["DequantizeLinear"] * 2
    assert next(a.i for a in decoders[1].attribute if a.name == "axis") == 1
    given = graphs.input_of(model, 2)
    assert graphs.relative(graphs.run(result, given), graphs.run(model, given)) < 0.08


@pytest.mark.parametrize(
    ("values", "fits"), [([0.0], True), ([1e-9, 1.0], True), ([1e-5, 6e-5], False), ([65504.0], True), ([7e4], False)]
)
def test_what_fits_float16(values: list[float], fits: bool) -> None:
    assert fits_float16(values) == fits


def test_a_bias_that_is_too_many_products_for_float16_keeps_its_layer_in_float32() -> None:
    """onnxruntime 1.32 counts it in products of codes in float16, where it would be infinite."""
    net = graphs.Net()
    x = net.relu(
        net.norm(net.conv(net.block("x", 8), 8), gamma=np.float32([1e-4, *[1.0] * 7]), beta=np.ones(8, np.float32))
    )
    model = net.model(net.tail(net.block(x, 8)))
    result = made(model)
    assert refused(result)["conv2"] == "float16-range"
    given = graphs.input_of(model, 2)
    assert graphs.relative(graphs.run(result.model, given), graphs.run(model, given)) < 0.08


def test_what_reads_a_tensor_of_unknown_type_stays_in_float32() -> None:
    net = graphs.Net(opset=21)
    x = net.node("Gelu", net.block("x", 8), domain="com.microsoft")
    net.channels[x] = 8
    model = net.model(net.tail(net.block(net.norm(x), 8)))
    result = made(model)
    assert "no-float16" in refused(result).values()
    x = graphs.input_of(model)
    assert graphs.relative(graphs.run(result.model, x), graphs.run(model, x)) < 0.08
