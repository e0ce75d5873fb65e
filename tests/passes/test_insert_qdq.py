import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import dfmpc_onnx
from dfmpc_onnx.graph.exchange import to_model
from dfmpc_onnx.pipeline.facts import Codes, Placement
from tests import graphs


def inserted(model, **options):
    return graphs.prepared(model, "insert_qdq", **options)


def whole(model, **options):
    """The graph after the whole pipeline, as insert_qdq alone leaves weights in float."""
    return graphs.prepared(model, "pack_weights", **options)[0].graph


def node(graph, name):
    return next(n for n in graph.nodes if n.name == name)


def test_before_and_after():
    net = graphs.Net()
    space, _ = inserted(net.model(net.block("x", 4)))
    assert graphs.wiring(space.graph) == [
        "a0.q = QuantizeLinear(x, a0.scale, a0.zp)",
        "a0 = DequantizeLinear(a0.q, a0.scale, a0.zp)",
        "b0 = DequantizeLinear(b0.codes, b0.scale)",
        "norm1 = Conv(a0, conv1.w, b0)",
        "relu1.float = Relu(norm1)",
        "a1.q = QuantizeLinear(relu1.float, a1.scale, a1.zp)",
        "relu1 = DequantizeLinear(a1.q, a1.scale, a1.zp)",
    ]
    assert graphs.values(space.graph, "a0.zp").dtype == np.uint8
    assert graphs.values(space.graph, "a1.zp") == 0
    assert space.get(Placement).integer == {"conv1"}


@pytest.mark.parametrize(
    ("network", "want"),
    [
        (graphs.chain, {"QLinearConv": 3, "QGemm": 1, "QLinearGlobalAveragePool": 1}),
        (graphs.residual, {"QLinearConv": 3, "QLinearAdd": 1, "QGemm": 1}),
        (graphs.bottleneck, {"QLinearConv": 4, "QLinearAdd": 1, "QGemm": 1}),
        (graphs.depthwise, {"QLinearConv": 4, "QGemm": 1}),
        (graphs.bounded, {"QLinearConv": 3, "QGemm": 1}),
        (graphs.without_activation, {"QLinearConv": 3, "QGemm": 1}),
        (graphs.negative_gamma, {"QLinearConv": 3}),
        (graphs.dead_channel, {"QLinearConv": 3}),
        (graphs.folded, {"QLinearConv": 3, "QGemm": 1}),
        (lambda: graphs.gemm_tail(0), {"QLinearConv": 1, "QGemm": 2}),
        (lambda: graphs.gemm_tail(1), {"QLinearConv": 1, "QGemm": 2}),
        (graphs.matmul_tail, {"QLinearConv": 1, "QLinearMatMul": 1}),
        (graphs.old, {"QLinearConv": 3, "QGemm": 1}),
        (lambda: graphs.mean_tail(1), {"QLinearConv": 1, "QLinearGlobalAveragePool": 1, "QGemm": 1}),
    ],
)
@pytest.mark.parametrize("weights", ["2/6", "8"])
def test_onnxruntime_fuses_every_layer_with_its_activation_to_an_integer_kernel(network, want, weights):
    kernels = graphs.kernels(whole(network(), weights=weights))
    assert {op: kernels[op] for op in want} == want
    assert not {"Conv", "FusedConv", "Gemm", "MatMul", "Relu", "Clip", "Cast"} & set(kernels)


def gate(kind, split):
    """x * gate(x): SiLU and the like; split puts it behind a squeeze and excitation."""
    net = graphs.Net()
    x = net.norm(net.conv("x", 8))
    inner = net.conv(net.relu(net.conv(net.node("GlobalAveragePool", x), 4, 1, bias=True)), 8, 1, bias=True)
    return net.model(net.tail(net.block(net.node("Mul", x, net.node(kind, inner if split else x)), 8)))


def through(op, *constants, outputs=(), **attributes):
    """A block, an operator that moves or averages values, and a block."""
    net = graphs.Net()
    names = [net.weight(f"c{i}", c) if c is not None else "" for i, c in enumerate(constants)]
    x = net.node(op, net.block("x", 8), *names, **attributes)
    return net.model(net.tail(net.block(x, 8)))


