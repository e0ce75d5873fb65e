"""The nodes of a graph that what runs it does not take, for targets that say which operators these are."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import shown
from dfmpc_onnx.graph.operators import op_of
from dfmpc_onnx.pipeline.refusals import Reason
from dfmpc_onnx.pipeline.target_rules import Target

NODES_NAMED = 3


def not_taken(graph: gs.Graph, target: Target) -> dict[str, Reason]:
    """By name of each node that the target's runtime leaves to the processor, why."""
    found: dict[str, Reason] = {}
    folded: set[str] = set()
    for node in graph.nodes if target.operators else ():
        given = [t for t in node.inputs if isinstance(t, gs.Variable) and not t.is_empty()]
        if (target.static_shapes and op_of(node) == "Shape") or all(t.name in folded for t in given):
            folded.update(t.name for t in node.outputs)  # onnxruntime works out at load what sizes alone decide
        elif op_of(node) not in target.operators:
            why = f"{target.name} takes no {shown(op_of(node))}: the processor runs it"
            found[node.name] = Reason("operator-not-taken", why)
    return found


def not_taken_warning(graph: gs.Graph, target: Target) -> tuple[str, ...]:
    """One line on all of them, with what to do; nothing where there are none."""
    found = not_taken(graph, target)
    by_operator: dict[str, list[str]] = {}
    for node in graph.nodes:
        if node.name in found:
            by_operator.setdefault(shown(op_of(node)), []).append(f"'{shown(node.name)}'")
    if not by_operator:
        return ()
    listed = "; ".join(f"{op} ({_some(names)})" for op, names in by_operator.items())
    return (
        f"{target.name} takes no {listed}: the processor runs these, and the network is cut in parts around them; "
        "leave them out of the exported model",
    )


def _some(names: list[str]) -> str:
    rest = len(names) - NODES_NAMED
    return ", ".join(names[:NODES_NAMED]) + (f" and {rest} more" if rest > 0 else "")
