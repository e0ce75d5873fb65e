"""Files for Qualcomm's Hexagon NPU: all quantized, in 8 bits or 16, every dimension a number; what it leaves is named.

That they compile is checked by tools/providers/qnn.py, which needs onnxruntime-qnn.
"""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import dfmpc_onnx
from dfmpc_onnx.errors import OptionError
from tests import graphs
from tests.commands import assert_refused, dfmpc

TYPES = {"8": np.uint8, "16": np.uint16}


def gated() -> onnx.ModelProto:
    """A residual block with a gate, a Tanh, a constant that is added, and what only moves values."""
    net = graphs.Net()
    x = net.block("x", 8)
    gate = net.node("Sigmoid", net.conv(net.node("GlobalAveragePool", x), 8, 1))
    y = net.node("Add", net.node("Mul", x, gate), net.weight("shift", np.full((1, 8, 1, 1), 0.3, np.float32)))
    y = net.node("Tanh", net.node("Transpose", net.node("Transpose", y, perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2]))
    net.channels[y] = 8
    return net.model(net.tail(net.block(y, 8)))


def made(model: onnx.ModelProto, activations: str | None = None, **options: object) -> onnx.ModelProto:
    return dfmpc_onnx.quantize(model, None, "int8", target="qnn", activations=activations, check=False, **options).model


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def scale_behind(model: onnx.ModelProto, op: str) -> tuple[float, int]:
    values, makers = constants(model), {name: n for n in model.graph.node for name in n.output}
    (node,) = (
        n
        for n in model.graph.node
        if n.op_type == "QuantizeLinear" and makers.get(n.input[0]) is not None and makers[n.input[0]].op_type == op
    )
    return float(values[node.input[1]]), int(values[node.input[2]])


@pytest.mark.parametrize("activations", ["8", "16"])
def test_every_operator_reads_and_gives_codes(activations: str) -> None:
    model = made(gated(), activations)
    onnx.checker.check_model(model, full_check=True)
    makers = {name: n for n in model.graph.node for name in n.output}
    values = constants(model)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        numbers = [name for name in node.input if name not in values or values[name].dtype == np.float32]
        fused = node.op_type == "Relu" and makers[node.input[0]].op_type == "Conv"
        assert fused or {makers[name].op_type for name in numbers} == {"DequantizeLinear"}, node.name
        readers = {n.op_type for n in model.graph.node if set(node.output) & set(n.input)}
        assert readers <= {"QuantizeLinear", "Relu"}, node.name
    assert makers[model.graph.output[0].name].op_type == "DequantizeLinear"
    codes = {values[n.input[2]].dtype for n in model.graph.node if n.op_type == "QuantizeLinear"}
    assert codes == {np.dtype(TYPES[activations])}


def test_widths_are_mixed_by_default_and_take_opset_21() -> None:
    model = made(graphs.chain())
    assert model.opset_import[0].version == 21 and model.ir_version == 10
    assert made(graphs.chain(), "8").opset_import[0].version == 13
    assert {p.key: p.value for p in model.metadata_props}["dfmpc_onnx.activations"] == "auto"


def widths(model: onnx.ModelProto) -> dict[str, set[int]]:
    """Of each node that computes, the bits of all that it reads and gives."""
    values = constants(model)
    makers = {name: n for n in model.graph.node for name in n.output}
    found: dict[str, set[int]] = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            source = makers.get(node.input[0])
            while source is not None and source.op_type == "Relu":
                source = makers[source.input[0]]
            if source is not None and source.op_type != "DequantizeLinear":
                found.setdefault(source.name, set()).add(8 * values[node.input[2]].dtype.itemsize)
        elif node.op_type != "DequantizeLinear":
            sources = [makers[name] for name in node.input if name in makers]
            codes = [n for n in sources if n.op_type == "DequantizeLinear" and n.input[0] in makers]
            found.setdefault(node.name, set()).update(8 * values[n.input[2]].dtype.itemsize for n in codes)
    return found


