"""Let every channel that a depthwise Conv reads use the whole range of the tensor."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.graph.operators import batch_norm_parameters, clip_bounds, is_clip, op_of
from dfmpc_onnx.graph.query import nodes_by_name, only_consumer, producer
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.batch_norm import BatchNormParameters
from dfmpc_onnx.numerics.ranges import DEVIATIONS
from dfmpc_onnx.numerics.spreading import spreading_factors
from dfmpc_onnx.pipeline.facts import Codes, Layer, Layers, Ranges
from dfmpc_onnx.pipeline.manager import Figure, Pass, PassResult, Rewrite
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.grid_rules import GridRules


class SpreadChannelsOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """deviations: how far from its mean a channel reaches."""

    deviations: Annotated[float, msgspec.Meta(gt=0)] = DEVIATIONS


class SpreadChannels(Pass[SpreadChannelsOptions]):
    """Before: BN(gamma, beta) -> Clip(0, 6) -> depthwise Conv(scale * codes)
    After: BN(t gamma, t beta) -> Clip(0, 6) -> depthwise Conv(scale / t * codes), t >= 1, one a channel

    Why: all channels of an activation share one scale, the widest's, and where zero points are 0 what a Relu gave uses
    half of the codes. A depthwise Conv has a scale a channel, and so has the layer in front:
    t = range / (beta + 8 |gamma|) goes through a Relu, changes no code, and gives each channel all levels there are.
    Through Clip(0, 6) it is exact up to 6 / t, which is no less than beta + 8 |gamma|.

    Requires: ranges, codes, and BatchNormalizations not yet folded.

    Refuses when: nothing is refused; a note says why a depthwise Conv was passed over: no BatchNormalization, or one
    that others read too, or another activation between.

    Reference: Nagel et al. 2019, section 4.1 (scaling between layers), where it costs no codes.
    """

    name = "spread_channels"
    Options = SpreadChannelsOptions
    requires: ClassVar = (Ranges, Codes, Layers)
    provides: ClassVar = (Codes,)

    def run(self, workspace: Workspace) -> PassResult:
        settings = workspace.settings
        if settings.activations == "none":
            return PassResult(self.name, notes=("activations stay in float",))
        if settings.few_bits is not None:
            return PassResult(self.name, notes=("few bits have grids of their own",))
        if not GridRules.of(settings.target).leaves_free("Conv"):
            return PassResult(self.name, notes=("the target has no scale a channel",))
        nodes, codes = nodes_by_name(workspace.graph), workspace.codes()
        ranges = workspace.get(Ranges).tensors
        rewrites, notes = [], []
        for layer in workspace.get(Layers).all:
            node = nodes[layer.name]
            if not layer.depthwise or layer.name not in codes:
                continue
            found = _site(workspace.graph, node)
            if isinstance(found, str) or node.inputs[0].name not in ranges:
                notes.append(
                    f"{layer.name}: {found if isinstance(found, str) else 'the range of its input is unknown'}"
                )
                continue
            norm, parameters, low, high = found
            peak = max(map(abs, ranges[node.inputs[0].name]))
            factors = spreading_factors(
                parameters.beta, np.sqrt(parameters.output_variance), low, high, peak, self.options.deviations
            )
            workspace.set_weight(node, codes[layer.name].scaled(_by_output(1 / factors, layer)))
            for index in (1, 2):
                old = np.asarray(norm.inputs[index].values, np.float64)
                norm.inputs[index].values = (old * factors).astype(np.float32)
            figures: dict[str, Figure] = {"median": float(np.median(factors)), "largest": float(factors.max())}
            rewrites.append(Rewrite(layer.name, f"channels of {norm.name} spread over its range", figures))
        return PassResult(self.name, tuple(rewrites), notes=tuple(notes))


def _by_output(factors: Float, layer: Layer) -> np.ndarray:
    """Factors of input channels as those of the outputs, in the shape of a scale."""
    wide = np.repeat(factors, layer.shape[0] // layer.groups)
    return wide.reshape(-1, *[1] * (len(layer.shape) - 1)).astype(np.float32)


def _site(graph: gs.Graph, node: gs.Node) -> tuple[gs.Node, BatchNormParameters, float, float] | str:
    """The BatchNormalization in front of a layer, its parameters, and the bounds between; or why there is none."""
    low, high = -np.inf, np.inf
    tensor = node.inputs[0]
    source = producer(tensor)
    if source is not None and is_clip(source):
        try:
            low, high = clip_bounds(source)
        except Unknown as reason:
            return str(reason)
        if low != 0.0 or isinstance(only_consumer(graph, tensor), str):
            return "what it reads is clipped elsewhere than at 0, or read by others"
        tensor = source.inputs[0]
        source = producer(tensor)
    norm = batch_norm_parameters(source) if source is not None and op_of(source) == "BatchNormalization" else None
    if source is None or norm is None:
        return "no BatchNormalization in front of it"
    if isinstance(only_consumer(graph, tensor), str):
        return "others read what it reads"
    return source, norm, low, high
