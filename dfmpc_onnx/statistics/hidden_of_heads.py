"""What the Convs read that make the maps of scores and boxes at a network's outputs."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.operators import averages, is_weighted, op_of
from dfmpc_onnx.graph.output_layers import output_layers
from dfmpc_onnx.statistics.composed_functions import Composed, compose


def hidden_of_heads(graph: gs.Graph) -> set[str]:
    """The tensors that Convs at the outputs read, where they are what hidden layers give, or functions of it; and that.

    A score that is high where the thing is follows from hidden channels that are high there: they reach as far beyond
    what images of nothing in particular show as scores do. An average over the map is far from both; layers whose
    outputs are averaged are left out.
    """
    heads = output_layers(graph, {node.name for node in graph.nodes if is_weighted(node)})
    hidden = {node.outputs[0].name for node in graph.nodes if is_weighted(node) and node.name not in heads}
    averaged: set[str] = set()
    for node in reversed(graph.nodes):
        if averages(node) or (not is_weighted(node) and any(t.name in averaged for t in node.outputs)):
            averaged.update(t.name for t in node.inputs)
    functions: dict[str, Composed] = {}
    found: set[str] = set()
    for node in graph.nodes:
        function = compose(node, functions)
        if function is not None:
            functions[node.outputs[0].name] = function
        if node.name not in heads or op_of(node) != "Conv" or node.outputs[0].name in averaged:
            continue
        read = node.inputs[0].name
        source = functions[read].source if read in functions else read
        if source in hidden:
            found.update((read, source))
    return found
