"""Widths under one budget for all: the front holds what a search through every combination finds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfmpc_onnx.numerics.bit_budget import BudgetFront, Choice, WeightOptions


@st.composite
def _items(draw: st.DrawFn) -> list[WeightOptions]:
    items = []
    for _ in range(draw(st.integers(1, 5))):
        count = draw(st.integers(1, 4))
        sizes = draw(st.lists(st.integers(0, 40), min_size=count, max_size=count))
        damages = draw(st.lists(st.integers(0, 64), min_size=count, max_size=count))
        counted = draw(st.lists(st.booleans(), min_size=count, max_size=count))
        items.append(WeightOptions(np.array(sizes, np.int64), np.array(damages) / 64, np.array([False, *counted[1:]])))
    return items


def every_choice(items: list[WeightOptions], most_counted: int | None = None) -> list[Choice]:
    """All combinations, one after the other: the reference. Damages are whole 64ths, so their sums are exact."""
    found = []
    for options in itertools.product(*(range(len(item.sizes)) for item in items)):
        pairs = list(zip(items, options, strict=True))
        counted = sum(bool(item.counted[i]) for item, i in pairs if item.counted is not None)
        if most_counted is None or counted <= most_counted:
            size = sum(int(item.sizes[i]) for item, i in pairs)
            found.append(Choice(options, size, sum(float(item.damages[i]) for item, i in pairs)))
    return found


@given(_items(), st.integers(0, 150), st.one_of(st.none(), st.integers(0, 3)))
def test_least_damage_within_a_size_is_that_of_a_search_through_all(
    items: list[WeightOptions], budget: int, most: int | None
) -> None:
    found = BudgetFront(items, most).within_size(budget)
    fit = [choice for choice in every_choice(items, most) if choice.size <= budget]
    assert (found is None) == (not fit)
    if found is not None:
        assert found.size <= budget and found.damage == min(choice.damage for choice in fit)
        assert found.size == min(choice.size for choice in fit if choice.damage == found.damage)


@given(_items(), st.integers(0, 200))
def test_least_size_within_a_damage_is_that_of_a_search_through_all(items: list[WeightOptions], budget: int) -> None:
    found = BudgetFront(items).within_damage(budget / 64)
    fit = [choice for choice in every_choice(items) if choice.damage <= budget / 64]
    assert (found is None) == (not fit)
    if found is not None:
        assert found.size == min(choice.size for choice in fit)


@given(_items(), st.sampled_from([64, 4096]))
def test_each_entry_is_the_sum_of_its_options(items: list[WeightOptions], most: int) -> None:
    front = BudgetFront(items, most=most)
    for position in range(len(front)):
        choice = front[position]
        pairs = list(zip(items, choice.options, strict=True))
        assert choice.size == sum(int(item.sizes[i]) for item, i in pairs)
        assert choice.damage == pytest.approx(sum(float(item.damages[i]) for item, i in pairs))


def network(layers: int, seed: int = 0) -> list[WeightOptions]:
    """Layers of 1,000 to 1,000,000 weights at nine widths, the last in float."""
    rng = np.random.default_rng(seed)
    widths = np.array([1.6, 2, 3, 4, 5, 6, 7, 8, 32])
    return [
        WeightOptions(
            (size * widths / 8).astype(np.int64) + 100, np.append(gain * 4.0 ** -widths[:-1], 0.0), widths == 32
        )
        for size, gain in zip(10 ** rng.uniform(3, 6, layers), 10 ** rng.uniform(-3, 0, layers), strict=True)
    ]


def test_a_larger_budget_is_never_predicted_worse() -> None:
    front = BudgetFront(network(60))
    budgets = np.linspace(front.smallest, int(front.sizes[-1]), 400)
    found = [choice for choice in map(front.within_size, budgets) if choice is not None]
    assert len(found) == len(budgets)
    assert all(choice.size <= budget for choice, budget in zip(found, budgets, strict=True))
    damages = [choice.damage for choice in found]
    assert damages == sorted(damages, reverse=True)


def test_two_hundred_layers_of_nine_widths_lose_little_to_the_cells() -> None:
    items = network(200)
    front = BudgetFront(items)
    fine = BudgetFront(items, most=32768)
    for share in (0.02, 0.05, 0.1, 0.2):
        budget = front.smallest + share * int(front.sizes[-1] - front.smallest)
        coarse, exact = front.within_size(budget), fine.within_size(budget)
        assert coarse is not None and exact is not None
        assert coarse.damage < 1.03 * exact.damage


def test_the_same_items_give_the_same_choice() -> None:
    first, second = BudgetFront(network(40)), BudgetFront(network(40))
    budget = 2 * first.smallest
    assert first.within_size(budget) == second.within_size(budget)


def test_at_most_so_many_layers_stay_in_float() -> None:
    items = network(20)
    for most in (0, 3):
        best = BudgetFront(items, most)
        taken = [options for options in best[len(best) - 1].options if options == 8]
        assert len(taken) == most


def test_points_are_spread_over_the_front() -> None:
    front = BudgetFront(network(30))
    points = front.spread(12)
    assert len(points) == 12
    assert points[0].size == front.smallest and points[-1].size == front.sizes[-1]
    ratios = [b.size / a.size for a, b in itertools.pairwise(points)]
    assert max(ratios) < 1.2 * min(ratios)
