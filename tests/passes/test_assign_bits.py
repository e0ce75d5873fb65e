import numpy as np
import pytest

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.pipeline.facts import BitPlan
from dfmpc_onnx.pipeline.manager import PassManager
from tests import graphs


def planned(model, weights="2/6", layers=(), **options):
    space = graphs.workspace(model, weights, layers=layers)
    result = PassManager(graphs.pipeline("assign_bits", assign_bits={"edges": 8, **options})).run(space)[-1]
    return {name: (bits.bits, bits.role) for name, bits in space.get(BitPlan).layers.items()}, result


def test_low_for_the_low_half_high_for_the_others_eight_at_both_ends():
    plan, _ = planned(graphs.chain())
    assert plan == {"conv1": (8, "8-bit"), "conv2": (2, "low"), "conv3": (6, "high"), "gemm1": (8, "8-bit")}


def test_ternary_low():
    assert planned(graphs.chain(), "ternary/6")[0]["conv2"] == ("ternary", "low")


def test_edges_0_makes_no_exception():
    plan, _ = planned(graphs.chain(), edges=0)
    assert plan["conv1"] == plan["gemm1"] == (6, "high")


def test_a_depthwise_conv_gets_the_bits_of_the_edges():
    plan, _ = planned(graphs.depthwise(), "4")
    assert plan == {
        "conv1": (8, "8-bit"),
        "conv2": (4, "high"),
        "conv3": (8, "8-bit"),
        "conv4": (4, "high"),
        "gemm1": (8, "8-bit"),
    }


def test_a_grouped_conv_with_several_inputs_a_group_is_like_any_other():
    net = graphs.Net()
    x = net.block(net.block(net.block("x", 8), 8, group=4), 8)
    assert planned(net.model(net.tail(x)), "4")[0]["conv2"] == (4, "high")


def test_edges_0_makes_no_exception_for_depthwise_convs():
    assert planned(graphs.depthwise(), "4", edges=0)[0]["conv3"] == (4, "high")


@pytest.mark.parametrize(("edges", "bits"), [(8, (8, "8-bit")), (0, (4, "high"))])
def test_a_conv_transpose_gets_the_bits_of_the_edges(edges, bits):
    net = graphs.Net()
    up = net.node("ConvTranspose", net.block("x", 8), net.weight("w", np.ones((8, 8, 2, 2), np.float32)))
    net.channels[up] = 8
    assert planned(net.model(net.tail(net.block(up, 8))), "4", edges=edges)[0]["convtranspose1"] == bits


def widening():
    """Two pairs: conv2 has 72 weights, conv4 1,152."""
    net = graphs.Net()
    x = "x"
    for out in (4, 2, 8, 16, 8):
        x = net.block(x, out)
    return net.model(net.tail(x))


@pytest.mark.parametrize(("least", "low"), [(0.0, {"conv2", "conv4"}), (0.5, {"conv4"}), (100.0, {"conv2", "conv4"})])
def test_only_layers_of_some_size_are_low(least, low):
    plan, _ = planned(widening(), least=least)
    assert {name for name, (_, role) in plan.items() if role == "low"} == low
    assert all(bits == 6 for name, (bits, _) in plan.items() if name in {"conv2", "conv4"} - low)


@pytest.mark.parametrize(("tiny", "eight"), [(0.0, set()), (0.03, {"conv2"}), (0.2, {"conv2", "conv3"})])
def test_the_smallest_layers_keep_8_bits_where_all_get_one_width(tiny, eight):
    plan, _ = planned(widening(), "4", tiny=tiny)
    assert {name for name, (bits, _) in plan.items() if bits == 8} == {"conv1", "gemm1"} | eight


@pytest.mark.parametrize(("weights", "edges"), [("2/6", 8), ("4", 0)])
def test_pairs_and_recipes_without_edges_make_no_exception_for_the_smallest(weights, edges):
    plan, _ = planned(widening(), weights, tiny=0.2, edges=edges, least=0.0)
    assert plan["conv2"][0] in (2, 4)


@pytest.mark.parametrize("edges", [0, 8])
def test_auto_leaves_every_layer_to_its_measured_error(edges):
    plan, result = planned(graphs.depthwise(), "auto", edges=edges)
    assert {role for _, role in plan.values()} == {"auto"} and len(plan) == 5
    assert result.warnings == ()


def test_auto_leaves_what_is_asked_for_alone():
    plan, _ = planned(graphs.chain(), "auto", layers=["conv2=3", "gemm1=float"])
    assert plan["conv2"] == (3, "low") and plan["gemm1"] == ("float", "float")
    assert plan["conv1"][1] == plan["conv3"][1] == "auto"


def test_edges_never_lower_the_width():
    plan, _ = planned(graphs.chain(), "2/7", edges=4)
    assert plan["conv1"] == plan["gemm1"] == (7, "high")


def test_one_width_makes_no_layer_low():
    plan, result = planned(graphs.chain(), "4")
    assert plan == {"conv1": (8, "8-bit"), "conv2": (4, "high"), "conv3": (4, "high"), "gemm1": (8, "8-bit")}
    assert result.warnings == ()


def test_a_layer_override_wins_and_the_last_one_counts():
    plan, result = planned(graphs.chain(), layers=["conv*=5", "conv3=float", "gemm1=ternary"])
    assert plan["conv1"] == (5, "high")
    assert plan["conv2"] == (5, "low")
    assert plan["conv3"] == ("float", "float")
    assert plan["gemm1"] == ("ternary", "low")
    assert graphs.reasons(result) == {"conv3": "as asked with --layer"}


@pytest.mark.parametrize(("bits", "role"), [("2", "low"), ("3", "low"), ("4", "high"), ("8", "8-bit")])
def test_a_layer_of_a_width_of_its_own_is_called_what_it_is(bits, role):
    assert planned(graphs.chain(), "6", layers=[f"conv3={bits}"])[0]["conv3"] == (int(bits), role)


def test_an_override_that_matches_nothing_is_the_users_to_mend():
    with pytest.raises(OptionError, match=r"layer 'conv9=4': no layer has such a name; the first are conv1, conv2"):
        planned(graphs.chain(), layers=["conv9=4"])


def test_a_network_without_pairs_is_told_why():
    plan, result = planned(graphs.folded())
    assert {bits for bits, role in plan.values() if role == "high"} == {6}
    assert len(result.warnings) == 1
    assert "no layer can get the few bits of 2/6, all get 6: no BatchNormalization behind it" in result.warnings[0]


def test_recipes_that_measure_on_images_make_the_low_half_of_a_folded_pair_low():
    plan, result = planned(graphs.folded(), folded="low")
    assert plan["conv2"] == (2, "low") and plan["conv3"] == (6, "high")
    assert result.warnings == ()


def test_planning_changes_nothing():
    space, _ = graphs.prepared(graphs.chain(), "estimate_statistics")
    before = graphs.snapshot(space.graph)
    graphs.pipeline("assign_bits")[-1].run(space)
    assert graphs.snapshot(space.graph) == before


def test_a_layer_within_control_flow_is_float_whatever_is_asked():
    plan, result = planned(graphs.nested(), layers=["choice/*=4"])
    assert plan["choice/then_branch/Conv_0"] == ("float", "float")
    assert result.warnings == ("layer choice/*=4: what it names cannot be quantized and stays float",)
