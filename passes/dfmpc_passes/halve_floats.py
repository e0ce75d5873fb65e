"""Write what is not quantized in float16, where the target computes in it and values fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import shown
from dfmpc_onnx.graph.float16 import (
    OLDEST_HALF_QDQ,
    SINGLE,
    Halving,
    captured_by_bodies,
    fits_float16,
    slots_of,
    tensor_types,
)
from dfmpc_onnx.graph.operators import dequantizes, quantizes
from dfmpc_onnx.graph.query import constant, consumers, describe, producer
from dfmpc_onnx.pipeline.facts import Halved, MeasuredRanges, Packed, Ranges
from dfmpc_onnx.pipeline.manager import NoOptions, Pass, PassResult, Refusal, Rewrite
from dfmpc_onnx.pipeline.refusals import Reason
from dfmpc_onnx.pipeline.workspace import Workspace

# onnxruntime 1.32 (WeightBiasQuantization) counts a bias in products of codes, whose scale it takes in float16, and
# decodes that count in float16: beyond 65504 it is infinite, and below this scale off by 1 % and more.
LEAST_PRODUCT, LARGEST_COUNT = 2.0**-18, 60000.0
ROOM = 8.0  # beyond what 99.99 % of the values of a tensor reach on images


class HalveFloats(Pass[NoOptions]):
    """Before: QuantizeLinear -> DequantizeLinear -> Conv(x, w, b) -> Relu -> y, floats in float32
    After: QuantizeLinear -> DequantizeLinear -> Conv(x, w, b) -> Relu -> Cast -> y, floats in float16

    Why: TensorRT 11 has no precision flags: it computes in the types that the file states, and float32 halves the rate
    of what is not int8. float16 has 11 bits, more than the 8 of the codes beside it; scales, weights and biases are
    rounded to it by a 4096th. QuantizeLinear and DequantizeLinear of one tensor have the same rounded scale. Inputs and
    outputs keep their types.

    Requires: ranges, and the graph as it will be in the file.

    Refuses when: the target computes in float32, or that was asked for; an operator has no float16 form; the range of
    what it reads or gives is not known, goes beyond 65504, or lies within 2^-14, where float16 loses precision;
    likewise weights, biases and scales, of which the largest counts. Such an operator stays in float32 between Casts,
    with a DequantizeLinear of its own.

    Reference: IEEE 754, binary16; NVIDIA TensorRT documentation, strongly typed networks.
    """

    name = "halve_floats"
    requires: ClassVar = (Packed, Ranges)
    provides: ClassVar = (Halved,)

    def run(self, workspace: Workspace) -> PassResult:
        graph = workspace.graph
        workspace.put(Halved(frozenset()))
        if not workspace.settings.float16:
            return PassResult(self.name, notes=("floats stay in float32",))
        if graph.opset < OLDEST_HALF_QDQ and any(quantizes(node) or dequantizes(node) for node in graph.nodes):
            why = f"opset {graph.opset} quantizes no float16; floats stay in float32"
            return PassResult(self.name, refusals=(Refusal("model", why, "opset-kept"),), warnings=(why,))
        ranges = _known_ranges(workspace)
        if not ranges:
            why = "no range of the network is known; floats stay in float32"
            return PassResult(self.name, refusals=(Refusal("model", why, "float16-range"),))
        types = tensor_types(graph)
        floats = frozenset(name for name, kind in types.items() if kind == SINGLE)
        wide = wide_nodes(graph, floats, ranges) | _beside_unknown(graph, types, floats)
        left = wide.keys() | captured_by_bodies(graph)
        changed = Halving(graph, left | _decoding_for(graph, left), floats).run()
        workspace.put(Halved(frozenset(changed)))
        refusals = tuple(Refusal.of(name, reason) for name, reason in wide.items())
        return PassResult(self.name, tuple(Rewrite(name, "computes in float16") for name in changed), refusals)


def _known_ranges(workspace: Workspace) -> Mapping[str, tuple[float, float]]:
    """Of tensors by name: as activations are quantized by, else as measured with room for what images do not show."""
    found, inputs = workspace.find(MeasuredRanges), workspace.inputs
    trusted = found is not None and (inputs.own_images is not None or not inputs.unknown)
    measured = found.tensors if found is not None and trusted else {}
    return {name: (ROOM * low, ROOM * high) for name, (low, high) in measured.items()} | dict(
        workspace.get(Ranges).tensors
    )


def _made_of_constants(graph: gs.Graph) -> set[int]:
    """The ids of the tensors that nodes make of constants alone: decoded weights, and what stands on the way."""
    found: set[int] = set()
    for node in graph.nodes:
        if node.inputs and all(isinstance(t, gs.Constant) or id(t) in found for t in node.inputs):
            found.update(id(tensor) for tensor in node.outputs)
    return found


def _decoding_for(graph: gs.Graph, wide: set[str]) -> set[str]:
    """The nodes that decode weights for nothing but nodes that stay in float32."""
    found: set[str] = set()
    constants = _made_of_constants(graph)
    for node in reversed(graph.nodes):
        readers = [reader for tensor in node.outputs for reader in consumers(tensor)]
        if readers and all(id(t) in constants for t in node.outputs) and all(r.name in wide | found for r in readers):
            found.add(node.name)
    return found


def wide_nodes(
    graph: gs.Graph, floats: Collection[str], ranges: Mapping[str, tuple[float, float]]
) -> dict[str, Reason]:
    """The nodes that have floats and stay in float32, by name, each with the reason.

    floats: names of float32 tensors. ranges: of tensors by name.
    """
    found: dict[str, Reason] = {}
    made_of_constants = _made_of_constants(graph)
    for node in graph.nodes:
        touched = [tensor for tensor in (*node.inputs, *node.outputs) if tensor.name in floats]
        if not touched:
            continue
        if slots_of(node, int(graph.opset), floats) is None:
            found[node.name] = Reason("no-float16", f"{describe(node)} has no float16 form; it stays in float32")
            continue
        for tensor in touched:
            if id(tensor) not in made_of_constants and (why := _misfit(node, tensor, ranges)):
                found[node.name] = Reason("float16-range", f"{why}; {describe(node)} stays in float32")
                break
    for node in graph.nodes:
        if node.name not in found and _overflowing_bias(node):
            why = "its bias, counted in products of codes, does not fit float16"
            found[node.name] = Reason("float16-range", f"{why}; {describe(node)} stays in float32")
    for node in graph.nodes:  # a layer whose weight cannot be decoded to float16 has no use for float16 beside it
        for tensor in node.inputs:
            by = producer(tensor)
            if by is not None and by.name in found and id(tensor) in made_of_constants:
                found.setdefault(node.name, Reason("float16-range", str(found[by.name])))
    return found


def _beside_unknown(graph: gs.Graph, types: Mapping[str, int], floats: Collection[str]) -> dict[str, Reason]:
    """The nodes with floats that read, too, what no rule gives a type, as the outputs of other domains' operators."""
    found = {}
    for node in graph.nodes:
        strangers = [tensor.name for tensor in node.inputs if tensor.name and tensor.name not in types]
        if strangers and any(tensor.name in floats for tensor in (*node.inputs, *node.outputs)):
            why = f"the type of '{shown(strangers[0])}' is not known; {describe(node)} stays in float32"
            found[node.name] = Reason("no-float16", why)
    return found


