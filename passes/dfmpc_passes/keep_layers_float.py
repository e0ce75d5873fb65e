"""Choose the few small layers whose inputs' rounding would make most of the noise, to compute in float."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.operators import is_clip
from dfmpc_onnx.graph.query import nodes_by_name, producer
from dfmpc_onnx.numerics.ranges import signed_qparams
from dfmpc_onnx.pipeline.facts import Codes, FloatLayers, Layers, Ranges
from dfmpc_onnx.pipeline.manager import Pass, PassResult, Rewrite
from dfmpc_onnx.pipeline.refusals import Reason
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.statistics.independent_moments import propagate
from dfmpc_onnx.statistics.noise_gains import MomentsByTensor, backward, noise_gains, passing

NOISY = Reason("noisy-input", "rounding its input would make most of the noise")


class KeepLayersFloatOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """times: how many times the average layer's noise a layer must make to stay in float."""

    times: Annotated[float, msgspec.Meta(gt=1)] = 4.0


class KeepLayersFloat(Pass[KeepLayersFloatOptions]):
    """Before: x -> depthwise Conv of few weights, near the input
    After: the same graph; the layer is known as one that shall read x in float

    Why: where zero points are 0, what a Relu gave is rounded twice as coarsely, an error of variance s^2 / 12 in each
    value. What it adds to the outputs follows backward from the squares of weights and factors of BatchNormalizations.
    In MobileNets one or two layers of a hundred weights, whose channels stand far from 0 and vary little, make more
    noise than all others together. A layer with at most an average layer's weights that makes more than four times the
    average layer's noise stays in float.

    Requires: ranges, codes, and BatchNormalizations not yet folded.

    Refuses when: nothing is refused; where activations are unsigned no layer is chosen.

    Reference: Dong et al. 2019 (bits by sensitivity), here of activations and in closed form.
    """

    name = "keep_layers_float"
    Options = KeepLayersFloatOptions
    requires: ClassVar = (Ranges, Codes, Layers)
    provides: ClassVar = (FloatLayers,)

    def run(self, workspace: Workspace) -> PassResult:
        settings = workspace.settings
        if settings.activations == "none" or not settings.target.signed or not settings.target.keeps_costly_floats:
            workspace.put(FloatLayers({}))
            return PassResult(self.name, notes=("only where activations are signed",))
        graph, ranges = workspace.graph, workspace.get(Ranges).tensors
        codes = workspace.get(Codes).weights
        nodes = nodes_by_name(graph)
        known, _ = propagate(graph, workspace.inputs)
        gains = noise_gains(graph, known)
        noise = {}
        layers = {layer.name: layer for layer in workspace.get(Layers).all if layer.name in codes}
        for name in layers:
            node = nodes[name]
            if node.inputs[0].name in ranges and node.outputs[0].name in gains:
                scale = float(signed_qparams(*ranges[node.inputs[0].name])[0])
                noise[name] = _noise(node, scale, gains[node.outputs[0].name], known)
        average = sum(noise.values()) / max(len(noise), 1)
        size = sum(layer.size for layer in layers.values()) / max(len(layers), 1)
        chosen = [n for n, made in noise.items() if made > self.options.times * average and layers[n].size <= size]
        workspace.put(FloatLayers(dict.fromkeys(chosen, NOISY)))
        rewrites = tuple(
            Rewrite(name, "reads floats", {"noise_of_average": round(noise[name] / average, 2)}) for name in chosen
        )
        return PassResult(self.name, rewrites)


def _noise(node: gs.Node, scale: float, gain: np.ndarray, known: MomentsByTensor) -> float:
    """What rounding a layer's input adds to the outputs through this layer."""
    through = backward(node, 0, gain, known)
    source = producer(node.inputs[0])
    share = passing(source, known) if source is not None and is_clip(source) else None
    if share is not None and len(share) == len(through):
        through = through * share
    moments = known.get(node.inputs[0].name)
    channels = 1 if moments is None or len(through) > 1 else len(moments.mean)
    return float(through.sum()) * channels * scale**2 / 12
