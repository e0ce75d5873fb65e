"""Which of several gains to take where each costs something: enough of them, for the least."""

from __future__ import annotations

from collections.abc import Sequence

LEAST_COST = 1e-9  # what costs less counts as this much: a gain for nothing is taken first, the largest before others


def by_worth(gains: Sequence[float], costs: Sequence[float]) -> list[int]:
    """The numbers of those that gain anything, most gain for each unit of cost first."""
    worth = {i: gain / max(costs[i], LEAST_COST) for i, gain in enumerate(gains) if gain > 0}
    return sorted(worth, key=lambda i: (-worth[i], i))


def cheapest_enough(gains: Sequence[float], costs: Sequence[float], needed: float) -> list[int]:
    """Numbers of those that together gain at least `needed`, for little cost; all that gain where all are too few.

    By worth until it is enough; then those are left out, the costliest first, without which it still is: Dantzig 1957's
    greedy rule for the knapsack. Gains and costs are taken to add up.
    """
    chosen: list[int] = []
    for index in by_worth(gains, costs):
        if sum(gains[i] for i in chosen) >= needed:
            break
        chosen.append(index)
    for index in sorted(chosen, key=lambda i: -costs[i]):
        if sum(gains[i] for i in chosen if i != index) >= needed:
            chosen.remove(index)
    return chosen
