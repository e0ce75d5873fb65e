"""What each target's file is made of, and that every one of them is valid and close to the float network."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import dfmpc_onnx
from dfmpc_onnx.model.source import load
from dfmpc_onnx.pipeline.targets import TARGETS
from dfmpc_onnx.qdq.qonnx_nodes import loadable
from tests import graphs
from tests.commands import assert_refused, dfmpc
from tests.qdq.test_expansion import wide

INTEGER = ("cpu", "openvino", "portable", "tensorrt")


def made(model: onnx.ModelProto, target: str, **options: object) -> onnx.ModelProto:
    options = {"weights": "ternary/6", **options}
    return dfmpc_onnx.quantize(model, None, "per-channel", target=target, check=False, **options).model


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def activations(model: onnx.ModelProto) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Scale and zero point of every quantized activation."""
    values = constants(model)
    quantizers = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    return {n.input[0]: (values[n.input[1]], values[n.input[2]]) for n in quantizers}


@pytest.mark.parametrize("target", TARGETS)
def test_every_file_is_valid_and_declares_no_more_than_it_needs(target: str) -> None:
    model = made(wide(), target)
    onnx.checker.check_model(model, full_check=True)
    opset = model.opset_import[0].version
    assert opset == {"portable": 13, "qonnx": 13, "vitisai": 17}.get(target, 25)
    assert model.ir_version == helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)
    stated = {p.key: p.value for p in model.metadata_props}
    assert stated["dfmpc_onnx.target"] == target


@pytest.mark.parametrize("target", TARGETS)
def test_at_8_bits_every_file_is_close_to_the_float_network(target: str) -> None:
    for network in (wide(), graphs.residual(), graphs.depthwise(), graphs.matmul_tail()):
        x = graphs.input_of(network, 2)
        model = loadable(load(made(network, target, weights="8")))  # QONNX in operators of ONNX
        assert graphs.relative(graphs.run(model, x), graphs.run(network, x)) < 0.08


@pytest.mark.parametrize("target", ["cpu", "openvino", "portable"])
def test_unsigned_activations_with_int32_biases_fuse_to_integer_kernels(target: str) -> None:
    model = made(wide(), target)
    assert {zero.dtype for _, zero in activations(model).values()} == {np.dtype(np.uint8)}
    kernels = graphs.kernels(model)
    assert kernels["QLinearConv"] == 4 and kernels["QGemm"] == 1 and "DequantizeLinear" not in kernels


def test_tensorrt_has_signed_activations_without_zero_point_and_float_biases() -> None:
    model = made(graphs.residual(), "tensorrt")
    values = constants(model)
    assert all(zero == 0 and zero.dtype == np.int8 and scale.ndim == 0 for scale, zero in activations(model).values())
    makers = {name: n for n in model.graph.node for name in n.output}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert makers[node.input[0]].op_type == "DequantizeLinear"
            weight = makers[node.input[1]]
            assert weight.op_type == "DequantizeLinear"
            assert not values[weight.input[2]].any() and values[weight.input[1]].shape == (values[node.input[2]].size,)
            assert values[node.input[2]].dtype == np.float16


def test_tensorrt_quantizes_what_layers_read_and_the_branch_of_a_sum_that_no_conv_ends() -> None:
    """x is read by a Conv and by the sum; relu2 by a Conv; the sum's own Conv is added to before it is quantized."""
    net = graphs.Net()
    x = net.block("x", 8)
    branch = net.norm(net.conv(net.block(x, 8), 8))
    model = net.model(net.tail(net.relu(net.node("Add", branch, x))))
    found = activations(made(model, "tensorrt", weights="8"))
    assert set(found) == {"x", "relu1", "relu2", "flatten1"}
    assert {"norm3", "add1"} <= set(activations(made(model, "cpu", weights="8"))) | {"add1"}


def test_vitisai_has_one_power_of_two_for_each_tensor_and_int8_everywhere() -> None:
    model = made(graphs.residual(), "vitisai", weights="8")
    values, makers = constants(model), {name: n for n in model.graph.node for name in n.output}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero = values[node.input[1]], values[node.input[2]]
            assert scale.ndim == 0 and np.frexp(scale)[0] == 0.5 and zero.dtype == np.int8 and zero == 0
        if node.op_type in ("Conv", "Gemm", "Add"):
            assert {makers[name].op_type for name in node.input} == {"DequantizeLinear"}
    assert makers[model.graph.output[0].name].op_type == "DequantizeLinear"
    assert not {n.op_type for n in model.graph.node} & {"BatchNormalization", "Cast", "Gather"}


def test_of_two_branches_that_end_in_convs_the_longer_one_takes_the_sum() -> None:
    net = graphs.Net()
    x = net.block("x", 8)
    shortcut = net.norm(net.conv(x, 8, 1))
    branch = net.norm(net.conv(net.block(x, 8), 8))
    model = net.model(net.tail(net.relu(net.node("Add", shortcut, branch))))
    found = set(activations(made(model, "tensorrt", weights="8")))
    assert "norm2" in found and "norm4" not in found


