"""Chains of nodes, matched from the first one forward, with a reason for every refusal.

A chain is a list of steps; each step names the operators it accepts. Between two nodes of a chain the tensor must
have no other reader and must not be an output of the model, so that what happens to it is seen by the chain alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.operators import op_of
from dfmpc_onnx.graph.query import describe, only_consumer


@dataclasses.dataclass(frozen=True)
class Link:
    """One place in a chain.

    ops: the operators accepted. optional: it may be absent; repeated: any number of times, none included.
    check: returns a reason to refuse a node whose operator fits, or None.
    """

    name: str
    ops: frozenset[str]
    optional: bool = False
    repeated: bool = False
    check: Callable[[gs.Node], str | None] | None = None


@dataclasses.dataclass(frozen=True)
class Match:
    """The nodes of a matched chain by step; absent optional steps have none."""

    nodes: Mapping[str, tuple[gs.Node, ...]]

    def one(self, step: str) -> gs.Node | None:
        found = self.nodes.get(step, ())
        return found[0] if found else None


@dataclasses.dataclass(frozen=True)
class Mismatch:
    """Where and why a chain ends: `matched` counts the nodes that fitted."""

    reason: str
    matched: int


@dataclasses.dataclass(frozen=True)
class Chain:
    """A pattern of steps."""

    steps: tuple[Link, ...]

    def match(self, graph: gs.Graph, start: gs.Node) -> Match | Mismatch:
        """Match the chain with `start` as its first node."""
        found: dict[str, list[gs.Node]] = {step.name: [] for step in self.steps}
        node, count = start, 0
        position = 0
        while True:
            step = self._accepting(position, node)
            if step is None:
                return Mismatch(self._mismatch(position, node, count), count)
            chosen = self.steps[step]
            reason = chosen.check(node) if chosen.check else None
            if reason is not None:
                return Mismatch(f"{describe(node)}: {reason}", count)
            found[chosen.name].append(node)
            count += 1
            if step == len(self.steps) - 1 and not chosen.repeated:
                return Match({name: tuple(nodes) for name, nodes in found.items()})
            position = step if chosen.repeated else step + 1
            following = only_consumer(graph, node.outputs[0])
            if isinstance(following, str):
                return Mismatch(following, count)
            node = following

    def _accepting(self, position: int, node: gs.Node) -> int | None:
        """The first step from `position` on that takes the node, passing over optional ones."""
        for index in range(position, len(self.steps)):
            step = self.steps[index]
            if op_of(node) in step.ops:
                return index
            if not (step.optional or step.repeated):
                return None
        return None

    def _mismatch(self, position: int, node: gs.Node, count: int) -> str:
        wanted: list[str] = []
        for step in self.steps[position:]:
            wanted.extend(sorted(step.ops))
            if not (step.optional or step.repeated):
                break
        listed = " or ".join(dict.fromkeys(wanted))
        return f"{describe(node)} follows, not {listed}" if count else f"{describe(node)} is not {listed}"