def concat():
    net = graphs.Net()
    x = net.block("x", 8)
    x = net.node("Concat", net.block(x, 4), net.block(x, 4), x, axis=1)
    net.channels[x] = 16
    return net.model(net.tail(net.block(x, 8)))


HALF = {"kernel_shape": [2, 2], "strides": [2, 2]}
NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


@pytest.mark.parametrize(
    ("model", "want"),
    [
        (gate("Sigmoid", split=False), {"QLinearSigmoid": 1, "QLinearMul": 1, "QLinearConv": 2}),
        (gate("Sigmoid", split=True), {"QLinearGlobalAveragePool": 2, "QLinearMul": 1, "QLinearConv": 4}),
        (gate("HardSigmoid", split=True), {"QLinearGlobalAveragePool": 2, "QLinearMul": 1, "QLinearConv": 4}),
        (concat(), {"QLinearConcat": 1, "QLinearConv": 4}),
        (through("MaxPool", **HALF), {"MaxPool": 1, "QLinearConv": 2}),
        (through("AveragePool", **HALF), {"QLinearAveragePool": 1, "QLinearConv": 2}),
        (through("LeakyRelu", alpha=0.1), {"QLinearLeakyRelu": 1, "QLinearConv": 2}),
        (through("Resize", None, np.float32([1, 1, 2, 2]), **NEAREST), {"Resize": 1, "QLinearConv": 2}),
        (through("Pad", np.int64([0, 0, 1, 1, 0, 0, 1, 1])), {"Pad": 1, "QLinearConv": 2}),
        (through("Pad", np.int64([0, 0, 1, 1, 0, 0, 1, 1]), np.float32(0)), {"Pad": 1, "QLinearConv": 2}),
        (graphs.activation_first(), {"QLinearConv": 4, "QGemm": 1}),
    ],
)
def test_what_stands_between_layers_computes_in_integers(model, want):
    kernels = graphs.kernels(whole(model, weights="8"))
    assert {op: kernels[op] for op in want} == want
    assert (kernels["QuantizeLinear"], kernels["DequantizeLinear"]) == (1, 0)
    assert graphs.relative(graphs.run(whole(model, weights="8"), graphs.input_of(model)), graphs.run(model)) < 0.08


@pytest.mark.parametrize("kind", ["Tanh"])
def test_a_gate_without_an_integer_kernel_stands_alone_in_float(kind):
    kernels = graphs.kernels(whole(gate(kind, split=True), weights="8"))
    assert (kernels["QuantizeLinear"], kernels["DequantizeLinear"]) == (2, 1)
    assert (kernels["QLinearConv"], kernels["QLinearMul"], kernels["QGemm"]) == (4, 1, 1)


def test_a_pad_with_another_value_than_zero_is_float():
    model = through("Pad", np.int64([0, 0, 1, 1, 0, 0, 1, 1]), np.float32(0.5))
    kernels = graphs.kernels(whole(model, weights="8"))
    assert (kernels["DequantizeLinear"], kernels["QLinearConv"]) == (1, 2)
    assert graphs.relative(graphs.run(whole(model, weights="8"), graphs.input_of(model)), graphs.run(model)) < 0.08


def test_a_split_gives_all_its_parts_the_scale_of_the_whole():
    """By a recipe that measures ranges, since the closed form knows no Split."""
    net = graphs.Net()
    net.nodes.append(helper.make_node("Split", [net.block("x", 8)], ["left", "right"], "split", axis=1))
    net.channels.update(left=4, right=4)
    x = net.node("Concat", "right", net.block("left", 4), axis=1)
    net.channels[x] = 8
    model = net.model(net.tail(net.block(x, 8)))
    made = dfmpc_onnx.quantize(model, None, "int8", check=False).model
    kernels = graphs.kernels(made)
    assert {op: kernels[op] for op in ("QLinearConv", "QLinearConcat", "QGemm", "Split")} == {
        "QLinearConv": 3,
        "QLinearConcat": 1,
        "QGemm": 1,
        "Split": 1,
    }
    assert kernels["DequantizeLinear"] == 0


