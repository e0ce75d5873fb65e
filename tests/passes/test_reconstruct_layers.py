import numpy as np
import pytest

from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.pipeline.facts import BitPlan, Codes, MeasuredRanges, Originals, Recalibrated
from dfmpc_onnx.pipeline.instruments import Timing
from dfmpc_onnx.pipeline.manager import PassManager
from tests import graphs


def rebuilt(model, weights="4", layers=(), **options):
    """The workspace before, after, and the result."""
    spaces = []
    for upto in ("assign_bits", "reconstruct_layers"):
        space = graphs.workspace(model, weights, layers=layers)
        result = PassManager(graphs.pipeline(upto, "mixed", reconstruct_layers=options)).run(space)[-1]
        spaces.append(space)
    return *spaces, result


def error(space, model):
    return graphs.relative(graphs.run(space.graph, graphs.input_of(model)), graphs.run(model))


@pytest.mark.parametrize("network", sorted(graphs.ALL))
def test_nodes_stay_and_every_weight_is_that_of_its_codes(network):
    model = graphs.ALL[network]()
    before, after, _ = rebuilt(model)
    assert graphs.ops(after.graph) == graphs.ops(before.graph)
    nodes = {node.name: node for node in after.graph.nodes}
    for name, weight in after.get(Codes).weights.items():
        assert np.array_equal(nodes[name].inputs[1].values, weight.dequantize())
        assert weight.codes.min() >= -(2 ** (weight.bits - 1)) and weight.codes.max() < 2 ** (weight.bits - 1)
        assert weight.width == after.get(BitPlan).layers[name].bits


@pytest.mark.parametrize("network", sorted(graphs.ALL))
def test_eight_bits_are_close_to_float(network):
    model = graphs.ALL[network]()
    assert error(rebuilt(model, "8", recalibrate=False)[1], model) < 0.03


def test_the_same_seed_gives_the_same_codes():
    first, second = (rebuilt(graphs.residual())[1].get(Codes).weights for _ in range(2))
    assert all(np.array_equal(first[n].codes, second[n].codes) for n in first)


def free_batch(model):
    """The model for any number of images."""
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    return model


def test_a_classifier_that_has_seen_one_image_loses_little_at_eight_bits():
    _, _, result = rebuilt(graphs.chain(), "8")
    shares = {r.site: r.figures["output_error"] for r in result.rewrites}
    assert 0 <= shares["gemm1"] < 0.03


@pytest.mark.parametrize("compensate", ["full", "diagonal"])
def test_a_grouped_layer_is_not_compensated(compensate):
    _, _, result = rebuilt(graphs.depthwise(), "2/6", compensate=compensate)
    gains = {r.site: r.figures["fit_gain"] for r in result.rewrites}
    assert gains["conv3"] == 0 and gains["conv4"] > 0


def test_rounding_with_feedback_costs_the_output_less_than_to_the_nearest():
    shares = {}
    for rounding in ("feedback", "nearest"):
        _, _, result = rebuilt(graphs.chain(), "3", rounding=rounding, compensate="none")
        shares[rounding] = {r.site: r.figures["rounding_share"] for r in result.rewrites}
    assert shares["feedback"]["conv2"] < shares["nearest"]["conv2"]


def test_the_fit_never_hurts_the_layer_that_it_repairs():
    _, _, result = rebuilt(graphs.chain(), "2/6")
    gains = {r.site: r.figures["fit_gain"] for r in result.rewrites}
    assert gains["conv1"] == 0 and gains["conv3"] > 0


def test_without_recalibration_norms_and_biases_stay():
    before, after, _ = rebuilt(graphs.own_bias(), recalibrate=False)
    kept = [n for n in before.graph.tensors() if (n.startswith("norm") and "." in n) or n.endswith(".b")]
    assert len(kept) == 3 * 4 + 3 + 1
    assert all(np.array_equal(graphs.values(after.graph, n), graphs.values(before.graph, n)) for n in kept)


def test_a_layer_without_norm_takes_the_error_of_its_mean_into_its_bias():
    _, after, _ = rebuilt(graphs.folded(), "3")
    biases = [node.inputs[2].name for node in after.graph.nodes if node.op == "Conv"]
    assert all(name.endswith(".bias") for name in biases)