def test_for_tensorrt_a_float_layer_reads_what_is_not_quantized() -> None:
    model = made(graphs.chain(), "tensorrt", layers=["conv2=float"])
    makers = {name: n for n in model.graph.node for name in n.output}
    conv = next(n for n in model.graph.node if n.name == "conv2")
    assert makers[conv.input[0]].op_type == "Relu"
    assert not any(n.op_type == "Max" for n in model.graph.node)


@pytest.mark.parametrize("target", ["cuda", "webgpu"])
def test_gpus_without_integer_kernels_get_float_activations_unless_others_are_asked_for(
    target: str, model_file: pathlib.Path
) -> None:
    assert not activations(made(wide(), target))
    asked = dfmpc_onnx.quantize(model_file, None, "per-channel", target=target, activations=8, check=False)
    assert activations(asked.model)
    assert "has no integer Conv" in asked.report.warnings[0]


def test_portable_weights_need_no_narrow_type() -> None:
    model = made(wide(), "portable")
    assert {t.data_type for t in model.graph.initializer} <= {
        TensorProto.FLOAT,
        TensorProto.INT8,
        TensorProto.UINT8,
        TensorProto.INT32,
        TensorProto.INT64,
    }
    assert any(n.op_type == "Gather" for n in model.graph.node)
    report = dfmpc_onnx.quantize(wide(), None, "per-channel", target="portable", check=False).report
    assert (report.oldest_onnxruntime, report.opset, report.target) == ("1.16", 13, "portable")


def test_a_newer_opset_is_lowered_for_older_runtimes() -> None:
    model = wide(opset=22)
    result = made(model, "portable")
    assert result.opset_import[0].version == 19 and result.ir_version == 9
    x = graphs.input_of(model)
    assert graphs.relative(graphs.run(made(model, "portable", weights="8"), x), graphs.run(model, x)) < 0.08


def test_an_opset_that_cannot_be_lowered_is_kept_and_said(model_file: pathlib.Path) -> None:
    net = graphs.Net(opset=22)
    x = net.block("x", 8)
    x = net.node("BitCount", x, domain="mine")
    model = net.model(net.block("x", 8), x)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    report = dfmpc_onnx.quantize(model, None, "per-channel", weights="8", target="portable", check=False).report
    assert report.opset == 22
    assert any("opset 22 kept, so the oldest runtimes of 'portable' do not load it" in w for w in report.warnings)


def test_a_target_that_is_not_known_lists_those_that_are(model_file: pathlib.Path) -> None:
    refused = dfmpc("quantize", model_file, "-o", model_file.with_name("out.onnx"), "--target", "abacus")
    assert_refused(refused, "target 'abacus'", ", ".join(TARGETS))


def test_for_tensorrt_what_only_moves_values_stands_in_front_of_the_quantization() -> None:
    """onnxruntime 1.32 quantizes again behind it, as uint8, in the opsets that have narrow types."""
    net = graphs.Net()
    stem = net.block("x", 8)
    starts, ends = net.weight("starts", np.array([0, 0])), net.weight("ends", np.array([8, 8]))
    axes, steps = net.weight("axes", np.array([2, 3])), net.weight("steps", np.array([2, 2]))
    shortcut = net.node("Slice", stem, starts, ends, axes, steps)
    inner = net.norm(net.conv(net.node("MaxPool", net.block(stem, 8), kernel_shape=[2, 2], strides=[2, 2]), 8))
    model = net.model(net.tail(net.relu(net.node("Add", inner, shortcut))))
    result = made(model, "tensorrt", weights="3/5")
    assert result.opset_import[0].version >= 21
    makers = {name: n for n in result.graph.node for name in n.output}
    assert {makers[n.input[0]].op_type for n in result.graph.node if n.op_type in ("Slice", "MaxPool")} == {"Relu"}
    x = graphs.input_of(model)
    session = onnxruntime.InferenceSession(result.SerializeToString(), providers=["CPUExecutionProvider"])
    assert graphs.relative(session.run(None, {"x": x}), graphs.run(result, x)) < 1e-4


def test_a_file_for_vitisai_of_a_new_opset_loads_where_floats_read_what_was_moved() -> None:
    net = graphs.Net((1, 4, 8, 8), opset=21, ir_version=10)
    parts = ["first", "second"]
    net.nodes.append(graphs.helper.make_node("Split", ["x"], parts, axis=1, num_outputs=2))  # keeps the opset
    net.channels[parts[0]] = net.channels[parts[1]] = 2
    x = net.relu(net.conv(parts[0], 8))
    flat = net.node("Reshape", x, net.weight("flat", np.array([1, 2, -1])))
    y = net.node(
        "InstanceNormalization", flat, net.weight("g", np.ones(2, np.float32)), net.weight("b", np.zeros(2, np.float32))
    )
    model = net.model(net.node("Mul", y, y), parts[1])
    assert graphs.run(made(model, "vitisai", weights="8"))
