"""The vectors that a network computes from averages over its maps: squeezed channels, and what layers make of them."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.operators import averages_space, is_weighted, keeps_scale, op_of
from dfmpc_onnx.graph.output_layers import output_layers
from dfmpc_onnx.graph.query import reads
from dfmpc_onnx.statistics.composed_functions import Composed, compose


def averaged_vectors(graph: gs.Graph) -> set[str]:
    """The outputs of hidden layers that read averages over whole maps, or what such layers give; by name.

    Functions of one value and moves may stand between. Layers at the network's outputs are left out, and so is what
    stands behind them: how far scores reach no average tells.
    """
    heads = output_layers(graph, {node.name for node in graph.nodes if is_weighted(node)})
    vectors: set[str] = set()
    found: set[str] = set()
    functions: dict[str, Composed] = {}
    for node in graph.nodes:
        names = [tensor.name for tensor in node.outputs]
        function = compose(node, functions)
        if function is not None:
            functions[names[0]] = function
        read = {tensor.name for tensor in reads(node)}
        follows = bool(read) and read <= vectors
        if _averages_map(node):
            vectors.update(names)
        elif is_weighted(node):
            if follows and node.name not in heads:
                vectors.update(names)
                found.update(names)
        elif follows and (function is not None or keeps_scale(node)):
            vectors.update(names)
    return found


def _averages_map(node: gs.Node) -> bool:
    return op_of(node) == "GlobalAveragePool" or (op_of(node) == "ReduceMean" and averages_space(node))
