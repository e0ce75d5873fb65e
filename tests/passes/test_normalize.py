import numpy as np
import onnx
import pytest

from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.pipeline.facts import Normalized
from dfmpc_passes import Normalize
from dfmpc_passes.pair_convolutions import find_layers
from tests import graphs


def normalized(model):
    space = graphs.workspace(model)
    return space, Normalize().run(space)


def parsed(body, opset=13):
    """A network written as text; y is its output."""
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> net (float[1,2,4,4] x) => (float[1,2,4,4] y) {body}'
    )


WEIGHT = "<float[2,2,1,1] w = {1.0, 2.0, 3.0, 4.0}>"


def test_a_normal_graph_stays_as_it_is():
    space = graphs.workspace(graphs.residual())
    Normalize().run(space)
    once = graphs.snapshot(space.graph)
    result = Normalize().run(space)
    assert graphs.snapshot(space.graph) == once
    assert result.rewrites == ()
    assert space.get(Normalized).opset == 13


def test_constant_node_to_initializer():
    space, result = normalized(
        parsed("{ [k] w = Constant<value = float[2,2,1,1] {1.0, 2.0, 3.0, 4.0}>() [c] y = Conv(x, w) }")
    )
    assert graphs.wiring(space.graph) == ["y = Conv(x, w)"]
    assert graphs.values(space.graph, "w").reshape(-1).tolist() == [1, 2, 3, 4]
    assert [(r.site, r.action) for r in result.rewrites] == [("k", "Constant node to initializer")]


@pytest.mark.parametrize(
    "made",
    ["k = Constant <value = float[2,2,1,1] {1.0, 2.0, 3.0, 4.0}> ()", "k = Identity (w)", "k = Reshape (v, shape)"],
)
def test_a_constant_that_is_an_output_as_well_is_an_initializer_that_a_layer_has_a_copy_of(made):
    """Its layer stayed float for a computed weight of one value, and `inspect` counted all that it stores."""
    stored = "<float[2,2,1,1] w = {1, 2, 3, 4}, float[2,2] v = {1, 2, 3, 4}, int64[4] shape = {2, 2, 1, 1}>"
    model = parsed(f"{stored} {{ {made} y = Conv (x, k) }}")
    model.graph.output.append(onnx.helper.make_tensor_value_info("k", onnx.TensorProto.FLOAT, [2, 2, 1, 1]))
    space, _ = normalized(model)
    assert graphs.wiring(space.graph) == ["y = Conv(x, k_copy)"]
    assert [output.name for output in space.graph.outputs] == ["y", "k"]
    assert graphs.values(space.graph, "k_copy").reshape(-1).tolist() == [1, 2, 3, 4]
    assert space.graph.outputs[1].values.reshape(-1).tolist() == [1, 2, 3, 4]


def test_identity_and_dropout_are_removed():
    space, result = normalized(
        parsed(f"{WEIGHT} {{ v = Identity(w) a = Conv(x, v) b = Dropout(a) c = Identity(b) y = Relu(c) }}")
    )
    assert graphs.wiring(space.graph) == ["a = Conv(x, w)", "y = Relu(a)"]
    assert len(result.rewrites) == 3


def test_an_identity_that_names_the_output_stays():
    space, _ = normalized(parsed(f"{WEIGHT} {{ a = Conv(x, w) y = Identity(a) }}"))
    assert graphs.wiring(space.graph) == ["a = Conv(x, w)", "y = Identity(a)"]


def test_a_dropout_in_training_mode_stays():
    space, _ = normalized(
        parsed("<float[2,2,1,1] w = {1.0, 2.0, 3.0, 4.0}, float r = {0.5}, bool t = {1}> "
               "{ a = Conv(x, w) b = Dropout(a, r, t) y = Relu(b) }")
    )  # fmt: skip
    assert graphs.ops(space.graph) == ["Conv", "Dropout", "Relu"]


def test_a_shared_weight_is_given_to_each_reader():
    space, result = normalized(parsed(f"{WEIGHT} {{ [one] a = Conv(x, w) [two] y = Conv(a, w) }}"))
    first, second = (node.inputs[1] for node in space.graph.nodes)
    assert first.name != second.name
    assert np.array_equal(first.values, second.values)
    assert {r.action for r in result.rewrites} == {"shared weight copied"}


