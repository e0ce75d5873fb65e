"""Swap each dequantized weight for its packed codes and the nodes that decode them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import ClassVar

import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import shown
from dfmpc_onnx.graph.edit import Namer, insert
from dfmpc_onnx.graph.half_precision import restore
from dfmpc_onnx.graph.query import nested_nodes, nodes_by_name
from dfmpc_onnx.graph.shared_constants import merge
from dfmpc_onnx.pipeline.facts import Codes, FinalOpset, Layers, Normalized, Packed, Placement
from dfmpc_onnx.pipeline.manager import Figure, NoOptions, Pass, PassResult, Refusal, Rewrite
from dfmpc_onnx.pipeline.shared_weights import holders_of_codes
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.qdq.beside_integers import part_from_sums
from dfmpc_onnx.qdq.code_formats import Kind, choose_forms, oldest_runtime
from dfmpc_onnx.qdq.decoder import Decoder, plain_int8


class PackWeights(Pass[NoOptions]):
    """Before: Conv(x, w) with w the dequantized weight in float
    After: Conv(x, Mul(Cast(codes), scale)), or Conv(x, DequantizeLinear(Cast(codes), scale)) between integers

    Why: scale * (codes - zero_point), bit for bit the value that stood there. A code is the sum of planes of 4, 2 and
    1 bits, q = 2^s hi + lo, so 3, 5, 6 and 7 bits take just as many in the file; ternary codes take 1.6, five to a
    byte: sum (q_i + 1) 3^i. A plane is a tensor of a type that narrow, or bytes that a table shared by all layers turns
    into codes, whichever makes the file smaller. Of codes that are blocks of a codebook the indices of its vectors are
    stored. A weight so small that nodes and names cost more than packing saves is left in a wider type. Layers that
    share codes, whatever their scales, read one copy of them. onnxruntime folds the decoding at load, so it costs no
    inference time. Where the file was in half precision, inputs and outputs get that type back by a Cast, and so do
    constants that it holds exactly.

    Requires: codes, the final opset, and which layers compute in integers.

    Refuses when: never; in an opset below 13, which has no tables for these codes, 8 bits are used. Codes of a weight
    that the file holds in another form too are named with their bytes.

    Reference: ONNX operator specification, INT2, UINT2 and INT4; Gather.
    """

    name = "pack_weights"
    requires: ClassVar = (Codes, Layers, Placement, FinalOpset)
    provides: ClassVar = (Packed,)

    def run(self, workspace: Workspace) -> PassResult:
        graph = workspace.graph
        integer = workspace.get(Placement).integer
        codes = dict(workspace.get(Codes).weights)
        if workspace.settings.target.storage == "int8":
            codes |= {name: plain_int8(codes[name]) for name in integer & codes.keys()}
        nodes = nodes_by_name(graph)
        decoder, target = Decoder(graph), workspace.settings.target
        newest = min(graph.opset, target.packing_opset)
        holders = holders_of_codes(workspace)
        held = Counter(holders.values())
        stored = {name: Kind.of(codes[name]) for name in codes if holders[name] == name}
        of_holder = choose_forms(stored, newest)
        forms = {name: of_holder[holders[name]] for name in codes}
        before: dict[int, list[gs.Node]] = {}
        sizes: dict[str, int] = {}
        widths: dict[str, float] = {}
        rewrites = []
        for layer in workspace.get(Layers).all:
            if layer.name not in codes:
                continue
            node, form = nodes[layer.name], forms[layer.name]
            holder = holders[layer.name] if held[holders[layer.name]] > 1 else None
            if layer.name in integer:
                emitted = decoder.integer_form(codes[layer.name], form, layer.weight, layer.axis, holder)
            else:
                emitted = decoder.float_form(codes[layer.name], form, layer.weight, holder)
            node.inputs[1] = emitted.result
            before[id(node)] = emitted.nodes
            sizes[layer.name], widths[layer.name] = emitted.bytes, round(form.bits, 2)
            end = "DequantizeLinear" if layer.name in integer else "Mul"
            figures: dict[str, Figure] = {"bytes": emitted.bytes, "bits": round(form.bits, 2)}
            rewrites.append(Rewrite(layer.name, f"packed for {end}", figures))
        insert(graph, before=before)
        part_from_sums(graph, codes.keys(), Namer(graph))
        merge(graph)
        split = _stored_again(workspace, holders, sizes)
        normalized = workspace.find(Normalized)
        if normalized is not None and normalized.half is not None:
            restore(graph, normalized.half)
        few = workspace.settings.few_bits is not None
        oldest = oldest_runtime((forms[name] for name in sizes), graph.opset, few_bits=few)
        workspace.put(Packed(sizes, widths, oldest))
        return PassResult(self.name, tuple(rewrites), split)


def _stored_again(workspace: Workspace, holders: Mapping[str, str], sizes: Mapping[str, int]) -> tuple[Refusal, ...]:
    """The layers whose codes are stored although their weight is stored before, each with what it costs."""
    normalized = workspace.find(Normalized)
    shared = {} if normalized is None else normalized.shared
    nodes = [*workspace.graph.nodes, *(node for _, _, node in nested_nodes(workspace.graph) if shared)]
    read = {tensor.name for node in nodes for tensor in node.inputs if isinstance(tensor, gs.Constant)}
    read |= {weight for name, weight in shared.items() if name not in holders}
    found: list[Refusal] = []
    first: dict[str, str] = {}
    for name, weight in shared.items():
        if holders.get(name) != name:
            continue
        other = first.setdefault(weight, name)
        if other != name:
            why = f"it has other codes than '{shown(other)}', which reads the same weight: {sizes[name]} bytes more"
            found.append(Refusal(name, why, "codes-stored-again"))
        elif weight in read:
            why = f"its weight is read as floats too, so its codes come on top: {sizes[name]} bytes more"
            found.append(Refusal(name, why, "codes-stored-again"))
    return tuple(found)