def test_a_float_layer_keeps_its_weight():
    before, after, _ = rebuilt(graphs.chain(), layers=["conv3=float"])
    assert "conv3" not in after.get(Codes).weights
    assert np.array_equal(graphs.values(after.graph, "conv3.w"), graphs.values(before.graph, "conv3.w"))


def test_ranges_are_measured_on_the_way():
    _, after, _ = rebuilt(graphs.residual())
    ranges = after.get(MeasuredRanges).tensors
    assert {"add1", "relu3", "gemm1"} <= set(ranges)
    assert all(low <= high for low, high in ranges.values()) and ranges["relu3"][0] >= 0


def dense(bias):
    """Two layers of DenseNet-BC; with biases in every Conv that the means of the norms take back where bias is set."""
    net = graphs.Net(("n", 3, 8, 8))
    x = net.dense(net.dense(net.conv("x", 8, bias=True), bias=True), bias=True)
    model = net.model(net.tail(net.relu(net.norm(x))))
    if bias:
        return model
    tensors = {t.name: t for t in model.graph.initializer}
    found = {f"conv{i}": graphs.numpy_helper.to_array(tensors[f"conv{i}.b"]) for i in range(1, 6)}
    read = {"norm1": ["conv1"], "norm2": ["conv2"], "norm3": ["conv1", "conv3"], "norm4": ["conv4"]}
    read["norm5"] = ["conv1", "conv3", "conv5"]
    for norm, convs in read.items():
        mean = graphs.numpy_helper.to_array(tensors[f"{norm}.mean"]) - np.concatenate([found[c] for c in convs])
        tensors[f"{norm}.mean"].CopyFrom(graphs.numpy_helper.from_array(mean, f"{norm}.mean"))
    for name, values in found.items():
        tensors[f"{name}.b"].CopyFrom(graphs.numpy_helper.from_array(np.zeros_like(values), f"{name}.b"))
    return model


def test_biases_that_norms_behind_a_concat_take_back_change_nothing():
    outputs = [
        graphs.run(rebuilt(dense(bias), "3")[1].graph, graphs.input_of(dense(True), 4)) for bias in (True, False)
    ]
    assert graphs.relative(*outputs) < 1e-3


def test_behind_a_concat_every_norm_takes_up_what_the_layers_in_front_became():
    before, after, _ = rebuilt(free_batch(graphs.dense()), "2/6")
    for name, changed in (("norm3", slice(8, 12)), ("norm5", slice(8, 16))):
        old, new = (graphs.values(space.graph, f"{name}.variance") for space in (before, after))
        assert not np.any(old[changed] == new[changed])


def test_a_layer_whose_readers_are_all_norms_needs_no_bias():
    _, after, _ = rebuilt(free_batch(graphs.dense()), "2/6")
    assert {node.name for node in after.graph.nodes if node.op == "Conv" and len(node.inputs) > 2} == set()


def test_recalibration_behind_a_concat_makes_the_network_better():
    model = free_batch(graphs.dense())
    x = graphs.input_of(model, 64)
    want = graphs.run(model, x)[0]
    lost = {}
    for on in (True, False):
        _, after, _ = rebuilt(model, "ternary/6", recalibrate=on, compensate="none")
        lost[on] = float(np.square(graphs.run(after.graph, x)[0] - want).mean())
    assert lost[True] < lost[False]