def test_one_initializer_as_beta_and_mean_of_a_norm_is_given_to_both():
    model = parsed(
        "<float[2,2,1,1] w = {1.0, 2.0, 3.0, 4.0}, float[2] one = {1.0, 1.0}, float[2] zero = {0.0, 0.0}> "
        "{ a = Conv(x, w) y = BatchNormalization(a, one, zero, zero, one) }"
    )
    space, _ = normalized(model)
    assert len({t.name for t in space.graph.nodes[1].inputs[1:]}) == 4
    assert graphs.relative(graphs.run(space.graph), graphs.run(model)) == 0


def test_every_node_is_named_once():
    space, _ = normalized(parsed(f"{WEIGHT} {{ [n] a = Conv(x, w) [n] b = Relu(a) c = Relu(b) y = Relu(c) }}"))
    names = [node.name for node in space.graph.nodes]
    assert names == ["n", "n_1", "Relu_2", "Relu_3"]


def test_a_node_that_nothing_reads_is_taken_off():
    space, _ = normalized(parsed(f"{WEIGHT} {{ y = Conv(x, w) a = Relu(y) b = Relu(a) }}"))
    assert graphs.wiring(space.graph) == ["y = Conv(x, w)"]


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_mean_over_height_and_width_becomes_global_average_pool(opset, keepdims):
    model = graphs.mean_tail(keepdims, opset)
    space, _ = normalized(model)
    assert graphs.ops(space.graph)[3:] == ["GlobalAveragePool", "Flatten", "Gemm"]
    assert graphs.relative(graphs.run(space.graph), graphs.run(model)) < 1e-6


def test_a_mean_keeps_the_type_of_its_input():
    space, _ = normalized(
        onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["": 13]> net (float[1,2,4,4] x) => (double[1,2] y) '
            "<float[2,2,1,1] w = {1, 2, 3, 4}> "
            "{ a = Conv(x, w) b = Cast<to=11>(a) y = ReduceMean<axes=[2,3], keepdims=0>(b) }"
        )
    )
    assert space.graph.nodes[2].outputs[0].dtype == np.float64


@pytest.mark.parametrize(("number", "kind"), [(11, "double"), (6, "int32"), (7, "int64")])
def test_a_mean_of_what_has_no_pooling_kernel_stays(number, kind):
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 13]> net (float[1,2,4,4] x) => ({kind}[1,2] y) '
        "<float[2,2,1,1] w = {1, 2, 3, 4}> "
        f"{{ a = Conv(x, w) b = Cast<to={number}>(a) y = ReduceMean<axes=[2,3], keepdims=0>(b) }}"
    )
    space, _ = normalized(model)
    assert graphs.ops(space.graph) == ["Conv", "Cast", "ReduceMean"]
    assert graphs.relative(graphs.run(space.graph), graphs.run(model)) < 1e-6


def test_a_mean_over_channels_stays():
    space, _ = normalized(parsed(f"{WEIGHT} {{ a = Conv(x, w) b = ReduceMean<axes=[1]>(a) y = Add(a, b) }}"))
    assert "ReduceMean" in graphs.ops(space.graph)


@pytest.mark.parametrize("listed", [True, False])
def test_an_old_model_is_raised_to_opset_13_node_by_node(listed):
    model = graphs.old(listed)
    space, result = normalized(model)
    assert space.graph.opset == 13
    assert [t.name for t in space.graph.inputs] == ["x"]
    assert "Dropout" not in graphs.ops(space.graph)
    assert result.rewrites[0].action == "opset 9 to 13"
    assert graphs.relative(graphs.run(space.graph), graphs.run(model)) < 1e-6


def test_an_opset_that_cannot_be_converted_is_kept_with_the_reason():
    net = graphs.Net(opset=11)
    model = net.model(net.node("Gelu", net.conv("x", 4), domain="com.microsoft"))
    space, result = normalized(model)
    assert space.graph.opset == 11
    assert graphs.reasons(result) == {"model": "opset 11 kept: the model has operators of domain 'com.microsoft'"}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_no_number_is_the_users_to_mend(bad):
    weight = np.ones((4, 3, 1, 1), np.float32)
    weight[1, 2] = bad
    net = graphs.Net()
    with pytest.raises(ModelError, match=r"'conv1\.w' of Conv 'conv1' holds NaN or infinity"):
        normalized(net.model(net.conv("x", 4, 1, weight=weight)))