def test_what_cpu_leaves_in_float_has_16_bits_with_all_that_its_nodes_touch(tmp_path: pathlib.Path) -> None:
    recipe = tmp_path / "mixed.toml"
    recipe.write_text('extends = "int8"\n[passes.keep_activations_float]\ntensors = ["relu2"]\nwide_budget = 1.0\n')
    net = graphs.Net()
    y = net.block(net.block(net.block(net.block(net.block("x", 8), 8), 8), 8), 8)
    network = net.model(net.tail(y))
    found = dfmpc_onnx.quantize(network, None, recipe, target="qnn", check=False)
    onnx.checker.check_model(found.model, full_check=True)
    bits = widths(found.model)
    assert all(len(both) <= 1 for both in bits.values()), "a node of two widths"
    assert [bits[f"conv{i}"] for i in range(1, 6)] == [{8}, {16}, {16}, {8}, {8}]
    assert bits["gemm1"] == {16}, "scores, which cpu gives in float"
    assert found.report.activation_widths == {8: 6, 16: 3} and all(layer.integer for layer in found.report.layers)
    asked = next(step.result for step in found.report.passes if step.name == "keep_activations_float")
    assert [(r.site, r.action) for r in asked.rewrites] == [("relu2", "has 16 bits: asked for")]
    x = graphs.input_of(network)
    assert graphs.relative(graphs.run(found.model, x), graphs.run(network, x)) < 0.05


def test_from_8_to_16_bits_no_value_changes() -> None:
    model = made(graphs.chain())
    values, makers = constants(model), {name: n for n in model.graph.node for name in n.output}
    steps = [
        (makers[node.input[0]], node)
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and makers.get(node.input[0], node).op_type == "DequantizeLinear"
    ]
    assert steps
    for narrow, wide in steps:
        assert values[narrow.input[2]].dtype == np.uint8 and values[wide.input[2]].dtype == np.uint16
        assert float(values[narrow.input[1]]) == pytest.approx(257 * float(values[wide.input[1]]), rel=1e-6)
        assert 257 * int(values[narrow.input[2]]) == pytest.approx(int(values[wide.input[2]]), abs=129)


def test_mixed_widths_come_as_close_as_16_bits_where_8_cost_too_much() -> None:
    x = graphs.input_of(gated())
    want = graphs.run(gated(), x)
    coarse, mixed, fine = (graphs.relative(graphs.run(made(gated(), bits), x), want) for bits in ("8", "auto", "16"))
    assert fine <= mixed * 1.05 and mixed < coarse


def test_a_constant_beside_16_bits_has_16(tmp_path: pathlib.Path) -> None:
    recipe = tmp_path / "mixed.toml"
    recipe.write_text('extends = "int8"\n[passes.keep_activations_float]\ntensors = ["mul1"]\n')
    model = dfmpc_onnx.quantize(gated(), None, recipe, target="qnn", check=False).model
    values, makers = constants(model), {name: n for n in model.graph.node for name in n.output}
    (node,) = (n for n in model.graph.node if n.op_type == "Add")
    assert {values[makers[name].input[2]].dtype for name in node.input} == {np.dtype(np.uint16)}


def test_the_terminal_counts_activations_by_their_bits(tmp_path: pathlib.Path) -> None:
    onnx.save(graphs.chain(), tmp_path / "m.onnx")
    command = ("quantize", tmp_path / "m.onnx", "-o", tmp_path / "out.onnx", "--target", "qnn", "--recipe", "int8")
    said = dfmpc(*command)
    assert "of 8 bits" in said.stdout and "of 16 bits" in said.stdout


def test_16_bits_come_closer_to_the_float_network_than_8() -> None:
    x = graphs.input_of(gated())
    want = graphs.run(gated(), x)
    coarse, fine = (graphs.relative(graphs.run(made(gated(), bits), x), want) for bits in ("8", "16"))
    assert fine < coarse < 0.1


