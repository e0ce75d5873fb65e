"""The cheapest way to divide things into two sides, where things cost on either and pairs cost when parted."""

from __future__ import annotations

import collections
import math
from collections.abc import Hashable

SOURCE, SINK = 0, 1


class TwoSides:
    """A minimum cut (Ford and Fulkerson 1956) by shortest augmenting paths in layers (Dinic 1970)."""

    def __init__(self) -> None:
        self._index: dict[Hashable, int] = {}
        self._edges: list[list[int]] = [[], []]  # by vertex: numbers of edges; an edge and its reverse differ in bit 0
        self._ends: list[int] = []
        self._room: list[float] = []

    def costs(self, thing: Hashable, first: float, second: float) -> None:
        """What a thing costs on the first side and on the second; at least 0, may be infinite on one of them."""
        self._edge(self._vertex(thing), SINK, first)
        self._edge(SOURCE, self._vertex(thing), second)

    def parted(self, on_first: Hashable, on_second: Hashable, cost: float) -> None:
        """What it costs that one thing is on the first side while another is on the second."""
        self._edge(self._vertex(on_first), self._vertex(on_second), cost)

    def cheapest(self) -> set[Hashable]:
        """The things on the first side, of the divisions that cost least the one with the most there."""
        while (depth := self._depths()) is not None:
            at = [0] * len(self._edges)
            while self._augment(depth, at):
                pass
        second = self._reaches_sink()
        return {thing for thing, vertex in self._index.items() if vertex not in second}

    def _vertex(self, thing: Hashable) -> int:
        if thing not in self._index:
            self._index[thing] = len(self._edges)
            self._edges.append([])
        return self._index[thing]

    def _edge(self, start: int, end: int, room: float) -> None:
        if room <= 0:
            return
        for here, there, free in ((start, end, room), (end, start, 0.0)):
            self._edges[here].append(len(self._ends))
            self._ends.append(there)
            self._room.append(free)

    def _depths(self) -> list[int] | None:
        """Edges from the source to each vertex, by what has room; None where the sink is out of reach."""
        depth = [-1] * len(self._edges)
        depth[SOURCE] = 0
        ahead = collections.deque([SOURCE])
        while ahead:
            here = ahead.popleft()
            for edge in self._edges[here]:
                if self._room[edge] > 0 and depth[self._ends[edge]] < 0:
                    depth[self._ends[edge]] = depth[here] + 1
                    ahead.append(self._ends[edge])
        return depth if depth[SINK] >= 0 else None

    def _augment(self, depth: list[int], at: list[int]) -> bool:
        """Send what one shortest path has room for; `at` remembers, by vertex, which edges lead nowhere."""
        path: list[int] = []
        here = SOURCE
        while here != SINK:
            edges = self._edges[here]
            while at[here] < len(edges):
                edge = edges[at[here]]
                if self._room[edge] > 0 and depth[self._ends[edge]] == depth[here] + 1:
                    break
                at[here] += 1
            else:
                if not path:
                    return False
                here = self._ends[path.pop() ^ 1]
                at[here] += 1
                continue
            path.append(edge)
            here = self._ends[edge]
        sent = min(self._room[edge] for edge in path)
        for edge in path:
            if not math.isinf(self._room[edge]):
                self._room[edge] -= sent
            self._room[edge ^ 1] += sent
        return not math.isinf(sent)

    def _reaches_sink(self) -> set[int]:
        found, ahead = {SINK}, [SINK]
        while ahead:
            for edge in self._edges[ahead.pop()]:
                if self._room[edge ^ 1] > 0 and self._ends[edge] not in found:
                    found.add(self._ends[edge])
                    ahead.append(self._ends[edge])
        return found