@pytest.mark.parametrize("sign", [1, -1])
def test_weights_may_be_large_but_not_absurd(sign):
    for size, wanted in ((9e11, True), (2e12, False), (3e38, False)):
        net = graphs.Net()
        model = net.model(net.conv("x", 4, 1, weight=np.full((4, 3, 1, 1), sign * size)))
        if wanted:
            assert graphs.ops(normalized(model)[0].graph) == ["Conv"]
        else:
            with pytest.raises(ModelError) as caught:
                normalized(model)
            assert f"'conv1.w' of Conv 'conv1' holds values up to {size:.2g}; " in str(caught.value)


def test_a_model_without_a_conv_is_refused():
    net = graphs.Net(shape=(1, 4))
    with pytest.raises(ModelError, match="no Conv"):
        normalized(net.model(net.gemm("x", 3)))


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("conv2.w", (8, 5, 3, 3), "Conv 'conv2' is made for 5 channels, but 'relu1' has 8"),
        ("gemm1.w", (5, 7), "Gemm 'gemm1' is made for 7 channels, but 'flatten1' has 8"),
        ("norm2.beta", (5,), "BatchNormalization 'norm2' is made for 5 channels, but 'conv2' has 8"),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_a_weight_that_does_not_fit_what_it_is_fed_is_refused(name, shape, said, known):
    model = graphs.chain()
    if not known:
        del model.graph.value_info[:]
        model.graph.input[0].CopyFrom(graphs.helper.make_tensor_value_info("x", 1, ["n", "c", "h", "w"]))
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(graphs.numpy_helper.from_array(np.ones(shape, np.float32), name))
    with pytest.raises(ModelError, match=said):
        normalized(model)


def test_channels_follow_from_the_layer_in_front_where_shapes_do_not():
    net = graphs.Net()
    model = net.model(net.node("Relu", net.norm(net.matmul(net.node("Gelu", net.conv("x", 4), domain="foreign"), 5))))
    tensor = next(t for t in model.graph.initializer if t.name == "norm1.mean")
    tensor.CopyFrom(graphs.numpy_helper.from_array(np.ones(6, np.float32), "norm1.mean"))
    with pytest.raises(ModelError, match="BatchNormalization 'norm1' is made for 6 channels, but 'matmul1' has 5"):
        normalized(model)


def test_a_model_whose_convs_all_lie_deeper_is_not_said_to_have_none():
    model = graphs.nested()
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.op_type, node.domain = "Blur", "foreign"
    model.opset_import.append(graphs.helper.make_opsetid("foreign", 1))
    normalized(model)


def test_what_a_model_states_of_its_inner_tensors_may_be_stale():
    model = graphs.residual()
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 5
    space, _ = normalized(model)
    assert space.graph.tensors()["add1"].shape == [1, 8, 8, 5]


def test_what_does_not_follow_stays_as_the_model_states_it():
    net = graphs.Net()
    model = net.model(net.relu(net.relu(net.node("Gelu", net.conv("x", 4), domain="foreign"))))
    model.graph.value_info.append(graphs.helper.make_tensor_value_info("gelu1", 1, [1, 4, 8, 8]))
    tensors = normalized(model)[0].graph.tensors()
    assert tensors["gelu1"].shape == tensors["relu1"].shape == [1, 4, 8, 8]


def stale(body, *stated, opset=13):
    """A network of that body with an initializer ``v [2, 2, 1, 1]``, and what it states of inner tensors."""
    model = parsed(f"<float[2,2,1,1] v = {{1, 2, 3, 4}}, int64[4] zero = {{0, 0, 0, 0}}> {body}", opset)
    model.opset_import.append(onnx.helper.make_opsetid("foreign", 1))
    for name, shape in stated:
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, 1, shape))
    return model


RESHAPED = "{ a = Conv(x, v) s = Shape(a) t = Add(s, zero) d = Reshape(a, t) e = Relu(d) y = Conv(e, v) }"


