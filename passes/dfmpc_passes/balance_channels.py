"""Give the channels that BatchNormalizations read among others the same reach, so that one scale fits them all."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.channels import Reading, channel_readings, channel_sources, keeps_factors
from dfmpc_onnx.graph.operators import batch_norm_parameters, op_of
from dfmpc_onnx.graph.query import constant, describe, has_input, nodes_by_name
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.ranges import equal_reach
from dfmpc_onnx.pipeline.facts import Codes, FloatStatistics, Layer, Layers, MeasuredRanges, Originals, Ranges
from dfmpc_onnx.pipeline.manager import NoOptions, Pass, PassResult, Refusal, Rewrite
from dfmpc_onnx.pipeline.shared_weights import layers_of_one_weight
from dfmpc_onnx.pipeline.workspace import Workspace


@dataclasses.dataclass(frozen=True)
class _Source:
    """A node whose output channels BatchNormalizations alone read."""

    node: gs.Node
    readings: list[Reading]


class BalanceChannels(Pass[NoOptions]):
    """Before: Conv(x, W, b) -> Concat -> BatchNormalization(gamma, beta, m, s)
    After: Conv(x, W / a, b / a) -> Concat -> BatchNormalization(gamma, beta, m / a, s / a)

    Why: what a Concat joins is quantized on one scale. A channel that reaches less far than the widest has fewer
    levels, and the BatchNormalization behind enlarges their error. With a_j in proportion to |m_j| + 8 s_j all reach as
    far. A positive factor goes through Relu, pooling and Concat as it is, so the network stays what it was. The
    same holds where a Relu alone stands between.

    Requires: the layers.

    Refuses when: something that cannot be scaled is joined to the channels, as a layer that shares its weight. With
    activations in float nothing is done.

    Reference: Nagel et al. 2019, section 4.1 (equalization between two layers; here the statistics are those of
    training).
    """

    name = "balance_channels"
    requires: ClassVar = (Layers,)
    discards: ClassVar = (FloatStatistics, Codes, Originals, MeasuredRanges, Ranges)

    def run(self, workspace: Workspace) -> PassResult:
        if workspace.settings.activations == "none":
            return PassResult(self.name, notes=("activations stay in float: their channels need no common scale",))
        graph = workspace.graph
        # Of a weight that others read too, other values here would be a second set of codes.
        shared = {layer.name for group in layers_of_one_weight(workspace) for layer in group}
        layers = {layer.name: layer for layer in workspace.get(Layers).quantizable if layer.name not in shared}
        found = {node.name: source for node in graph.nodes if (source := _source(graph, node, layers))}
        refusals = _leave_out_what_is_joined_to_others(found)
        factors = {name: _factors(source) for name, source in found.items()}
        for name, source in found.items():
            _divide_output(source.node, factors[name])
        nodes = nodes_by_name(graph)
        for norm, whole in _by_norm(found, factors, nodes).items():
            _divide_input(nodes[norm], whole)
        spread = {name: round(float(a.max() / a.min()), 2) for name, a in factors.items()}
        rewrites = tuple(Rewrite(name, "channels balanced", {"spread": ratio}) for name, ratio in spread.items())
        return PassResult(self.name, rewrites, refusals)


def _source(graph: gs.Graph, node: gs.Node, layers: dict[str, Layer]) -> _Source | None:
    """A node whose channels can be scaled, if nothing but BatchNormalizations reads them; None elsewhere."""
    if op_of(node) == "BatchNormalization":
        if batch_norm_parameters(node) is None:
            return None
    elif op_of(node) != "Conv" or node.name not in layers or layers[node.name].batch_norm is not None:
        return None  # a BatchNormalization that stands alone behind a Conv is folded into it
    elif has_input(node, 2) and constant(node.inputs[2]) is None:
        return None
    readings = channel_readings(graph, node.outputs[0], keeps_factors)
    if isinstance(readings, str):
        return None
    for reading in readings:
        norm = batch_norm_parameters(reading.node) if op_of(reading.node) == "BatchNormalization" else None
        if norm is None or len(norm.gamma) < reading.offset + _width(node):
            return None
    return _Source(node, readings)


def _width(node: gs.Node) -> int:
    """How many channels a Conv or BatchNormalization with constant parameters puts out."""
    return len(node.inputs[1].values)


def _leave_out_what_is_joined_to_others(found: dict[str, _Source]) -> tuple[Refusal, ...]:
    """Take out, in place, the sources that share a tensor with what cannot be scaled, and those that share none."""
    read: dict[str, list[gs.Node | None]] = {}
    for source in found.values():
        for reading in source.readings:
            if reading.node.name not in read:
                inside = channel_sources(reading.node.inputs[0], keeps_factors)
                read[reading.node.name] = [node for node, _ in inside]
    for name, source in list(found.items()):
        if len(source.readings) == 1 and len(read[source.readings[0].node.name]) == 1:
            del found[name]  # nothing is joined
    refusals: list[Refusal] = []
    while True:
        spoilt = {}
        for name, source in found.items():
            beside = [node for reading in source.readings for node in read[reading.node.name]]
            other = [node for node in beside if node is None or node.name not in found]
            if other:
                spoilt[name] = "an input of the model" if other[0] is None else describe(other[0])
        if not spoilt:
            return tuple(refusals)
        for name, other_name in spoilt.items():
            del found[name]
            why = f"its channels are joined to those of {other_name}, which are not scaled"
            refusals.append(Refusal(name, why, "joined-to-unscaled"))


def _factors(source: _Source) -> Float:
    """What a source's channels are divided by, ``[channels]``."""
    width = _width(source.node)
    means, stds, epsilons = [], [], []
    for reading in source.readings:
        norm = batch_norm_parameters(reading.node)
        assert norm is not None  # _source has looked
        part = norm.channels(reading.offset, width)
        means.append(part.mean)
        stds.append(part.std)
        epsilons.append(norm.epsilon)
    return equal_reach(np.array(means), np.array(stds), np.array(epsilons))


def _by_norm(found: dict[str, _Source], factors: dict[str, Float], nodes: dict[str, gs.Node]) -> dict[str, Float]:
    """What the input channels of each BatchNormalization have been divided by."""
    whole: dict[str, Float] = {}
    for name, source in found.items():
        for reading in source.readings:
            norm = reading.node.name
            into = whole.setdefault(norm, np.ones(_width(nodes[norm])))
            into[reading.offset : reading.offset + len(factors[name])] = factors[name]
    return whole


def _divide_output(node: gs.Node, factors: Float) -> None:
    for index in (1, 2):
        if not has_input(node, index):
            continue
        values = np.asarray(constant(node.inputs[index]), np.float64)
        node.inputs[index].values = (values / factors.reshape(-1, *(1,) * (values.ndim - 1))).astype(np.float32)


def _divide_input(node: gs.Node, factors: Float) -> None:
    norm = batch_norm_parameters(node)
    assert norm is not None  # it is read by a source
    divided = dataclasses.replace(norm, mean=norm.mean / factors, std=norm.std / factors)
    node.inputs[3].values = divided.mean.astype(np.float32)
    node.inputs[4].values = divided.variance.astype(np.float32)
