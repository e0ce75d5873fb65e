import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from dfmpc_onnx.numerics.min_cut import TwoSides

THINGS = range(5)
number = st.integers(0, 20).map(float)
pairs = st.dictionaries(st.tuples(st.sampled_from(THINGS), st.sampled_from(THINGS)), number | st.just(math.inf))


def cost(first, costs, parted):
    own = sum(costs[thing][0 if thing in first else 1] for thing in THINGS)
    return own + sum(c for (a, b), c in parted.items() if a in first and b not in first)


@given(st.lists(st.tuples(number, number), min_size=5, max_size=5), pairs)
def test_no_division_costs_less(costs, parted):
    sides = TwoSides()
    for thing in THINGS:
        sides.costs(thing, *costs[thing])
    for (a, b), c in parted.items():
        sides.parted(a, b, c)
    divisions = [set(c) for size in range(6) for c in itertools.combinations(THINGS, size)]
    least = min(cost(first, costs, parted) for first in divisions)
    assert cost(sides.cheapest(), costs, parted) == least


def test_what_costs_the_same_on_both_sides_is_on_the_first():
    sides = TwoSides()
    sides.costs("alike", 2.0, 2.0)
    sides.costs("dear", 3.0, 2.0)
    assert sides.cheapest() == {"alike"}
