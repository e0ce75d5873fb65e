from hypothesis import given
from hypothesis import strategies as st

from dfmpc_onnx.numerics.group_search import costliest

costs = st.lists(st.floats(0, 1), min_size=0, max_size=40)


def slow(costs, budget):
    """The costliest, one after the other, until the rest is cheap enough."""
    order = sorted(range(len(costs)), key=lambda i: -costs[i])
    for taken in range(len(costs) + 1):
        if sum(costs[i] for i in order[taken:]) <= budget:
            return taken
    raise AssertionError


@given(costs, st.floats(0.01, 3))
def test_what_is_left_is_within_the_budget(costs, budget):
    found = costliest(lambda chosen: sum(costs[i] for i in sorted(chosen)), len(costs), budget, 1000).singly
    assert len(set(found)) == len(found)
    left = sum(c for i, c in enumerate(costs) if i not in found)
    assert left <= budget


@given(st.integers(1, 300), st.data())
def test_a_few_among_many_are_found_in_few_measurements(count, data):
    bad = data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=3))
    calls = 0

    def cost(chosen):
        nonlocal calls
        calls += 1
        return sum(1.0 + i / 1000 for i in chosen if i in bad)

    found = costliest(cost, count, 0.5, 1000).singly
    assert found == sorted(bad, reverse=True)
    assert calls <= 1 + len(bad) * (2 * count.bit_length() + 1)


@given(costs.filter(bool), st.floats(0, 1))
def test_as_few_as_the_exhaustive_order_for_sums(costs, budget):
    """Of two equal costs either may come first."""
    found = costliest(lambda chosen: sum(costs[i] for i in sorted(chosen)), len(costs), budget, 10_000).all
    if all(c > 0.001 for c in costs):
        assert len(found) <= len(costs)
        assert len(found) >= slow(costs, budget + 1e-9)


@given(costs, st.floats(0.01, 3), st.integers(0, 20))
def test_cut_short_it_takes_whole_parts_within_the_budget(costs, budget, most):
    found = costliest(lambda chosen: sum(costs[i] for i in sorted(chosen)), len(costs), budget, most).all
    assert len(set(found)) == len(found)
    assert sum(c for i, c in enumerate(costs) if i not in found) <= budget


def test_the_search_ends():
    """A cost that does not fall, but for nothing at all."""
    calls = []

    def cost(chosen):
        calls.append(tuple(chosen))
        return 1.0 if chosen else 0.0

    assert sorted(costliest(cost, 64, 0.5, 9).all) == list(range(64))
    assert len(calls) <= 9 + 2 + 4
    assert costliest(cost, 0, 0.5, 9).all == []


def test_what_one_half_costs_says_whether_to_measure_the_other():
    calls = []

    def cost(chosen):
        calls.append(tuple(chosen))
        return 1.0 if 3 in chosen else 0.0

    assert costliest(cost, 64, 0.5, 1000).singly == [3]
    # The whole, the lower half at each of 6 levels, the upper one at the 2 where it holds 3, and what is left.
    assert len(calls) == 1 + 6 + 2 + 1


def test_what_is_taken_singly_was_measured_though_costs_do_not_add_up():
    """A quarter is lost by any of the upper half beside any of the lower: by none of them alone."""

    def cost(chosen):
        both = any(i < 32 for i in chosen) and any(i >= 32 for i in chosen)
        return 0.25 * both + sum(0.3 for i in chosen if i == 40) + sum(0.01 for i in chosen if i == 3)

    assert costliest(cost, 64, 0.28, 1000).singly[0] == 40


def test_of_many_that_are_found_what_is_left_is_measured_now_and_then():
    calls = []

    def cost(chosen):
        calls.append(tuple(chosen))
        return sum(1.0 + i / 1000 for i in chosen if i % 3 == 0)

    found = costliest(cost, 192, 20.5, 10_000).singly
    assert found == list(range(189, 189 - 3 * 45, -3))  # the fewest, costliest first
    assert sum(len(chosen) > 192 // 2 for chosen in calls) < 25


def test_once_it_is_late_whole_groups_are_taken():
    found = costliest(lambda chosen: float(len(chosen)), 16, 4.0, 1000, late=lambda: True)
    assert not found.singly and len(found.all) >= 12
