"""Which few of many cost the most, where only the cost of several together can be measured."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import NamedTuple

UNSEEN_GROWTH = 1.25  # by which those found grow before what is left of many is measured again


class Costliest(NamedTuple):
    """Those found singly, costliest first, and parts of which it is not known which of theirs cost most."""

    singly: list[int]
    together: list[list[int]]

    @property
    def all(self) -> list[int]:
        return self.singly + [index for part in self.together for index in part]


def costliest(
    cost: Callable[[Sequence[int]], float],
    count: int,
    budget: float,
    most: int,
    late: Callable[[], bool] = lambda: False,
) -> Costliest:
    """Few of 0..count-1 without which the cost of the others is at most `budget`.

    cost: of a set together, about the sum of what each costs alone, at least 0; of none it is 0. The whole is halved,
    and always the costliest part of those found first, until single ones come out; what is left is measured after each
    of them. Adaptive group testing, with a measure in place of yes and no (Dorfman 1943). most: calls of `cost` after
    which nothing is halved any more: then whole parts are taken, those first that cost most for each of theirs, as few
    as are needed by bisection. late: whether to stop there already.
    """
    calls = 0

    def cost_of(indices: Sequence[int]) -> float:
        nonlocal calls
        calls += 1
        return cost(indices)

    found: list[int] = []
    parts = [(-cost_of(range(count)), 0, count, True)] if count else []  # cost, ends, and whether it was measured
    if not parts or -parts[0][0] <= budget:
        return Costliest(found, [])
    last, due = 0, 1  # how many were found when what is left was measured, and will be when it is again
    while parts and calls < most and not late():
        whole, low, high, measured = heapq.heappop(parts)
        if not measured:
            heapq.heappush(parts, (-cost_of(range(low, high)), low, high, True))
            continue
        if high - low == 1:
            found.append(low)
            if len(found) < due:
                continue
            if cost_of(_others(found, count)) <= budget:
                return Costliest(found[: _fewest(found, last, lambda few: cost_of(_others(few, count)) <= budget)], [])
            last, due = len(found), max(len(found) + 1, int(len(found) * UNSEEN_GROWTH))
            continue
        middle = (low + high) // 2
        lower = cost_of(range(low, middle))
        heapq.heappush(parts, (-lower, low, middle, True))
        # Costs about add up: the other half is measured once it seems to be the costliest part of all.
        heapq.heappush(parts, (-max(-whole - lower, 0.0), middle, high, False))
    parts.sort(key=lambda part: part[0] / (part[2] - part[1]))
    ordered = [list(range(low, high)) for _, low, high, _ in parts]

    def candidate(first: int) -> Costliest:
        return Costliest(found, ordered[:first])

    few, enough = 0, len(ordered)
    while few < enough:
        middle = (few + enough) // 2
        if cost(_others(candidate(middle).all, count)) <= budget:
            enough = middle
        else:
            few = middle + 1
    return candidate(enough)


def _fewest(found: Sequence[int], last: int, enough: Callable[[Sequence[int]], bool]) -> int:
    """How many of those found are enough, more than `last` and at most all, by bisection."""
    low, high = last + 1, len(found)
    while low < high:
        middle = (low + high) // 2
        if enough(found[:middle]):
            high = middle
        else:
            low = middle + 1
    return high


def _others(taken: Sequence[int], count: int) -> list[int]:
    without = set(taken)
    return [i for i in range(count) if i not in without]
