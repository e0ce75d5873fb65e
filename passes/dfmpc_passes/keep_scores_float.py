"""Leave the layers that scores, boxes and gates of maps come from in float, where that costs next to nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import msgspec
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import shown
from dfmpc_onnx.graph.operators import op_of
from dfmpc_onnx.graph.output_layers import inferred_shapes, multiply_adds, output_layers
from dfmpc_onnx.graph.query import nodes_by_name
from dfmpc_onnx.numerics.output_loss import is_vector
from dfmpc_onnx.pipeline.facts import Codes, FinalOpset, FloatLayers, FoldedBatchNorms, Layers
from dfmpc_onnx.pipeline.manager import Pass, PassResult, Rewrite
from dfmpc_onnx.pipeline.refusals import Reason
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.statistics.averaged_vectors import averaged_vectors

OF_WHOLE_MAPS = Reason(
    "whole-map",
    "it reads averages over whole maps: its error is one of every position, and float costs next to nothing",
)


class KeepScoresFloatOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """share: the largest part of the network's multiply-adds that may compute in float for it."""

    share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.03


class KeepScoresFloat(Pass[KeepScoresFloatOptions]):
    """Before: x -> Conv -> Transpose -> Reshape -> Sigmoid, an output
    After: the same graph; the Conv is known as one that shall read x in float and give floats

    Why: on inputs without what a detector looks for every logit lies below 0, so no range that is measured on them
    holds the score of the thing. An integer Conv needs a range for its output, a float one does not. Layers behind
    which no other follows are a few percent of a network's work: where they are at most 3 %, scores first, and of
    these the cheapest, they compute in float. A Gemm or MatMul at the end gives floats as it is, and stays integer.
    Where an output is a map or a list, so do hidden layers that read averages over a whole map, as those of
    squeeze-and-excitation: what they get wrong is wrong by the same factor at all positions of a channel, where the
    rounding of maps averages out, and at one position they cost nothing.

    Requires: codes, and the layers as they will be in the file.

    Refuses when: activations stay in float; a head costs more. Its output then gets a range by its weights
    (`estimate_ranges`).

    Reference: docs/method.md, section 7.
    """

    name = "keep_scores_float"
    Options = KeepScoresFloatOptions
    requires: ClassVar = (Codes, Layers, FoldedBatchNorms, FinalOpset)
    provides: ClassVar = (FloatLayers,)

    def run(self, workspace: Workspace) -> PassResult:
        graph = workspace.graph
        if workspace.settings.float_rules.all_quantized or workspace.settings.activations == "none" or graph.opset < 13:
            workspace.put(FloatLayers({}))
            return PassResult(self.name, notes=("activations stay in float",))
        spared, nodes = workspace.find(FloatLayers), nodes_by_name(graph)
        before = spared.layers if spared is not None else {}
        coded = workspace.get(Codes).weights.keys() - before.keys()
        heads = {name: scores for name, scores in output_layers(graph, coded).items() if op_of(nodes[name]) == "Conv"}
        sizes = inferred_shapes(graph, workspace.inputs.shapes)
        gates = _behind_averages(graph, sizes) & coded
        if not heads and not gates:
            workspace.put(FloatLayers(before))
            return PassResult(self.name, notes=("no Conv of the network is one that its outputs come from",))
        costs = multiply_adds(graph, workspace.inputs.shapes)
        total = max(sum(costs.values()), 1)
        left, kept, rewrites = self.options.share * total, dict(before), []
        why = {name: _output_layer("scores" if scores else "values") for name, scores in heads.items()}
        why |= dict.fromkeys(sorted(gates - heads.keys()), OF_WHOLE_MAPS)
        for name in sorted(why, key=lambda layer: (not heads.get(layer, layer in gates), costs[layer])):
            if not 0 < costs[name] <= left:
                continue
            left -= costs[name]
            kept[name] = why[name]
            left_how = "has 16 bits" if workspace.settings.mixes_widths else "stays in float"
            rewrites.append(Rewrite(name, left_how, {"share_of_work": round(costs[name] / total, 5)}))
        workspace.put(FloatLayers(kept))
        dear = [name for name in heads if name not in kept]
        notes = (f"stay integer for their cost: {', '.join(map(shown, dear))}",) if dear else ()
        return PassResult(self.name, tuple(rewrites), notes=notes)


def _output_layer(what: str) -> Reason:
    return Reason("output-layer", f"its {what} go to the outputs, and no sample bounds them")


def _behind_averages(graph: gs.Graph, sizes: Mapping[str, Sequence[int]]) -> set[str]:
    """The hidden layers that read averages over whole maps, where an output is a map or a list. sizes: of tensors."""
    outputs = [sizes.get(tensor.name, ()) for tensor in graph.outputs]
    if all(is_vector(size) for size in outputs):
        return set()
    vectors = averaged_vectors(graph)
    return {node.name for node in graph.nodes if node.outputs and node.outputs[0].name in vectors}
