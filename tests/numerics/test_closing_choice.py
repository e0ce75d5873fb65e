import itertools

from hypothesis import given
from hypothesis import strategies as st

from dfmpc_onnx.numerics.closing_choice import by_worth, cheapest_enough

SOME = st.lists(st.tuples(st.floats(-1, 5), st.floats(0, 3)), max_size=7)


def split(items):
    return [gain for gain, _ in items], [cost for _, cost in items]


def test_most_gain_for_each_unit_of_cost_comes_first():
    assert by_worth([4.0, 4.0, 1.0, -1.0], [2.0, 1.0, 0.1, 0.0]) == [2, 1, 0]


def test_what_costs_nothing_is_taken_first_the_largest_gain_before_others():
    assert by_worth([1.0, 2.0, 9.0], [0.0, 0.0, 1.0]) == [1, 0, 2]


def test_enough_is_taken_and_no_more():
    assert cheapest_enough([1.0, 1.0, 1.0], [0.3, 0.1, 0.2], 1.5) == [1, 2]


def test_what_later_choices_make_needless_is_left_out():
    # The first is the best bargain; but the second alone is enough, and needed.
    assert cheapest_enough([1.0, 5.0], [0.1, 2.0], 4.0) == [1]


def test_nothing_needed_takes_nothing():
    assert cheapest_enough([1.0], [0.0], 0.0) == []


@given(SOME, st.floats(0, 10))
def test_it_is_enough_wherever_any_choice_is(items, needed):
    gains, costs = split(items)
    chosen = cheapest_enough(gains, costs, needed)
    most = sum(gain for gain in gains if gain > 0)
    assert all(gains[i] > 0 for i in chosen) and len(set(chosen)) == len(chosen)
    if most >= needed + 1e-9:
        assert sum(gains[i] for i in chosen) >= needed
        for index in chosen:  # none of them is needless
            assert sum(gains[i] for i in chosen if i != index) < needed + 1e-9


@given(SOME)
def test_of_equal_gains_the_cheapest_are_taken(items):
    costs = [cost for _, cost in items]
    chosen = cheapest_enough([1.0] * len(costs), costs, 2.0)
    best = min((sum(pair) for pair in itertools.combinations(costs, 2)), default=sum(costs))
    assert sum(costs[i] for i in chosen) <= best + 1e-6
