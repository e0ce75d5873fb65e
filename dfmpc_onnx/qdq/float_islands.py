"""The islands of float between integer layers that closer ranges or speed left there, and what closing one means."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import onnx_graphsurgeon as gs

from dfmpc_onnx.pipeline.facts import FloatActivations, FloatLayers
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.qdq.placement import Placer, Sites

# Codes of the reasons that weigh error against speed: what a user asked for, or no kernel has, stays as it is.
BY_CHOICE = frozenset({"slower-in-integers", "output-layer", "whole-map"})


@dataclasses.dataclass(frozen=True)
class FloatIsland:
    """A connected part of the graph that would compute in integers if these layers and tensors were not kept in float.

    layers: names in `FloatLayers`. tensors: names in `FloatActivations`. nodes: the names of its nodes, in graph order.
    """

    layers: tuple[str, ...]
    tensors: tuple[str, ...]
    nodes: tuple[str, ...]

    @property
    def site(self) -> str:
        """What it is called by: its first layer that is kept in float, or its first such tensor."""
        return (*self.layers, *self.tensors)[0]


@contextlib.contextmanager
def closing(workspace: Workspace, islands: Sequence[FloatIsland]) -> Iterator[None]:
    """Within the block nothing of these islands is kept in float."""
    layers, tensors = workspace.find(FloatLayers), workspace.find(FloatActivations)
    close(workspace, islands)
    try:
        yield
    finally:
        for fact in (layers, tensors):
            if fact is not None:
                workspace.put(fact)


def close(workspace: Workspace, islands: Sequence[FloatIsland]) -> None:
    """Keep nothing of these islands in float any more."""
    layers, tensors = workspace.find(FloatLayers), workspace.find(FloatActivations)
    if layers is not None:
        closed = {name for island in islands for name in island.layers}
        workspace.put(FloatLayers({name: why for name, why in layers.layers.items() if name not in closed}))
    if tensors is not None:
        closed = {name for island in islands for name in island.tensors}
        workspace.put(FloatActivations({name: why for name, why in tensors.tensors.items() if name not in closed}))


def placed(workspace: Workspace, islands: Sequence[FloatIsland]) -> Sites:
    """Where to quantize with these islands closed."""
    with closing(workspace, islands):
        return Placer.of(workspace).place()


def float_islands(workspace: Workspace) -> list[FloatIsland]:
    """The islands of a workspace in graph order, none of which holds a node of another.

    Only what was kept in float to lose or to take less, and what computes in float for that reason alone.
    """
    spared, exempt = workspace.find(FloatLayers), workspace.find(FloatActivations)
    layers = {n for n, why in spared.layers.items() if why.code in BY_CHOICE} if spared is not None else set()
    tensors = set(exempt.tensors) if exempt is not None else set()
    if not layers and not tensors:
        return []
    before = Placer.of(workspace).place()
    after = placed(workspace, [FloatIsland(tuple(layers), tuple(tensors), ())])
    parts = _connected(workspace.graph, before, after, tensors)
    islands = []
    for part in parts:
        names = {node.name for node in part}
        touched = {t.name for node in part for t in (*node.inputs, *node.outputs)}
        kept = tuple(node.name for node in part if node.name in layers)
        held = tuple(sorted(tensors & touched))
        if kept or held:
            islands.append(FloatIsland(kept, held, tuple(n.name for n in workspace.graph.nodes if n.name in names)))
    return islands


def _connected(graph: gs.Graph, before: Sites, after: Sites, exempt: set[str]) -> list[list[gs.Node]]:
    """The nodes that change when all is closed, in parts that share no tensor that is float now."""
    fresh = after.tensors.keys() - before.tensors.keys()
    part_of: dict[str, list[gs.Node]] = {}  # by the name of a node
    touching: dict[str, list[gs.Node]] = {}  # by the name of a tensor: the nodes so far that touch it
    for node in graph.nodes:
        around = [t.name for t in (*node.inputs, *node.outputs) if isinstance(t, gs.Variable) and not t.is_empty()]
        changes = node.name in after.layers - before.layers
        if not changes and (node.name in before.layers or fresh.isdisjoint(around)):
            continue
        part = part_of[node.name] = [node]
        for name in around:
            # What is codes already parts two islands; an exempt tensor is float, whoever touches it.
            if name in before.tensors and name not in exempt:
                continue
            for other in touching.get(name, ()):
                joined = part_of[other.name]
                if joined is not part:
                    part.extend(joined)
                    part_of.update((n.name, part) for n in joined)
            touching[name] = [node]
    return list({id(part): part for part in part_of.values()}.values())