def test_every_bias_leaves_room_for_the_sum_of_products():
    """int32 holds bias codes and 2^30 more, whatever the bias."""
    net = graphs.Net()
    for size in (1e-3, 1.0, 1e6):
        net.conv("x", 4, bias=True)
        net.weights[f"conv{len(net.nodes)}.b"] *= np.float32(size)
    model = net.model(*(net.conv(net.relu(f"conv{i}"), 4) for i in (1, 2, 3)))
    graph = whole(model, weights="8")
    codes = [graphs.values(graph, n) for n in graph.tensors() if n.startswith("b") and n.endswith(".codes")]
    assert len(codes) == 3 and max(int(np.abs(c.astype(np.int64)).max()) for c in codes) <= 2**30
    assert graphs.kernels(graph)["QLinearConv"] == 6


def test_pooling_keeps_the_scale_of_its_input():
    net = graphs.Net()
    x = net.node("MaxPool", net.block("x", 4), kernel_shape=[2, 2], strides=[2, 2])
    graph = whole(net.model(net.block(x, 4)))
    scales = {n.inputs[0].name: n.inputs[1] for n in graph.nodes if n.op == "QuantizeLinear"}
    assert scales["maxpool1"] is scales["relu1"]
    assert graphs.kernels(graph)["QLinearConv"] == 2


def test_a_bias_is_int32_at_the_scale_of_the_products():
    space, _ = inserted(graphs.chain())
    x, codes, scale = (graphs.values(space.graph, n) for n in ("a0.scale", "b0.codes", "b0.scale"))
    from dfmpc_onnx.pipeline.facts import Codes

    assert codes.dtype == np.int32
    assert np.allclose(scale, x * space.get(Codes).weights["conv1"].scale.reshape(-1), rtol=1e-6)
    before = graphs.prepared(graphs.chain(), "raise_opset")[0].graph
    assert (np.abs(codes * scale.astype(float) - graphs.values(before, "conv1.bias")) <= scale * 0.51).all()


def test_a_channel_whose_bias_int32_could_not_hold_is_rounded_coarser():
    net = graphs.Net()
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)) * 1e-7
    x = net.conv("x", 4, weight=weight, bias=True)
    model = net.model(net.conv(net.relu(x), 4))
    space, result = inserted(model, weights="8")
    assert graphs.reasons(result) == {}
    assert space.get(Placement).integer == {"conv1", "conv2"}
    assert [r.action for r in result.rewrites if r.site == "conv1"] == ["4 channels rounded coarser for their bias"]
    proto = graphs.to_model(whole(model, weights="8"))
    x = graphs.input_of(model)
    assert graphs.relative(graphs.run(graphs.optimized(proto), x), graphs.run(proto, x)) < 0.02


def test_a_quantized_output_of_the_model_keeps_its_name_type_and_place():
    net = graphs.Net()
    x = net.block("x", 4)
    model = net.model(net.block(x, 4), x)
    graph = whole(model, weights="8")
    assert [(t.name, t.dtype) for t in graph.outputs] == [("relu2", np.float32), ("relu1", np.float32)]
    assert [t.inputs[0].op for t in graph.outputs] == ["DequantizeLinear"] * 2
    assert graphs.kernels(graph)["QLinearConv"] == 2
    assert graphs.relative(graphs.run(graph, graphs.input_of(model)), graphs.run(model)) < 0.06


def test_an_input_that_is_an_output_too_passes_unquantized():
    net = graphs.Net()
    model = net.model(net.block("x", 4), "x")
    x = graphs.input_of(model)
    assert np.array_equal(graphs.run(whole(model), x)[1], x)


@pytest.mark.parametrize("layer", ["conv1", "conv2", "conv3", "gemm1"])
def test_a_layer_that_shall_be_float_is_float_in_what_onnxruntime_runs(layer):
    model = graphs.optimized(whole(graphs.chain(), layers=[f"{layer}=float"]))
    ops = [n.op_type for n in model.graph.node]
    assert sum(op in ("Conv", "FusedConv", "Gemm", "FusedGemm") for op in ops) == 1
    assert ops.count("QLinearConv") + ops.count("QGemm") == 3


