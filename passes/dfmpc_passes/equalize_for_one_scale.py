"""Divide channels by the factors that make the least noise where each tensor has one scale, a power of two."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.graph.joined_channels import joined_channels
from dfmpc_onnx.numerics.one_scale import common_factor, least_noise
from dfmpc_onnx.numerics.reach import Reach
from dfmpc_onnx.pipeline.deadline import EQUALIZED
from dfmpc_onnx.pipeline.facts import Codes, FloatStatistics, Layer, Layers, MeasuredRanges, Originals, Ranges
from dfmpc_onnx.pipeline.manager import Pass, PassResult, Refusal, Rewrite
from dfmpc_onnx.pipeline.shared_weights import layers_of_one_weight
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.grid_rules import GridRules
from dfmpc_onnx.quantization.image_count import images_in_time
from dfmpc_onnx.quantization.layer_reach import LayerReach, ReachOfLayers
from dfmpc_onnx.quantization.one_scale_channels import OneScaleChannels, cuts_at_constant
from dfmpc_onnx.statistics.batch_axis import statistics_batch
from dfmpc_onnx.statistics.image_streams import ImageStreams
from dfmpc_onnx.statistics.independent_moments import propagate
from dfmpc_onnx.statistics.noise_gains import noise_gains
from dfmpc_onnx.statistics.walk import walk

IMAGES_OF_SCALE = 4
PATCHES_OF_SCALE = 250
SWEEPS = 2  # over all groups, since a weight stands between two of them


class EqualizeForOneScaleOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """images: how many tell how far channels reach."""

    images: Annotated[int, msgspec.Meta(ge=1)] = IMAGES_OF_SCALE


class EqualizeForOneScale(Pass[EqualizeForOneScaleOptions]):
    """Before: Conv(x, W, b) -> Relu -> Conv(V), the BatchNormalizations folded
    After: Conv(x, W / s, b / s) -> Relu -> Conv(V s)

    Why: where a tensor has one scale, its largest number decides how coarse all others are. A factor a channel goes
    through Relu, pooling, resizing and sums, and comes back in the weights that read it; so of W, b, the activation and
    V no channel need stand out. The noise of rounding them, each weighted by what it adds to the output, is convex in
    the logarithms of s, and its least is found. Through Clip(0, 6) a factor moves the bound: what that cuts too much or
    too little, of a Gaussian channel, counts beside the noise. A factor common to all channels is free then. It makes
    the most of scales that are powers of two: all of the range is used where the reach is 127 steps.

    Requires: the layers.

    Refuses when: the network cannot be run on procedural images. Passed over are channels that an output, a Gemm, a
    Concat or a function that keeps no factor reads, and weights that layers share. Where the target allows a scale a
    channel, or activations stay in float, nothing is done.

    Reference: Nagel et al. 2019, section 4.1 and equation 11, where the reach of two weights counts alone.
    """

    name = "equalize_for_one_scale"
    Options = EqualizeForOneScaleOptions
    requires: ClassVar = (Layers,)
    discards: ClassVar = (FloatStatistics, Codes, Originals, MeasuredRanges, Ranges)

    def reads_images(self) -> bool:
        return True

    def run(self, workspace: Workspace) -> PassResult:
        settings, graph = workspace.settings, workspace.graph
        if settings.activations == "none" or GridRules.of(settings.target).leaves_free("Conv"):
            return PassResult(self.name, notes=("weights may have a scale a channel",))
        shared = {layer.name for group in layers_of_one_weight(workspace) for layer in group}
        layers = {layer.name: layer for layer in workspace.get(Layers).quantizable if layer.name not in shared}
        bare = {name for name, layer in layers.items() if layer.op == "Conv" and layer.batch_norm is None}
        groups = joined_channels(graph, bare, bounded={n.name for n in graph.nodes if cuts_at_constant(n)})
        if not groups:
            return PassResult(self.name, notes=("no channels stand between Convs alone",))
        try:
            channels = self._measured(workspace, layers)
        except ModelError as error:
            why = f"how far its channels reach cannot be measured: {error}"
            return PassResult(self.name, refusals=(Refusal("model", why, "outputs-not-comparable"),))
        groups = [group for group in groups if channels.knows(group)]
        spread = {id(group): np.ones(1) for group in groups}
        for _ in range(SWEEPS):
            for group in groups:
                factors = least_noise(channels.held(group), channels.cuts(group))
                channels.apply(group, factors)
                spread[id(group)] = spread[id(group)] * factors
        for _ in range(SWEEPS):
            for group in groups:
                channels.apply(group, np.ones(1), common_factor(channels.held(group)))
        rewrites = [
            Rewrite(
                group.makers[0].name,
                "channels equalized for one scale",
                {"spread": round(float(spread[id(group)].max() / spread[id(group)].min()), 2)},
            )
            for group in groups
        ]
        return PassResult(self.name, tuple(rewrites))

    def _measured(self, workspace: Workspace, layers: dict[str, Layer]) -> OneScaleChannels:
        graph, settings = workspace.graph, workspace.settings
        reach = LayerReach(graph, layers)
        images = images_in_time(workspace, self.options.images, EQUALIZED)
        feeds = statistics_batch(graph, workspace.inputs, settings.seed, images).first(images).feeds
        visitor = ReachOfLayers(reach, layers)
        walk(graph, ImageStreams(graph, feeds, settings.seed, PATCHES_OF_SCALE), visitor, frozenset(layers))
        known, _ = propagate(graph, workspace.inputs)
        return OneScaleChannels(graph, _far(graph, reach), visitor.squares, noise_gains(graph, known))


def _far(graph: gs.Graph, reach: LayerReach) -> dict[str, Reach]:
    found = {}
    for name, tensor in graph.tensors().items():
        channels = None if isinstance(tensor, gs.Constant) else reach.of(tensor)
        if channels is not None and np.isfinite(channels.low).all() and np.isfinite(channels.high).all():
            found[name] = channels
    return found
