"""Plans from a table, whatever is asked for."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.pipeline.settings import NO_BUDGET, WeightBudget
from dfmpc_onnx.pipeline.weight_plan import PlanRow, PlanTable, Width, bits_of
from dfmpc_onnx.qdq.code_formats import forms
from dfmpc_onnx.quantization.budget_planner import BudgetPlanner, plan_of, rounded_up, whys_of, with_other_bytes
from dfmpc_onnx.quantization.storage_costs import kind_of, predicted_bytes

WIDTHS = ("ternary", 2, 3, 4, 5, 6, 7, 8, "float")


def table(gains: list[float], sizes: list[int], floor: float = 0.0) -> PlanTable:
    rows = tuple(
        PlanRow(
            (f"layer{index}",),
            (size, 16),
            size,
            WIDTHS,
            tuple(4 ** -bits_of(width) for width in WIDTHS),
            (*(gain * 4 ** -bits_of(width) for width in WIDTHS[:-1]), 0.0),
            tuple(int(2 * size * bits_of(width)) + 100 for width in WIDTHS),
        )
        for index, (gain, size) in enumerate(zip(gains, sizes, strict=True))
    )
    return PlanTable(rows, 3000, 1000, 8000.0, floor, 25, True, 10**6, "by hand", "none")


LAYERS = st.lists(st.tuples(st.floats(1e-3, 10), st.integers(10, 500)), min_size=1, max_size=6)


@given(LAYERS, st.floats(0.1, 0.9), st.floats(1.01, 2))
def test_a_size_is_kept_and_a_larger_one_is_never_predicted_worse(
    layers: list[tuple[float, int]], share: float, times: float
) -> None:
    planner = BudgetPlanner(table(*map(list, zip(*layers, strict=True))))  # type: ignore[arg-type]
    least, most = planner.smallest.size, planner.best.size
    size = int(least + share * abs(most - least))
    small, _ = planner.plan(WeightBudget(size=size, other_bytes=0), 0.01)
    large, _ = planner.plan(WeightBudget(size=int(times * size), other_bytes=0), 0.01)
    assert small.size <= size and large.size <= times * size
    assert large.damage <= small.damage


@given(LAYERS, st.floats(5, 40))
def test_an_sqnr_is_reached_or_the_best_plan_is_given(layers: list[tuple[float, int]], decibels: float) -> None:
    planner = BudgetPlanner(table(*map(list, zip(*layers, strict=True))))  # type: ignore[arg-type]
    found, reached = planner.plan(WeightBudget(min_sqnr=decibels), 0.01)
    assert reached == (found.sqnr_db >= decibels - 1e-9)
    if not reached:
        assert found == planner.best


def test_an_impossible_size_names_the_smallest() -> None:
    planner = BudgetPlanner(table([1.0, 2.0], [100, 200]))
    with pytest.raises(
        OptionError, match=f"smallest possible file takes about {rounded_up(planner.smallest.size)} bytes"
    ):
        planner.plan(WeightBudget(size=500, other_bytes=0), 0.01)
    # As long as the rest of the file is but estimated, the smallest plan tells more than a refusal.
    assert planner.plan(WeightBudget(size=500), 0.01)[0] == planner.smallest


@pytest.mark.parametrize(("channels", "taken"), [(120, False), (480, True)])
def test_a_codebook_whose_table_takes_more_than_it_saves_is_done_without(channels: int, taken: bool) -> None:
    plain = dataclasses.replace(table([1.0] * 3, [channels] * 3), opset=13)
    runs = tuple(16 if width == 3 else 0 for width in WIDTHS)
    blocks = dataclasses.replace(plain, rows=tuple(dataclasses.replace(row, runs=runs) for row in plain.rows))
    found, kept = BudgetPlanner(blocks).plan(NO_BUDGET, 3 * 4.0**-3)
    assert kept and (found.widths == (3, 3, 3)) == taken and (3 in found.widths) == taken


def test_a_size_that_only_plans_without_codebooks_meet_is_met() -> None:
    plain = table([1.0] * 3, [120] * 3)
    at = [plain.rows[0].widths.index(width) for width in (5, 6, 8)]
    rows = [
        dataclasses.replace(
            row,
            widths=(5, 6, 8),
            losses=tuple(row.losses[i] for i in at),
            damages=tuple(row.damages[i] for i in at),
            sizes=tuple(row.sizes[i] for i in at),
            runs=(16, 0, 0),
        )
        for row in plain.rows
    ]
    planner = BudgetPlanner(dataclasses.replace(plain, rows=tuple(rows)))
    whole = predicted_bytes(planner.table, (6, 6, 6))
    assert planner.smallest.widths == (5, 5, 5) and planner.smallest.size > whole
    assert planner.plan(WeightBudget(size=whole, other_bytes=0), 0.01)[0].widths == (6, 6, 6)
    with pytest.raises(OptionError, match=f"smallest possible file takes about {rounded_up(whole)} bytes"):
        planner.plan(WeightBudget(size=500, other_bytes=0), 0.01)


def test_without_a_budget_the_recipes_damage_counts_floor_included() -> None:
    free, beside = (BudgetPlanner(table([1.0], [100], floor)).plan(NO_BUDGET, 0.01)[0] for floor in (0.0, 0.0095))
    assert free.damage <= 0.01 and beside.damage <= 0.01
    assert beside.size > free.size


def test_a_built_file_corrects_the_table() -> None:
    first = table([1.0, 2.0], [100, 200])
    plan = plan_of(first, (4, 6))
    corrected = with_other_bytes(first, plan, 12345)
    assert predicted_bytes(corrected, (4, 6)) == 12345
    assert predicted_bytes(corrected, (4, 8)) - 12345 == predicted_bytes(first, (4, 8)) - plan.size


def test_points_of_the_front_rise_in_size_and_fall_in_damage() -> None:
    points = BudgetPlanner(table([1.0, 0.1, 3.0], [100, 400, 50])).spread(8)
    assert len(points) == 8
    assert [p.size for p in points] == sorted(p.size for p in points)
    assert [p.damage for p in points] == sorted((p.damage for p in points), reverse=True)


def test_sqnr_is_that_of_the_damage_and_each_layer_says_what_it_adds() -> None:
    one = table([1.0], [100])
    plan = plan_of(one, (4,))
    assert plan.sqnr_db == pytest.approx(10 * math.log10(4**4))
    assert whys_of(one, plan) == {"layer0": "adds 0.39 % to the output's error, 3 bits would add 1.6 %"}
    assert plan_of(one, ("float",)).sqnr_db == math.inf


def test_a_size_is_named_to_three_digits_and_never_less():
    assert [rounded_up(count) for count in (0, 999, 1000, 94442, 95001)] == [0, 999, 1000, 94500, 95100]


def test_a_narrow_form_whose_table_does_not_pay_gives_way_to_the_width_that_the_file_takes_anyway() -> None:
    def size(width: Width) -> int:
        cheapest = min(forms(kind_of(9216, width), 25), key=lambda form: form.cost(9216, 25))
        return cheapest.bytes(9216) + cheapest.overhead(9216, 25)

    whole = table([1.0], [9216])  # the bits of 5 are 4 and 1, and what decodes that 1 takes 2 kB
    sizes = (*(size(width) for width in WIDTHS[:-1]), 4 * 9216)
    row = dataclasses.replace(whole.rows[0], sizes=sizes)
    found, kept = BudgetPlanner(dataclasses.replace(whole, rows=(row,))).plan(NO_BUDGET, row.damages[4])
    assert kept and found.widths == (6,) and found.damage == row.damages[5]