def test_a_float_layer_behind_what_only_moves_is_float_as_well():
    """onnxruntime moves the DequantizeLinear behind the Transpose, and then quantizes the weight behind it."""
    net = graphs.Net()
    x = net.node("Transpose", net.block("x", 4), perm=[0, 1, 3, 2])
    model = net.model(net.block(net.block(x, 4), 4))
    ops = graphs.kernels(whole(model, layers=["conv2=float"]))
    assert ops["QLinearConv"] == 2 and ops["Conv"] + ops["FusedConv"] == 1


def test_float_activations_leave_the_graph_as_it_is():
    space, _ = graphs.prepared(graphs.chain(), "raise_opset", activations="none")
    before = graphs.snapshot(space.graph)
    graphs.pipeline("insert_qdq")[-1].run(space)
    assert graphs.snapshot(space.graph) == before
    assert space.get(Placement).integer == frozenset()


def refused(model, layer):
    """The reason why a layer does not compute in integers; its weight must stay plain."""
    space, result = inserted(model)
    assert layer not in space.get(Placement).integer
    return graphs.reasons(result)[layer].removesuffix("; integer weights, float arithmetic")


def test_refused_where_the_range_of_the_input_is_not_known():
    net = graphs.Net()
    x = net.node("Erf", net.block("x", 4))
    assert refused(net.model(net.block(x, 4)), "conv2") == "the range of its input is not known"


def test_refused_for_other_than_two_spatial_dimensions():
    net = graphs.Net(shape=(1, 3, 8))
    x = net.node("Conv", net.node("Sigmoid", "x"), net.weight("w", np.ones((4, 3, 1), np.float32)))
    assert refused(net.model(x), "conv1") == "a Conv of 1 spatial dimensions has no fast integer kernel"


def test_an_opset_whose_dequantize_linear_has_no_axis_stays_float():
    net = graphs.Net(opset=11)
    x = net.node("Gelu", net.block("x", 4), domain="com.microsoft")
    model = net.model(net.block(x, 4))
    space, result = inserted(model, weights="8")
    why = "opset 11 has no DequantizeLinear with an axis; activations stay in float"
    assert graphs.reasons(result) == {"model": why} and result.warnings == (why,)
    assert "QuantizeLinear" not in graphs.ops(space.graph)
    assert graphs.relative(graphs.run(whole(model, weights="8"), graphs.input_of(model)), graphs.run(model)) < 0.05


def test_8_bit_codes_with_a_zero_point_that_int8_cannot_hold_the_difference_of_compute_in_float():
    """No grid makes such codes, but a pass from elsewhere may."""
    space, _ = graphs.prepared(graphs.chain(), "raise_opset", weights="8")
    weights = dict(space.get(Codes).weights)
    zero, codes = np.full_like(weights["conv2"].scale, -1), weights["conv2"].codes.copy()
    codes.flat[codes.argmax()] = 127  # and 1 more
    weights["conv2"] = dataclasses.replace(weights["conv2"], codes=codes, zero_point=zero)
    space.put(Codes(weights))
    insert, pack = graphs.pipeline("pack_weights")[-2:]
    node = next(node for node in space.graph.nodes if node.name == "conv2")
    node.inputs[1].values = weights["conv2"].dequantize()
    want = graphs.run(space.graph)
    result = insert.run(space)
    why = "its codes less their zero points do not fit INT8; integer weights, float arithmetic"
    assert graphs.reasons(result) == {"conv2": why}
    assert "conv2" not in space.get(Placement).integer and len(space.get(Placement).integer) == 3
    pack.run(space)
    assert graphs.relative(graphs.run(space.graph), want) < 0.05


