"""Keep sums of two products within 16 bits, for processors whose integer kernels add them there."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from dfmpc_onnx.graph.query import constant, nodes_by_name
from dfmpc_onnx.numerics.quantized import QuantizedWeight
from dfmpc_onnx.pipeline.facts import Codes, Layers
from dfmpc_onnx.pipeline.manager import NoOptions, Pass, PassResult, Rewrite
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.qdq.kernel_pairs import LIMITED_OUTPUTS, without_saturation


class LimitPairSums(Pass[NoOptions]):
    """Before: codes with a pair of neighbours of one sign that reach over 128 together
    After: codes without such a pair, on a scale that may be a little wider

    Why: with AVX2 but without VNNI, onnxruntime multiplies uint8 activations by int8 codes and adds two neighbouring
    products in 16 bits: 255 (127 + 127) is cut to 32,767. 255 * 128 is not. Only outputs with such a pair get other
    codes; each takes the scale, from its own to that at which all pairs fit, that leaves the least squared error.
    Layers that are rounded with feedback have such codes already: there the error is that of their outputs.

    Requires: codes.

    Refuses when: never. Nothing is done where activations stay in float, for targets whose kernels add in 32 bits, for
    depthwise Convs, and under `--reduce-range`, which gives every layer 7 bits.

    Reference: MLAS of onnxruntime, the kernels for AVX2; Intel's manual, VPMADDUBSW.
    """

    name = "limit_pair_sums"
    requires: ClassVar = (Codes, Layers)
    provides: ClassVar = (Codes,)

    def run(self, workspace: Workspace) -> PassResult:
        if not workspace.settings.limits_pairs:
            return PassResult(self.name, notes=("no sum of two products is limited to 16 bits",))
        nodes, rewrites = nodes_by_name(workspace.graph), []
        made: dict[tuple[int, int], tuple[QuantizedWeight, int]] = {}  # layers that share codes go on sharing them
        for layer in workspace.get(Layers).all:
            quantized = workspace.codes().get(layer.name)
            if quantized is None:
                continue
            key = id(quantized), layer.groups
            if key not in made:
                weight = np.asarray(constant(nodes[layer.name].inputs[1]), np.float32)
                made[key] = without_saturation(layer, weight, quantized)
            limited, outs = made[key]
            if outs:
                workspace.set_weight(nodes[layer.name], limited)
                rewrites.append(Rewrite(layer.name, "pairs of codes within 16 bits", {LIMITED_OUTPUTS: outs}))
        return PassResult(self.name, tuple(rewrites))
