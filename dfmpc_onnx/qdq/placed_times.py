"""What the layers of a graph take in integers and in float by the table of kernels, with the steps between both.

Nothing is timed, so one file is judged alike on every machine and in every run.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping

import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.operators import keeps_scale, meaning_of, op_of
from dfmpc_onnx.graph.output_layers import inferred_shapes, multiply_adds
from dfmpc_onnx.graph.query import consumers, is_output, nodes_by_name, producer
from dfmpc_onnx.numerics.min_cut import TwoSides
from dfmpc_onnx.qdq.kernel_times import DEQUANTIZE, QUANTIZE, between_times, conv_times
from dfmpc_onnx.qdq.placement import Sites

LEAST_GAIN = 1e5  # nanoseconds: what is faster than that takes its time in the calls around it more than in kernels
CLEARLY_SLOWER = 1.25  # the table is good to a tenth or two
FLOAT_SIDE = "float"  # what stands for all that computes in float anyway


class PlacedTimes:
    """What the nodes of a graph take in integers and in float, and its tensors to cross."""

    def __init__(self, graph: gs.Graph, sites: Sites, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._graph = graph
        products, nodes = multiply_adds(graph, shapes), nodes_by_name(graph)
        self._values = {name: math.prod(shape) for name, shape in inferred_shapes(graph, shapes).items()}
        self._costs: dict[str, tuple[float, float]] = {}  # of the nodes that may be integer
        for name in sites.layers:
            conv = op_of(nodes[name]) == "Conv" and products.get(name, 0) > 0
            self._costs[name] = conv_times(nodes[name], products[name]) if conv else (0.0, math.inf)
        self.convs = [n.name for n in graph.nodes if n.name in self._costs and self._costs[n.name][1] < math.inf]
        for node in graph.nodes:
            passes = keeps_scale(node) or meaning_of(node).own_scale or op_of(node) in ("Relu", "Clip")
            made = [t.name for t in node.outputs]
            if passes and node.name not in sites.layers and made and _rounded(graph, node, sites):
                self._costs[node.name] = between_times(node, self._values.get(made[0], 0))

    def cheapest(self) -> set[str]:
        """The names of the nodes that are integer where the network is fastest."""
        sides = TwoSides()
        sides.costs(FLOAT_SIDE, math.inf, 0.0)
        for name, (integer, in_float) in self._costs.items():
            sides.costs((name,), integer, in_float)
        for tensor, maker, readers in self._crossings():
            size = self._values.get(tensor.name, 0)
            here: Hashable = FLOAT_SIDE if maker is None else (maker,)
            if maker is not None and self._fused(tensor):
                behind = (consumers(tensor)[0].name,)
                sides.parted(here, behind, math.inf)
                sides.parted(behind, here, math.inf)
                continue
            sides.parted(here, ("floats", tensor.name), DEQUANTIZE * size)
            sides.parted(("codes", tensor.name), here, QUANTIZE * size)
            for reader in readers:
                there: Hashable = FLOAT_SIDE if reader is None else (reader,)
                sides.parted(("floats", tensor.name), there, math.inf)
                sides.parted(there, ("codes", tensor.name), math.inf)
        return {str(thing[0]) for thing in sides.cheapest() if isinstance(thing, tuple) and len(thing) == 1}

    def total(self, integer: set[str] | None) -> float:
        """Nanoseconds where these nodes are integer; None: all that may be."""
        chosen = self._costs.keys() if integer is None else integer
        time = sum(costs[0] if name in chosen else costs[1] for name, costs in self._costs.items())
        for tensor, maker, readers in self._crossings():
            size = self._values.get(tensor.name, 0)
            if maker in chosen and any(reader not in chosen for reader in readers):
                time += DEQUANTIZE * size
            if maker not in chosen and any(reader in chosen for reader in readers):
                time += QUANTIZE * size
        return time

    def slower(self) -> tuple[str, ...]:
        """One line where all integers that may be take clearly longer than floats."""
        gemms = {name for name, costs in self._costs.items() if costs[1] == math.inf}  # of which no time is known
        integer, in_float = self.total(None), self.total(gemms)
        if integer - in_float < LEAST_GAIN or integer <= CLEARLY_SLOWER * in_float:
            return ()
        return (
            f"by the times of kernels a run takes about {integer / 1e6:.1f} ms on one thread, {integer / in_float:.1f} "
            "times as long as in floats: few of its layers gain by integers; --activations none computes as the float "
            "model does",
        )

    def _crossings(self) -> list[tuple[gs.Tensor, str | None, list[str | None]]]:
        """The tensors beside nodes that may be integer: its maker and readers, None for what is float anyway."""
        found = []
        made = [t for node in self._graph.nodes for t in node.outputs if not t.is_empty()]
        for tensor in (*self._graph.inputs, *made):
            node = producer(tensor)
            maker = node.name if node is not None and node.name in self._costs else None
            readers = [n.name if n.name in self._costs else None for n in consumers(tensor)]
            if is_output(self._graph, tensor):
                readers.append(None)
            if maker is not None or any(reader is not None for reader in readers):
                found.append((tensor, maker, readers))
        return found

    def _fused(self, tensor: gs.Tensor) -> bool:
        """Whether a Relu or Clip alone reads a tensor, which is one kernel with what made it."""
        readers = consumers(tensor)
        alone = len(readers) == 1 and not is_output(self._graph, tensor)
        return alone and op_of(readers[0]) in ("Relu", "Clip") and readers[0].name in self._costs


def _rounded(graph: gs.Graph, node: gs.Node, sites: Sites) -> bool:
    """Whether what a node gives is rounded, behind the Relu or Clip that alone reads it if there is one."""
    made = node.outputs[0]
    readers = consumers(made)
    if len(readers) == 1 and op_of(readers[0]) in ("Relu", "Clip") and not is_output(graph, made):
        made = readers[0].outputs[0]
    return made.name in sites.tensors