def quantized_by_training(kind):
    """A Conv whose input and weight carry scales of training, and a block behind it; kind: of the input's codes."""
    net = graphs.Net()
    scale, zero = net.weight("sx", np.float32(0.02)), net.weight("zx", kind(0))
    x = net.node("DequantizeLinear", net.node("QuantizeLinear", "x", scale, zero), scale, zero)
    codes = net.random.integers(-127, 128, (8, 3, 3, 3)).astype(np.int8)
    scales = net.weight("sw", np.full(8, 0.002, np.float32))
    weight = net.node(
        "DequantizeLinear", net.weight("wq", codes), scales, net.weight("zw", np.zeros(8, np.int8)), axis=0
    )
    x = net.node("Conv", x, weight, pads=[1] * 4)
    net.channels[x] = 8
    return net.model(net.conv(net.relu(x), 4))


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_what_training_quantized_stays_quantized(kind, target):
    model = quantized_by_training(kind)
    made = dfmpc_onnx.quantize(model, None, "int8", target=target, check=False).model
    makers = {name: n for n in made.graph.node for name in n.output}
    (conv,) = (n for n in made.graph.node if n.name == "conv1")
    assert [makers[name].op_type for name in conv.input] == ["DequantizeLinear"] * 2
    x = graphs.input_of(model)
    assert graphs.relative(graphs.run(made, x), graphs.run(model, x)) < 0.05


def test_a_layer_takes_the_int8_codes_that_training_gave_its_input_for_tensorrt():
    net = graphs.Net()
    scale, zero = net.weight("sx", np.float32(0.02)), net.weight("zx", np.int8(0))
    x = net.node("DequantizeLinear", net.node("QuantizeLinear", "x", scale, zero), scale, zero)
    net.channels[x] = 3
    made = dfmpc_onnx.quantize(net.model(net.conv(x, 4)), None, "int8", target="tensorrt", check=False).model
    assert [n.op_type for n in made.graph.node].count("QuantizeLinear") == 1


@pytest.mark.parametrize("first", ["product", "bias"])
@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize("weights", ["2", "4", "7", "8"])
def test_a_matmul_with_a_bias_of_rank_3_loads_for_tensorrt(first, opset, weights, tmp_path):
    net = graphs.Net(opset=opset)
    x = net.node("Transpose", net.conv("x", 16), perm=[0, 2, 3, 1])
    x = net.node("Reshape", x, net.weight("tokens", np.array([1, 64, 16])))
    net.channels[x] = 16
    for size in (32, 16):
        bias = net.weight(f"bias{size}", net.random.standard_normal(size).astype(np.float32))
        product = net.matmul(x, size)
        x = net.relu(net.node("Add", *((product, bias) if first == "product" else (bias, product))))
        net.channels[x] = size
    model = net.model(net.matmul(x, 5))
    recipe = tmp_path / "all.toml"  # no activation is too dear, so that all three are quantized
    recipe.write_text('extends = "int8"\n[passes.keep_activations_float]\nbudget = 0.1\n')
    made = dfmpc_onnx.quantize(
        model, None, str(recipe), weights=weights, target="tensorrt", preprocess="imagenet"
    ).model
    biases = {t.name: tuple(t.dims) for t in made.graph.initializer}
    adds = [n for n in made.graph.node if n.op_type == "Add"]
    assert sorted(biases[name] for n in adds for name in n.input if name in biases) == [(1, 16), (1, 32)]
    assert graphs.run(made)[0].shape == graphs.run(model)[0].shape


def test_a_max_pool_behind_float_arithmetic_pools_floats_and_one_between_integers_codes():
    """onnxruntime's pool of codes with channels first takes ten times as long as that of floats."""
    net = graphs.Net(shape=(1, 3, 16, 16))
    x = net.relu(net.conv("x", 8))
    x = net.conv(net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), 8)
    x = net.conv(net.node("MaxPool", net.relu(x), kernel_shape=[2, 2], strides=[2, 2]), 8)
    model = net.model(net.conv(x, 4))
    made = dfmpc_onnx.quantize(model, recipe="int8", layers=["conv1=float"], preprocess="imagenet").model
    rewritten = graphs.optimized(made)
    reads = {node.name: node.input[0] for node in rewritten.graph.node if node.op_type == "MaxPool"}
    makers = {name: node.op_type for node in rewritten.graph.node for name in node.output}
    assert makers[reads["maxpool1"]] in ("Conv", "FusedConv", "Relu")
    assert makers[reads["maxpool2"]] == "QLinearConv"
    x = graphs.input_of(model)
    assert graphs.relative(graphs.run(made, x), graphs.run(model, x)) < 0.05