@pytest.mark.parametrize(
    ("body", "stated"),
    [
        ("{ a = Conv(x, v) d = Neg(a) y = Conv(d, v) }", [("d", [1, 72, 40, 40])]),
        ("{ a = Conv(x, v) d = Neg(a) y = Conv(d, v) }", [("d", [1, 72])]),
        ("{ a = Conv(x, v) d = Neg(a) y = Conv(d, v) }", [("x", [1, 5, 4, 4]), ("v", [9, 9]), ("nobody", [3])]),
        (RESHAPED, [("d", [1, 72, 40, 40]), ("e", [1, 72, 40, 40])]),
        ("{ d = foreign.Blur(x) e = Relu(d) y = Conv(e, v) }", [("d", [1, 72, 4, 4]), ("e", [1, 72, 4, 4])]),
    ],
)
def test_a_stale_shape_is_dropped_rather_than_called_damage(body, stated):
    space, _ = normalized(stale(body, *stated))
    for node in space.graph.nodes:
        assert node.outputs[0].shape in ([1, 2, 4, 4], [4], None)
    assert space.graph.inputs[0].shape == [1, 2, 4, 4]


def test_one_stale_shape_takes_the_word_of_the_others():
    """Of what does not follow from the inputs, behind a Reshape to computed sizes, nothing is known any more."""
    wrong = [("a", [1, 2, 9, 4]), ("d", [1, 2, 4, 5]), ("e", [3, 2, 4, 5])]
    tensors = normalized(stale(RESHAPED, *wrong))[0].graph.tensors()
    assert tensors["a"].shape == [1, 2, 4, 4]
    assert tensors["d"].shape is None or 5 not in tensors["d"].shape
    assert tensors["e"].shape is None or 5 not in tensors["e"].shape


def test_a_tensor_that_is_given_two_shapes_makes_all_of_them_doubtful():
    twice = [("a", [1, 2, 4, 4]), ("d", [1, 2, 4, 5]), ("e", [1, 2, 4, 4]), ("e", [1, 2, 4, 5])]
    tensors = normalized(stale(RESHAPED, *twice))[0].graph.tensors()
    assert all(tensors[name].shape is None or 5 not in tensors[name].shape for name in "de")


def test_where_a_stale_shape_hides_a_weight_that_does_not_fit_the_weight_is_named():
    model = stale("{ a = Conv(x, v) d = Neg(a) y = Conv(d, u) }", ("d", [1, 72, 4, 4]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "u"))
    with pytest.raises(ModelError, match="made for 3 channels, but 'd' has 2; the model is damaged"):
        normalized(model)


@pytest.mark.parametrize("opset", [11, 12])
def test_a_resize_to_sizes_loses_empty_scales_that_are_computed(opset):
    body = (
        "<int64[1] nought = {0}, float[2,2,1,1] w = {1, 2, 3, 4}> { a = Conv(x, w) none = ConstantOfShape(nought) "
        "s = Shape(x) y = Resize(a, none, none, s) }"
    )
    model = parsed(body, opset)
    space, result = normalized(model)
    assert "computed scales beside sizes left out" in [rewrite.action for rewrite in result.rewrites]
    assert graphs.relative(graphs.run(space.graph), graphs.run(model)) < 1e-6


@pytest.mark.parametrize(
    ("domain", "op"),
    [
        ("com.microsoft", "FusedConv"),
        ("com.microsoft", "NhwcFusedConv"),
        ("com.microsoft.nchwc", "Conv"),
        ("com.ms.internal.nhwc", "Conv"),
    ],
)
def test_a_model_that_onnxruntime_has_optimized_is_refused_as_such(domain, op):
    model = parsed(f"{WEIGHT} {{ a = Conv(x, w) y = {op}(a, w) }}")
    model.graph.node[1].domain = domain
    model.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    with pytest.raises(ModelError, match=f"optimized by onnxruntime already .*{domain}::{op}.*; give the model before"):
        normalized(model)


@pytest.mark.parametrize("first", ["Conv", "Relu"])
def test_fused_products_are_left_alone_beside_ordinary_convs(first):
    """Exporters of transformers write FusedMatMul; where no Conv is left, onnxruntime has fused the layers."""
    inputs = "x, w" if first == "Conv" else "x"
    model = parsed(f"{WEIGHT} {{ a = {first}({inputs}) y = FusedMatMul(a, a) }}")
    model.graph.node[1].domain = "com.microsoft"
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    if first == "Conv":
        assert "FusedMatMul" in graphs.ops(normalized(model)[0].graph)
        return
    with pytest.raises(ModelError, match=r"optimized by onnxruntime already .*FusedMatMul"):
        normalized(model)


