"""Swap each dequantized weight for its packed codes and the nodes that decode them."""

from __future__ import annotations

from typing import ClassVar

import onnx_graphsurgeon as gs

from dfmpc_onnx.facts import Codes, Layers, Packed, Placement, Raised
from dfmpc_onnx.graph import Namer, insert, nodes_by_name
from dfmpc_onnx.manager import NoOptions, Pass, PassResult, Rewrite
from dfmpc_onnx.storage import float_form, integer_form
from dfmpc_onnx.workspace import Workspace


class PackWeights(Pass[NoOptions]):
    """Before: Conv(x, w) with w the dequantized weight in float
    After: Conv(x, Mul(Cast(codes), scale)), or Conv(x, DequantizeLinear(Cast(codes), scale)) between integers

    Why: scale * (codes - zero_point), bit for bit the value that stood there. Codes of 2 and 4 bits are packed;
    other widths take the next larger type. onnxruntime folds the decoding at load, so it costs no inference time.

    Requires: codes, the final opset, and which layers compute in integers.

    Refuses when: never; without a type for narrow codes the opset's refusal has been told and 8 bits are used.

    Reference: ONNX operator specification, INT2 and INT4.
    """

    name = "pack_weights"
    requires: ClassVar = (Codes, Layers, Placement, Raised)
    provides: ClassVar = (Packed,)

    def run(self, workspace: Workspace) -> PassResult:
        graph = workspace.graph
        integer = workspace.get(Placement).integer
        codes = workspace.get(Codes).weights
        nodes = nodes_by_name(graph)
        names = Namer(graph)
        before: dict[int, list[gs.Node]] = {}
        sizes, widths, rewrites = {}, {}, []
        for layer in workspace.get(Layers).all:
            if layer.name not in codes:
                continue
            node = nodes[layer.name]
            if layer.name in integer:
                emitted = integer_form(codes[layer.name], layer.axis, layer.weight, names, graph.opset)
            else:
                emitted = float_form(codes[layer.name], layer.weight, names, graph.opset)
            node.inputs[1] = emitted.result
            before[id(node)] = emitted.nodes
            sizes[layer.name], widths[layer.name] = emitted.bytes, emitted.bits
            form = "DequantizeLinear" if layer.name in integer else "Cast and Mul"
            rewrites.append(Rewrite(layer.name, f"packed for {form}", {"bytes": emitted.bytes, "bits": emitted.bits}))
        insert(graph, before=before)
        workspace.put(Packed(sizes, widths))
        return PassResult(self.name, tuple(rewrites))