@pytest.mark.parametrize("bound", ["Relu", "Clip"])
@pytest.mark.parametrize("behind", ["Sigmoid", "output"])
def test_a_gemm_with_a_relu_that_no_integer_layer_reads_computes_in_integers(bound, behind, tmp_path):
    """onnxruntime computes such a pair in float, where nothing stands between."""
    net = graphs.Net()
    pooled = net.node("Flatten", net.node("GlobalAveragePool", net.relu(net.conv("x", 8))))
    net.channels[pooled] = 8
    y = net.gemm(pooled, 6)
    y = net.relu(y) if bound == "Relu" else net.clip(y)
    model = net.model(net.node("Sigmoid", y) if behind == "Sigmoid" else y)
    report = dfmpc_onnx.quantize(model, tmp_path / "q.onnx", "per-channel", weights="8", activations="8").report
    found = {layer.name: layer.integer for layer in dfmpc_onnx.inspect(tmp_path / "q.onnx").quantized_layers}
    assert found == {layer.name: layer.integer for layer in report.layers} == {"conv1": True, "gemm1": True}


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_a_layer_in_front_of_codes_of_another_type_computes_in_integers(kind, tmp_path):
    """As where half of a network was trained for another target."""
    net = graphs.Net()
    scale, zero = net.weight("sx", np.float32(0.02)), net.weight("zx", kind(0))
    x = net.relu(net.conv("x", 4))
    y = net.node("DequantizeLinear", net.node("QuantizeLinear", x, scale, zero), scale, zero)
    net.channels[y] = 4
    report = dfmpc_onnx.quantize(net.model(net.conv(y, 4)), tmp_path / "q.onnx", "int8", activations="8").report
    found = {layer.name: layer.integer for layer in dfmpc_onnx.inspect(tmp_path / "q.onnx").quantized_layers}
    assert found == {layer.name: layer.integer for layer in report.layers}
    assert found["conv1"]


def test_few_bits_are_for_what_inner_layers_read_and_sums_read_floats():
    space, _ = inserted(graphs.residual(), activations="4")
    wiring = graphs.wiring(space.graph)
    assert [line for line in wiring if "Max(" in line or "Add(" in line or "Linear(" in line] == [
        "a0.q = QuantizeLinear(x, a0.scale, a0.zp)",
        "a0 = DequantizeLinear(a0.q, a0.scale, a0.zp)",
        "a1.q.float = Max(relu1)",
        "a1.q = QuantizeLinear(a1.q.float, a1.scale, a1.zp)",
        "a1 = DequantizeLinear(a1.q, a1.scale, a1.zp)",
        "a2.q.float = Max(relu2)",
        "a2.q = QuantizeLinear(a2.q.float, a2.scale, a1.zp)",
        "a2 = DequantizeLinear(a2.q, a2.scale, a1.zp)",
        "add1 = Add(norm3, relu1)",
        "a3.q = QuantizeLinear(flatten1, a3.scale, a3.zp)",
        "a3 = DequantizeLinear(a3.q, a3.scale, a3.zp)",
    ]
    kinds = {name: graphs.values(space.graph, f"{name}.zp").dtype.name for name in ("a0", "a1", "a3")}
    assert kinds == {"a0": "uint8", "a1": "uint4", "a3": "uint8"}
    assert space.get(Placement).integer == {"conv1", "conv2", "conv3", "gemm1"}


@pytest.mark.parametrize("network", [name for name in graphs.ALL if name != "gemm_tail_plain"])
def test_onnxruntime_optimizes_codes_of_4_bits_to_nothing_that_it_cannot_run(network):
    make = graphs.ALL[network]
    graph = whole(make(), activations="4")
    x, proto, options = graphs.input_of(make()), to_model(graph), onnxruntime.SessionOptions()
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert graphs.relative(session.run(None, {"x": x}), graphs.run(graph, x)) < 1e-4
    assert graphs.relative(ReferenceEvaluator(proto).run(None, {"x": x}), graphs.run(graph, x)) < 1e-4
