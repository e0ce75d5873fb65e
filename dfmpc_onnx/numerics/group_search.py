"""Which few of many cost the most, where only the cost of several together can be measured."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence


def costliest(cost: Callable[[Sequence[int]], float], count: int, budget: float, most: int) -> list[int]:
    """The fewest of 0..count-1 found without which the cost of the others is at most `budget`, costliest first.

    cost: of a set together, about the sum of what each costs alone, at least 0. The whole is halved, and always the
    costliest part of those found first, until single ones come out; what is left is measured after each of them. most:
    calls of `cost` after which the search ends; what was found until then is returned. Adaptive group testing, with a
    measure in place of yes and no (Dorfman 1943).
    """
    calls = 0

    def measured(indices: Sequence[int]) -> float:
        nonlocal calls
        calls += 1
        return cost(indices)

    found: list[int] = []
    parts = [(-measured(range(count)), 0, count)] if count else []
    if not parts or -parts[0][0] <= budget:
        return found
    while parts and calls < most:
        _, low, high = heapq.heappop(parts)
        if high - low == 1:
            found.append(low)
            taken = set(found)
            if measured([i for i in range(count) if i not in taken]) <= budget:
                break
            continue
        middle = (low + high) // 2
        for a, b in ((low, middle), (middle, high)):
            heapq.heappush(parts, (-measured(range(a, b)), a, b))
    return found