@pytest.mark.parametrize(("activations", "levels"), [("8", 256), ("16", 65536)])
def test_sigmoid_and_tanh_have_the_scales_of_their_bounds(activations: str, levels: int) -> None:
    model = made(gated(), activations)
    assert scale_behind(model, "Sigmoid") == (1 / levels, 0)
    assert scale_behind(model, "Tanh") == (2 / levels, levels // 2)


@pytest.mark.parametrize(
    ("network", "op", "scales"), [(graphs.gemm_tail(1), "Gemm", 5), (graphs.matmul_tail(), "MatMul", 1)]
)
def test_a_matmul_has_one_scale_and_a_gemm_one_a_channel(network: onnx.ModelProto, op: str, scales: int) -> None:
    model = made(network)
    values, makers = constants(model), {name: n for n in model.graph.node for name in n.output}
    node = next(n for n in reversed(model.graph.node) if n.op_type == op)
    assert values[makers[node.input[1]].input[1]].size == scales


def test_a_layer_left_in_float_reads_through_a_max_of_two() -> None:
    """onnxruntime would quantize its weight; QNN takes no Max of one."""
    model = made(graphs.chain(), layers=["conv2=float"])
    (node,) = (n for n in model.graph.node if n.op_type == "Max")
    assert len(node.input) == 2 and len(set(node.input)) == 1


def test_an_open_batch_becomes_1_and_is_named(tmp_path: pathlib.Path) -> None:
    net = graphs.Net(("N", 3, 8, 8))
    model = net.model(net.tail(net.block(net.block("x", 8), 8)))
    onnx.save(model, tmp_path / "m.onnx")
    out = tmp_path / "out.onnx"
    command = ("quantize", tmp_path / "m.onnx", "-o", out, "--target", "qnn", "--recipe", "per-channel")
    result = dfmpc(*command)
    assert "input 'x' is fixed at 1x3x8x8, since qnn takes no open dimension" in " ".join(result.stderr.split())
    for value in (*(found := onnx.load(out).graph).input, *found.output):
        assert [d.dim_value for d in value.type.tensor_type.shape.dim] in ([1, 3, 8, 8], [1, 5])
    given = dfmpc(*command, "--input-shape", "4x3x8x8")
    assert "is fixed" not in given.stderr
    assert onnx.load(out).graph.output[0].type.tensor_type.shape.dim[0].dim_value == 4
    assert given.exit_code == 0 and "verdict" in given.stdout


def test_an_open_size_is_refused_before_anything_runs(tmp_path: pathlib.Path) -> None:
    net = graphs.Net((1, 3, "h", "w"))
    onnx.save(net.model(net.conv("x", 8)), tmp_path / "m.onnx")
    out = tmp_path / "out.onnx"
    refused = dfmpc("quantize", tmp_path / "m.onnx", "-o", out, "--target", "qnn")
    assert_refused(refused, "target qnn: it takes no open dimension, and input 'x'", "--input-shape x:1x3x640x640")
    assert not out.exists()


def test_an_operator_that_it_does_not_take_is_named() -> None:
    net = graphs.Net()
    y = net.node("Sinh", net.block("x", 8))
    net.channels[y] = 8
    model = net.model(net.tail(net.block(y, 8)))
    report = dfmpc_onnx.quantize(model, None, "per-channel", target="qnn", check=False).report
    assert any(w.startswith("qnn takes no Sinh ('sinh1'): the processor runs these") for w in report.warnings)
    found = [r for step in report.passes for r in step.result.refusals if r.code == "operator-not-taken"]
    assert [(r.site, r.reason) for r in found] == [("sinh1", "qnn takes no Sinh: the processor runs it")]


def test_what_sizes_alone_decide_is_folded_and_not_named() -> None:
    net = graphs.Net()
    y = net.node("Reshape", net.block("x", 8), net.node("Shape", "x.again"))
    net.channels[y] = 8
    model = net.model(net.tail(net.block(y, 8)))
    model.graph.node.insert(0, onnx.helper.make_node("Identity", ["x"], ["x.again"], name="again"))
    report = dfmpc_onnx.quantize(model, None, "per-channel", target="qnn", check=False).report
    assert not any("takes no" in w for w in report.warnings)


def test_other_targets_take_8_bits_alone() -> None:
    with pytest.raises(OptionError, match="activations 16: cpu takes 4 or 8 bits; give one of these, or none"):
        dfmpc_onnx.quantize(graphs.chain(), None, activations=16)


def test_an_opset_that_cannot_be_raised_leaves_activations_in_float() -> None:
    """16 bits need opset 21, which a foreign operator may keep the converter from."""
    model = graphs.chain()
    model.opset_import.append(onnx.helper.make_opsetid("my.ops", 1))
    model.graph.node.append(onnx.helper.make_node("Mine", [model.graph.output[0].name], ["mine"], domain="my.ops"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("mine", TensorProto.FLOAT, None))
    found = dfmpc_onnx.quantize(model, None, "per-channel", target="qnn", weights="8", check=False)
    assert "QuantizeLinear" not in {node.op_type for node in found.model.graph.node}
    assert found.report.warnings[0].startswith("opset 13 has no DequantizeLinear of 16 bits; activations stay in float")
    assert "qnn takes no my.ops::Mine" in found.report.warnings[1]