def test_the_factors_of_a_gemm_become_part_of_its_weight_and_bias():
    net = graphs.Net()
    model = net.model(net.tail(net.block("x", 4)))
    node = next(n for n in model.graph.node if n.op_type == "Gemm")
    node.attribute.extend([onnx.helper.make_attribute("alpha", 0.5), onnx.helper.make_attribute("beta", 3.0)])
    want = graphs.run(model)
    space = graphs.workspace(model)
    Normalize().run(space)
    (gemm,) = (n for n in space.graph.nodes if n.op == "Gemm")
    assert gemm.attrs["alpha"] == gemm.attrs["beta"] == 1
    np.testing.assert_allclose(graphs.run(space.graph, graphs.input_of(model))[0], want[0], rtol=1e-5, atol=1e-6)


# Old opsets, functions, foreign domains


def test_an_opset_older_than_onnxruntime_runs_is_converted():
    model = parsed(f"{WEIGHT} {{ a = Conv(x, w) y = Relu(a) }}", opset=6)
    space, result = normalized(model)
    assert space.graph.opset == 13
    assert result.rewrites[0].action == "opset 6 to 13"
    assert graphs.relative(graphs.run(space.graph), graphs.run(model)) == 0


def test_an_opset_older_than_onnxruntime_runs_that_cannot_be_converted_is_refused():
    model = parsed(f"{WEIGHT} {{ a = Conv(x, w) y = foreign.Blur(a) }}", opset=6)
    model.opset_import.append(onnx.helper.make_opsetid("foreign", 1))
    with pytest.raises(ModelError, match=r"opset 6 is older than onnxruntime runs \(7\), and cannot be converted"):
        normalized(model)


