import dataclasses

import pytest

from dfmpc_onnx import catalog
from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.pipeline.facts import BitPlan
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.pipeline.settings import WeightBudget
from dfmpc_onnx.pipeline.weight_plan import PlannedWidths
from tests import graphs
from tests.quantization.tables import sensitivity


def wide():
    """conv1, conv2, conv3, gemm1, with thousands of weights: bits are worth more than nodes."""
    net = graphs.Net()
    return net.model(net.tail(net.block(net.block(net.block("x", 64), 64), 64), 100))


def planned(gains=None, budget=None, layers=(), damage=0.01, floor=0.0):
    """The workspace after the pass on conv1, conv2, conv3, gemm1, and the result."""
    space = graphs.workspace(wide(), "auto", layers=layers)
    PassManager(graphs.pipeline("assign_bits")).run(space)
    space.put(sensitivity(space, gains, floor))
    space.settings = dataclasses.replace(space.settings, budget=budget or WeightBudget())
    kind = catalog.find_pass("plan_bits")
    result = PassManager([kind(kind.Options(damage=damage))]).run(space)[-1]
    return space, result


def widths(space):
    return {name: bits.bits for name, bits in space.get(BitPlan).layers.items()}


def test_every_free_layer_gets_a_width_and_says_what_it_adds():
    space, result = planned()
    found = space.get(BitPlan).layers
    assert all(bits.role != "auto" for bits in found.values())
    assert all(bits.why.startswith("adds ") and "to the output's error" in bits.why for bits in found.values())
    assert space.get(PlannedWidths).plan.damage <= 0.01
    assert {rewrite.site for rewrite in result.rewrites} == set(found)
    assert not result.warnings


def test_what_the_output_feels_more_gets_more_bits():
    even, uneven = widths(planned()[0]), widths(planned({"conv2": 100.0})[0])
    assert uneven["conv2"] > even["conv2"]


def test_low_up_to_three_bits_as_where_the_user_sets_a_width():
    found = planned(damage=0.5)[0].get(BitPlan).layers
    assert {bits.role for bits in found.values() if bits.bits in ("ternary", 1.6, 2, 2.67, 3)} == {"low"}
    found = planned(damage=1e-6)[0].get(BitPlan).layers
    assert {bits.role for bits in found.values() if bits.bits == 8} <= {"8-bit"}


def test_layers_that_the_user_gave_a_width_are_fixed():
    space, _ = planned(layers=["conv2=3", "conv1=float"])
    found = space.get(BitPlan).layers
    assert (found["conv2"].bits, found["conv2"].why) == (3, "as asked with --layer")
    assert found["conv1"].bits == "float"
    assert {name for row in space.get(PlannedWidths).table.rows for name in row.layers} == {"conv3", "gemm1"}


def test_a_size_is_kept_to_and_a_larger_one_is_never_predicted_worse():
    least = planned(budget=WeightBudget(size=10**6))[0].get(PlannedWidths)
    smallest = planned(damage=1e9)[0].get(PlannedWidths).plan.size
    damages = []
    for size in range(smallest, least.plan.size + 2000, 2000):
        plan = planned(budget=WeightBudget(size=size))[0].get(PlannedWidths).plan
        assert plan.size <= size
        damages.append(plan.damage)
    assert damages == sorted(damages, reverse=True)


def test_an_impossible_size_names_the_smallest_one():
    with pytest.raises(OptionError, match=r"max-size 100: the smallest possible file takes about \d+ bytes"):
        planned(budget=WeightBudget(size=100, other_bytes=0))


def test_mean_bits_are_kept_to():
    plan = planned(budget=WeightBudget(mean_bits=3.5))[0].get(PlannedWidths).plan
    assert 3 < plan.mean_bits <= 3.5
    with pytest.raises(OptionError, match=r"mean-bits 1: no plan has fewer than 1\.6"):
        planned(budget=WeightBudget(mean_bits=1))


def test_a_signal_to_noise_ratio_that_is_asked_for_overrides_the_option():
    loose = planned(budget=WeightBudget(min_sqnr=15.0))[0].get(PlannedWidths).plan
    strict = planned(budget=WeightBudget(min_sqnr=35.0))[0].get(PlannedWidths).plan
    assert loose.sqnr_db >= 15 and strict.sqnr_db >= 35
    assert loose.size < strict.size


def test_what_fixed_layers_do_counts_too():
    free, beside = (planned(floor=floor)[0].get(PlannedWidths).plan for floor in (0.0, 0.008))
    assert beside.size > free.size and beside.damage <= 0.01


def test_where_the_budget_cannot_be_reached_the_widest_codes_are_taken_with_a_warning():
    space, result = planned(damage=1e-12)
    assert set(widths(space).values()) == {8}
    assert "the widest codes cost" in result.warnings[0]
    _, result = planned(budget=WeightBudget(min_sqnr=150.0))
    assert "min-sqnr 150 is not reached" in result.warnings[0]


def test_layers_stay_in_float_only_where_the_user_allows_it():
    assert "float" not in widths(planned(damage=1e-5)[0]).values()
    space, _ = planned({"conv3": 100.0}, WeightBudget(min_sqnr=45.0, most_float=1))
    assert [name for name, bits in widths(space).items() if bits == "float"] == ["conv3"]
    assert space.get(BitPlan).layers["conv3"].code == "planned-float"