def _overflowing_bias(node: gs.Node) -> bool:
    """Whether the constant bias of a layer between integers, counted in its products, goes beyond float16."""
    if len(node.inputs) < 3 or not isinstance(node.inputs[2], gs.Constant):
        return False
    decoders = [by for by in map(producer, node.inputs[:2]) if by is not None and dequantizes(by)]
    scales = [
        np.asarray(constant(by.inputs[1]), np.float64) for by in decoders if isinstance(by.inputs[1], gs.Constant)
    ]
    if len(scales) < 2:
        return False
    product = np.maximum(scales[0] * scales[1], np.finfo(np.float64).tiny)
    bias = np.abs(np.asarray(constant(node.inputs[2]), np.float64).reshape(-1))
    return bool(np.any(product < LEAST_PRODUCT) or np.any(bias / product > LARGEST_COUNT))


def _misfit(node: gs.Node, tensor: gs.Tensor, ranges: Mapping[str, tuple[float, float]]) -> str:
    """Why float16 does not hold a tensor; empty where it does."""
    values = constant(tensor)
    if values is not None and (quantizes(node) or dequantizes(node)):
        fits = fits_float16(values) and fits_float16(128 * np.asarray(values, np.float64))  # codes reach from -128
        return "" if fits else f"the scales '{shown(tensor.name)}' do not fit float16"
    if values is not None:
        return "" if fits_float16(values) else f"'{shown(tensor.name)}' does not fit float16"
    by = producer(tensor)
    if by is not None and dequantizes(by):
        return ""  # bounded by its scale, which is looked at there
    known = ranges.get(tensor.name) or ranges.get(tensor.name.removesuffix(".float"))
    if known is None:
        return f"the range of '{shown(tensor.name)}' is not known"
    return "" if fits_float16(known) else f"the range of '{shown(tensor.name)}' does not fit float16"
