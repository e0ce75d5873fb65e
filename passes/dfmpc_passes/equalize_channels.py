"""Give all channels between Convs without BatchNormalization the same reach, so that one scale fits them."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.graph.affine import apply_behind, apply_in_front, is_moderate
from dfmpc_onnx.graph.edit import Namer
from dfmpc_onnx.graph.joined_channels import JoinedChannels, joined_channels
from dfmpc_onnx.graph.operators import op_of
from dfmpc_onnx.graph.query import constant, only_consumer
from dfmpc_onnx.numerics.arrays import Float, Float32
from dfmpc_onnx.numerics.equalization import ChannelReader, quietest
from dfmpc_onnx.numerics.ranges import reach_factors
from dfmpc_onnx.pipeline.facts import Codes, FloatStatistics, Layer, Layers, MeasuredRanges, Originals, Ranges
from dfmpc_onnx.pipeline.manager import Pass, PassResult, Refusal, Rewrite
from dfmpc_onnx.pipeline.shared_weights import layers_of_one_weight
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.few_bit_channels import level_channels
from dfmpc_onnx.quantization.layer_reach import LayerReach, ReachOfLayers, to_rows
from dfmpc_onnx.statistics.batch_axis import statistics_batch
from dfmpc_onnx.statistics.image_streams import ImageStreams
from dfmpc_onnx.statistics.walk import walk

IMAGES_OF_REACH = 4
PATCHES = 250  # of a layer, whose moments say how far its weights let its output reach


class EqualizeChannelsOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """images: how many tell how far channels reach."""

    images: Annotated[int, msgspec.Meta(ge=1)] = IMAGES_OF_REACH


class EqualizeChannels(Pass[EqualizeChannelsOptions]):
    """Before: Conv(x, W, b) -> Relu -> Conv(V), the BatchNormalizations folded
    After: Conv(x, W / a, b / a) -> Relu -> Conv(V a)

    Why: all channels of an activation share one scale, the widest's. Training evens them out by BatchNormalization;
    folded into the Conv in front its factors differ by up to a hundred, most of all between a pointwise and a depthwise
    Conv, and faint channels are left few codes. A positive factor goes through Relu, LeakyRelu, pooling, resizing and
    sums as it is, so with a in proportion to how far each channel reaches the network stays what it was and all
    channels have all codes. The weights that make them have a scale for each output and lose nothing by it; those of a
    pointwise Conv that reads them do, where one channel reaches far beyond the others. So of a, its roots and 1 that is
    taken with which rounding of both makes the least noise.

    Requires: the layers.

    Refuses when: the network cannot be run on procedural images. Passed over are channels that an output, a Gemm, a
    Concat or a function that keeps no factor reads, and weights that layers share. With activations in float nothing is
    done.

    Reference: Nagel et al. 2019, section 4.1 (equalization between two layers, there by the reach of weights).
    """

    name = "equalize_channels"
    Options = EqualizeChannelsOptions
    requires: ClassVar = (Layers,)
    discards: ClassVar = (FloatStatistics, Codes, Originals, MeasuredRanges, Ranges)

    def reads_images(self) -> bool:
        return True

    def run(self, workspace: Workspace) -> PassResult:
        graph, settings = workspace.graph, workspace.settings
        if settings.activations == "none":
            return PassResult(self.name, notes=("activations stay in float: their channels need no common scale",))
        # Of a weight that others read too, other values here would be a second set of codes.
        shared = {layer.name for group in layers_of_one_weight(workspace) for layer in group}
        layers = {layer.name: layer for layer in workspace.get(Layers).quantizable if layer.name not in shared}
        leveled = level_channels(workspace, layers, settings.few_bits) if settings.few_bits is not None else []
        bare = {name for name, layer in layers.items() if layer.op == "Conv" and layer.batch_norm is None}
        groups = joined_channels(graph, bare)
        if not groups:
            return PassResult(self.name, tuple(leveled), notes=("no channels stand between Convs alone",))
        reach = LayerReach(graph, layers)
        try:
            batch = statistics_batch(graph, workspace.inputs, settings.seed, self.options.images)
            feeds = batch.first(self.options.images).feeds
            engine, visitor = ImageStreams(graph, feeds, settings.seed, PATCHES), ReachOfLayers(reach, layers)
            walk(graph, engine, visitor, frozenset(layers))
        except ModelError as error:
            why = f"how far its channels reach cannot be measured: {error}"
            return PassResult(self.name, refusals=(Refusal("model", why, "outputs-not-comparable"),))
        names, rewrites = Namer(graph), leveled
        for group in groups:
            far = _reach(graph, group, reach)
            factors = reach_factors(far) if far is not None else None
            if far is None or factors is None or not is_moderate(factors):
                continue
            readers = [
                ChannelReader(_rows(node, layers[node.name]), visitor.squares[node.name])
                for node in group.readers
                if node.name in visitor.squares
            ]
            factors = quietest(readers, factors, far, settings.weights.high)
            for node in group.makers:
                apply_behind(node, 1 / factors, np.zeros(1), names)
            for node in group.readers:
                apply_in_front(node, factors, np.zeros(1), names)
            spread = round(float(1 / factors.min()), 2)
            rewrites.append(Rewrite(group.makers[0].name, "channels equalized", {"spread": spread}))
        return PassResult(self.name, tuple(rewrites))


def _reach(graph: gs.Graph, group: JoinedChannels, reach: LayerReach) -> Float | None:
    """How far the channels of a group reach, ``[channels]``; None where it is not known."""
    found: list[Float] = []
    for tensor in group.tensors:
        reader = only_consumer(graph, tensor)
        if not isinstance(reader, str) and op_of(reader) in ("Relu", "LeakyRelu", "PRelu"):
            continue  # what is rounded stands behind
        channels = reach.of(tensor)
        if channels is not None:
            found.append(np.maximum(channels.high, -channels.low))
    sizes = {len(far) for far in found}
    if len(sizes) != 1 or not np.isfinite(found).all():
        return None
    far: Float = np.max(found, axis=0)
    return far


def _rows(node: gs.Node, layer: Layer) -> Float32:
    return to_rows(np.asarray(constant(node.inputs[1]), np.float32), layer)