@pytest.mark.parametrize("group", [1, 8])
def test_a_conv_transpose_is_rounded_to_the_nearest_and_its_mean_corrected(group):
    net = graphs.Net(("n", 3, 8, 8))
    weight = net.weight("w", net.random.standard_normal((8, 8 // group, 2, 2)).astype(np.float32))
    up = net.node("ConvTranspose", net.block("x", 8), weight, group=group, strides=[2, 2])
    net.channels[up] = 8
    before, after, result = rebuilt(net.model(net.tail(net.block(net.relu(up), 4))), "3", layers=["convtranspose1=3"])
    codes = after.get(Codes).weights["convtranspose1"]
    assert codes.scale.shape == ((1, 8, 1, 1) if group == 1 else (8, 1, 1, 1)) and codes.width <= 3
    step = np.abs(codes.dequantize() - graphs.values(before.graph, "w"))
    inside = (codes.codes > codes.codes.min()) & (codes.codes < codes.codes.max())
    assert np.all(step[inside] <= 0.5001 * np.broadcast_to(codes.scale, step.shape)[inside])
    node = next(node for node in after.graph.nodes if node.op == "ConvTranspose")
    assert np.any(node.inputs[2].values) and node.inputs[2].values.shape == (8,)
    why = graphs.reasons(result)["convtranspose1"]
    assert why == "ConvTranspose; rounded to the nearest level, not compensated"


def test_bits_that_were_asked_for_are_not_changed():
    _, after, _ = rebuilt(graphs.chain(), "2")
    assert {weight.width for weight in after.get(Codes).weights.values()} <= {2, 8}


def test_a_layer_whose_bias_is_computed_is_rebuilt():
    net = graphs.Net(("n", 3, 8, 8))
    x = net.relu(net.conv("x", 8))
    bias = net.node("ReduceMean", x, axes=[0, 2, 3], keepdims=0)
    weight = net.weight("w", net.random.standard_normal((8, 8, 1, 1)).astype(np.float32) / 3)
    _, after, result = rebuilt(net.model(net.node("Conv", x, weight, bias, stem="biased")), "auto")
    assert {"conv1", "biased1"} <= set(after.get(Codes).weights)
    assert "not one constant a channel" in graphs.reasons(result)["biased1"]


def not_to_be_followed():
    """Covariances end at an operator without a rule, behind a layer that has been rebuilt by then."""
    net = graphs.Net(("n", 3, 8, 8))
    x = net.node("Erf", net.block("x", 8))
    return net.model(net.tail(net.block(net.block(x, 8), 8)))


def fallen_back(weights="2/6"):
    """The workspace after closed-form's step, the results of it and of its fallback, and the names timed."""
    space, timing = graphs.workspace(not_to_be_followed(), weights), Timing()
    results = PassManager(graphs.pipeline("reconstruct_layers", "closed-form"), [timing]).run(space)
    names = [result.name for result in results]
    return space, results[names.index("reconstruct_layers") :], [name for name, _ in timing.seconds]


def test_where_covariances_cannot_be_followed_the_recipes_fallback_runs_and_is_seen():
    _, results, timed = fallen_back()
    names = ["reconstruct_layers", "quantize_weights", "recalibrate_batch_norm", "compensate"]
    assert [result.name for result in results] == timed[-4:] == names
    (refusal,) = results[0].refusals
    assert (refusal.site, refusal.code, refusal.by) == ("model", "covariances-unknown", "reconstruct_layers")
    assert refusal.reason == "covariances cannot be followed (no rule for Erf)"
    assert refusal.reason in results[0].warnings[0] and results[0].fallback == tuple(names[1:])


def test_what_the_fallback_uses_up_is_gone():
    space, _, _ = fallen_back()
    assert space.find(Originals) is None and space.find(Recalibrated) is not None


def test_the_fallback_gives_what_the_same_passes_give_by_themselves():
    space, _, _ = fallen_back()
    alone = graphs.workspace(not_to_be_followed())
    steps = graphs.pipeline("reconstruct_layers", "closed-form")
    PassManager([*steps[:-1], *steps[-1].fallback]).run(alone)
    assert graphs.snapshot(space.graph) == graphs.snapshot(alone.graph)


def test_the_fallback_keeps_the_widths_that_were_planned():
    space, _, _ = fallen_back("auto")
    plan = space.get(BitPlan).layers
    assert all("to the output's error" in bits.why for bits in plan.values())
    assert {name: weight.width for name, weight in space.get(Codes).weights.items()} == {
        name: 2 if bits.bits == "ternary" else bits.bits for name, bits in plan.items() if bits.bits != "float"
    }


def test_without_a_fallback_it_is_an_error():
    steps = graphs.pipeline("reconstruct_layers", "closed-form")
    steps[-1].fallback = ()
    with pytest.raises(ModelError, match=r"pass reconstruct_layers cannot go on: .* \(no rule for Erf\)"):
        PassManager(steps).run(graphs.workspace(not_to_be_followed()))
