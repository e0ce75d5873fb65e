"""Leave the layers in float that integers, and the steps to and from them, would make slower."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Annotated, ClassVar

import msgspec
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.operators import keeps_scale, meaning_of, op_of
from dfmpc_onnx.graph.output_layers import inferred_shapes, multiply_adds
from dfmpc_onnx.graph.query import consumers, is_output, nodes_by_name, producer
from dfmpc_onnx.numerics.min_cut import TwoSides
from dfmpc_onnx.pipeline.facts import Codes, FinalOpset, FloatLayers, FoldedBatchNorms, Layers, Ranges
from dfmpc_onnx.pipeline.manager import Pass, PassResult, Rewrite
from dfmpc_onnx.pipeline.refusals import Reason
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.qdq.kernel_times import DEQUANTIZE, QUANTIZE, between_times, conv_times
from dfmpc_onnx.qdq.placement import Placer, Sites

LEAST_GAIN = 1e5  # nanoseconds: what is faster than that is timed by the calls around it more than by kernels
FLOAT_SIDE = "float"  # what stands for all that computes in float anyway


class KeepSlowLayersFloatOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """gain: the smallest part of a network's time, as estimated, that is worth leaving layers in float."""

    gain: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.1


class KeepSlowLayersFloat(Pass[KeepSlowLayersFloatOptions]):
    """Before: image -> Conv of 3 channels -> depthwise Conv -> Conv of many channels, all to be integer
    After: the same graph; the first two are known as layers that compute in float

    Why: an integer Conv takes a time for each tap of each pixel that a float one does not, and every step from float to
    integers or back reads and writes the whole tensor. So on large maps of few channels, in depthwise Convs and between
    float neighbours integers are slower. Which layers are to be float is the cheapest cut of the graph in two: each
    layer costs what its kernel takes on either side, each tensor what it takes to cross. It is taken where it
    saves a tenth of the time, and a tenth of a millisecond; a network that gains from integers everywhere stays as it
    is.

    Requires: ranges, codes, and the layers as they will be in the file.

    Refuses when: activations stay in float; the target has no integer operators between layers; sizes are not known.

    Reference: docs/method.md, section 7; Stone 1977 (two processors and a minimum cut).
    """

    name = "keep_slow_layers_float"
    Options = KeepSlowLayersFloatOptions
    requires: ClassVar = (Ranges, Codes, Layers, FoldedBatchNorms, FinalOpset)
    provides: ClassVar = (FloatLayers,)

    def run(self, workspace: Workspace) -> PassResult:
        spared, graph, settings = workspace.find(FloatLayers), workspace.graph, workspace.settings
        before = dict(spared.layers) if spared is not None else {}
        workspace.put(FloatLayers(before))
        if settings.activations == "none" or graph.opset < 13 or not settings.target.between:
            return PassResult(self.name, notes=("only where operators between layers have integer kernels",))
        times = _Times(graph, Placer.of(workspace).place(), workspace.inputs.shapes)
        if not times.convs:
            return PassResult(self.name, notes=("no integer Conv of known size",))
        integer = times.cheapest()
        now, best = times.total(None), times.total(integer)
        note = f"{now / 1e6:.2f} ms estimated, {best / 1e6:.2f} at best"
        if now - best < max(self.options.gain * now, LEAST_GAIN):
            return PassResult(self.name, notes=(note,))
        slow = [name for name in times.convs if name not in integer]
        why = "integers would be slower here, with the steps to and from them"
        workspace.put(FloatLayers({**before, **dict.fromkeys(slow, Reason("slower-in-integers", why))}))
        return PassResult(self.name, tuple(Rewrite(name, "stays in float") for name in slow), notes=(note,))


class _Times:
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