def function(body, opset=13):
    """A network that calls mine.block(x, w) twice, the second time through mine.outer."""
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 13, "mine": 1]>
        net (float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2,2,1,1] w = {{1.0, 2.0, 3.0, 4.0}}>
        {{ a = mine.block(x, w)  y = mine.outer(a, w) }}
        <domain: "mine", opset_import: ["": {opset}]>
        block (x, w) => (y) {{ a = Conv(x, w)  {body} }}
        <domain: "mine", opset_import: ["": 13, "mine": 1]>
        outer (x, w) => (y) {{ y = mine.block(x, w) }}"""
    )


@pytest.mark.parametrize("opset", [13, 12])
def test_functions_of_the_models_own_are_inlined(opset):
    model = function("y = Sigmoid(a)" if opset == 13 else "y = Selu(a)", opset)
    space, result = normalized(model)
    assert [op for op in graphs.ops(space.graph) if op == "Conv"] == ["Conv", "Conv"]
    assert not space.graph.functions
    assert result.rewrites[0].action == "functions of its own inlined"
    assert len({node.inputs[1].name for node in space.graph.nodes if node.op == "Conv"}) == 2
    assert len({node.name for node in space.graph.nodes}) == 4
    if opset == 13:
        assert graphs.relative(graphs.run(space.graph), graphs.run(model)) == 0


def test_operators_of_other_domains_stay_whatever_they_are_called():
    body = (
        "{ a = Conv(x, w) b = foreign.Identity<level = 3>(a) c = foreign.BatchNormalization(b, w, w, w, w) "
        "d = foreign.Dropout(c) y = foreign.ReduceMean<axes = [2, 3], keepdims = 1>(d) }"
    )
    model = parsed(f"{WEIGHT} {body}")
    model.opset_import.append(onnx.helper.make_opsetid("foreign", 1))
    space, _ = normalized(model)
    written = graphs.to_model(space.graph)
    for before, after in list(zip(model.graph.node, written.graph.node, strict=True))[1:]:
        before.name = after.name
        assert after == before
    assert {(o.domain, o.version) for o in written.opset_import} == {("", 13), ("foreign", 1)}


# Where weights come from


@pytest.mark.parametrize(
    ("shape", "made"),
    [
        ("2,2,1,1", "w = Identity(k)"),
        ("1,1,2,2", "w = Transpose<perm = [3, 2, 0, 1]>(k)"),
        ("4", "s = Constant<value = int64[4] {2, 2, 1, 1}>() w = Reshape(k, s)"),
        ("2,2", "s = Constant<value = int64[2] {2, 3}>() w = Unsqueeze(k, s)"),
        ("2,2,1,1", "two = Constant<value = float {2.0}>() w = Mul(k, two)"),
        ("2,2,1,1", "r = Sqrt(k) i = Identity(r) w = Div(k, i)"),
    ],
)
def test_what_nodes_make_of_constants_alone_is_worked_out(shape, made):
    model = parsed(f"<float[{shape}] k = {{1.0, 2.0, 3.0, 4.0}}> {{ {made} [c] y = Conv(x, w) }}")
    space, result = normalized(model)
    assert graphs.ops(space.graph) == ["Conv"]
    assert isinstance(space.graph.nodes[0].inputs[1], graphs.gs.Constant)
    assert graphs.relative(graphs.run(space.graph), graphs.run(model)) < 1e-6
    assert "computed from constants" in {r.action for r in result.rewrites} or "Identity" in made


def test_a_weight_stored_as_half_floats_is_read_as_float32():
    model = parsed("<float16[2,2,1,1] k = {1, 2, 3, 4}> { w = Cast<to = 1>(k) y = Conv(x, w) }")
    space, _ = normalized(model)
    assert graphs.ops(space.graph) == ["Conv"]
    assert space.graph.nodes[0].inputs[1].dtype == np.float32
    assert graphs.relative(graphs.run(space.graph), graphs.run(model)) == 0


def test_what_would_swell_or_is_codes_is_not_worked_out():
    model = parsed(
        "<float[1] one = {2.0}, float[2,2,1,1] k = {1.0, 2.0, 3.0, 4.0}, int8[2,2,1,1] q = {1, -2, 3, 4}> "
        "{ s = Constant<value = int64[4] {2, 2, 1, 1}>() e = Expand(one, s) a = Conv(x, e) "
        "f = Cast<to = 1>(q) g = Mul(f, one) b = Conv(a, g) y = Conv(b, k) }"
    )
    space, _ = normalized(model)
    assert graphs.ops(space.graph) == ["Expand", "Conv", "Cast", "Mul", "Conv", "Conv"]


def test_where_a_weight_comes_from_is_said():
    model = parsed(
        "<float[2,2,1,1] k = {1.0, 2.0, 3.0, 4.0}, int8[2,2,1,1] q = {1, -2, 3, 4}, float scale = {0.5}> "
        "{ s = Constant<value = int64[4] {2, 2, 1, 1}>() e = ConstantOfShape(s) [made] a = Conv(x, e) "
        "d = DequantizeLinear(q, scale) [coded] b = Conv(a, d) [stored] c = Conv(b, k) "
        "m = ReduceMax<axes = [2, 3]>(x) t = Concat<axis = 0>(m, m) [computed] y = Conv(c, t) }"
    )
    space, _ = normalized(model)
    layers = find_layers(space.graph)
    assert {layer.name: layer.refused and layer.refused.text for layer in layers} == {
        "made": "its weight is generated by ConstantOfShape, not stored",
        "coded": "its weight is already quantized",
        "stored": None,
        "computed": "its weight is computed by Concat 'Concat_7'",
    }


def test_a_model_whose_weights_are_all_generated_is_refused_rather_than_swollen():
    model = parsed(
        "{ s = Constant<value = int64[4] {2, 2, 1, 1}>() w = ConstantOfShape(s) a = Conv(x, w) y = Conv(a, w) }"
    )
    with pytest.raises(ModelError, match=r"weights are generated \(ConstantOfShape\), not stored"):
        normalized(model)


@pytest.mark.parametrize(
    "body",
    [
        "d = DequantizeLinear(q, scale) y = Conv(x, d)",
        "y = QLinearConv(x, scale, z, q, scale, z, scale, z)",
        "f = Cast<to = 1>(q) g = Mul(f, scale) y = Conv(x, g)",
    ],
)
def test_a_model_that_is_quantized_already_is_refused(body):
    kind = "int8" if "QLinear" in body else "float"
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 13]> net ({kind}[1,2,4,4] x) => ({kind}[1,2,4,4] y) '
        f"<int8[2,2,1,1] q = {{1, -2, 3, 4}}, float scale = {{0.5}}, int8 z = {{0}}> {{ {body} }}"
    )
    with pytest.raises(ModelError, match="quantized already; give the float model"):
        normalized(model)


def test_a_scalar_made_of_constants_keeps_its_shape_where_it_is_an_output():
    net = graphs.Net()
    scalar = net.node("Identity", net.weight("k", np.float32(0.25)))
    model = net.model(net.node("Mul", net.tail(net.block("x", 8)), scalar))
    model.graph.output.append(onnx.helper.make_tensor_value_info(scalar, onnx.TensorProto.FLOAT, []))
    space, _ = normalized(model)
    assert [value.shape for value in graphs.run(space.graph)] == [value.shape for value in graphs.run(model)]
