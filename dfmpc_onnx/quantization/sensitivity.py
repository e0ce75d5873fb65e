"""What quantizing one weight does to a network's outputs, at each width, by inference alone.

damage(l, b) = gain(l) loss(l, b): the loss is the share of what the next layer reads that rounding layer l to b bits
costs, as second moments of its input say; the gain is what the outputs make of it. The gain is measured where the
network can be run, with one layer rounded and all others float: against a background of quantized layers a single one
drowns. Damages add up well: `JointDamage` measures settings of all layers together (docs/method.md, section 8).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Mapping
from typing import Literal

import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.graph.operators import op_of
from dfmpc_onnx.graph.query import nodes_by_name
from dfmpc_onnx.numerics.arrays import Float, Float32
from dfmpc_onnx.numerics.batch_norm import BatchNormParameters
from dfmpc_onnx.numerics.least_squares import PatchMoments
from dfmpc_onnx.numerics.output_loss import damage
from dfmpc_onnx.pipeline.deadline import ESTIMATED, MEASURED
from dfmpc_onnx.pipeline.facts import BitPlan, Layers, LayerSensitivity, Sensitivity, WidthLoss
from dfmpc_onnx.pipeline.settings import FLOAT, BitWidth
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.image_count import RUNS_OF_A_WALK, seconds_of_run
from dfmpc_onnx.quantization.layer_reach import only_norms_read
from dfmpc_onnx.quantization.layer_rebuilder import ReconstructLayersOptions
from dfmpc_onnx.quantization.pooled_uses import pool_uses
from dfmpc_onnx.quantization.width_losses import PLANNED_WIDTHS, WidthLosses
from dfmpc_onnx.statistics.channel_statistics import ChannelStatistics
from dfmpc_onnx.statistics.engines import StatisticsSource
from dfmpc_onnx.statistics.error_at_next_layer import Known, read_next
from dfmpc_onnx.statistics.independent_moments import propagate
from dfmpc_onnx.statistics.layer_variants import Norms
from dfmpc_onnx.statistics.noise_gains import noise_gains
from dfmpc_onnx.statistics.walk import walk

Estimator = Literal["probe", "measured", "closed-form"]
# By estimator, the widths that gains are measured at and what BatchNormalizations normalize by meanwhile.
PROBES: Mapping[Estimator, tuple[tuple[int, Norms], ...]] = {
    "probe": ((3, "exported"),),
    "measured": ((2, "batch"), (2, "exported"), (4, "batch"), (4, "exported")),
    "closed-form": (),
}
# A share is cut at 1 where an error is as large as what it disturbs. What a coarse probe does by more than a quarter is
# measured again with a finer one.
SATURATED, FINER_PROBE = 0.25, 4
# Variance by which logarithms of gains on procedural images scatter around those on photographs: a factor of 1.6.
SCATTER = 0.2
# The same of gains that are derived in closed form, where BatchNormalizations have measured what Convs amplify: a
# factor of 1.9. Where they are folded away it is one of 4: only where layers differ by more do such gains tell.
DERIVED_SCATTER, FOLDED_SCATTER = 0.4, 2.0
# How far errors of weights are amplified as the signal is: of the powers 0, 1/4 to 1 the one whose gains come closest
# to measured ones on the networks of models/ (docs/method.md, section 8).
LIKENESS = 0.75
LEAST_LOSS_SEEN = 1e-9  # of a loss: below it nothing can be told
# Of the typical gain. A layer that nothing excites on these inputs, as one that waits for a face, seems to do nothing.
LEAST_OF_TYPICAL = 1 / 16
Weights = Mapping[str, Float32]


class ChangedWeights:
    """The visitor that gives layers other weights and does nothing else."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def layer(self, node: gs.Node, moments: Callable[[], PatchMoments], known: Known) -> Float32:
        return self._weights[node.name]

    def after_layer(self, node: gs.Node, shift: Callable[[], Float] | None) -> None:
        return None

    def batch_norm(self, node: gs.Node, norm: BatchNormParameters, statistics: ChannelStatistics) -> None:
        return None

    def observe(self, tensor: str, values: Float32) -> None:
        """Nothing is measured but outputs."""


def centred_layers(workspace: Workspace, names: Collection[str]) -> frozenset[str]:
    """Of layers, those whose outputs' means a rebuilt network corrects in their biases, as no BatchNormalization
    follows."""
    graph, layers = workspace.graph, workspace.get(Layers).by_name()
    nodes = nodes_by_name(graph)
    return frozenset(
        layer.name
        for layer in map(layers.__getitem__, names)
        if not layer.batch_norm and layer.op != "MatMul" and not only_norms_read(graph, nodes[layer.name].outputs[0])
    )


def expected_gains(logs: Mapping[str, float], scatter: float = SCATTER) -> dict[str, float]:
    """What gains are to be expected on other inputs, from the logarithms of those that were measured, by name.

    They scatter by a variance around what they are there, so each is taken toward the mean by the share of the scatter
    in theirs (James and Stein 1961): where layers differ by far more, not at all.
    """
    if not logs:
        return {}
    mean = statistics.fmean(logs.values())
    variance = statistics.pvariance(logs.values(), mean)
    kept = max(1.0 - scatter / variance, 0.0) if variance > 0 else 0.0
    return {name: math.exp(mean + kept * (log - mean)) for name, log in logs.items()}


def runs_of_variants(layers: int) -> float:
    """Runs of the network that take as long as what lies behind each of its layers, run once."""
    return layers / 2


class SensitivityMeter:
    """Measures, for the layers of a workspace whose plan is no float, what each width does."""

    def __init__(
        self, workspace: Workspace, source: StatisticsSource, estimator: Estimator, options: ReconstructLayersOptions
    ) -> None:
        """source: of the statistics and inputs. options: of the rounding.

        `unknown` is why statistics of shared weights cannot be had, "" where they can.
        """
        self._workspace = workspace
        self._source = source
        self._estimator = estimator
        self._layers = workspace.get(Layers).by_name()
        plan = dict(workspace.get(BitPlan).layers)
        self.plan = plan
        self._names = [name for name in self._layers if plan[name].bits != FLOAT]
        widths = tuple(sorted({bits for bits, _ in PROBES[estimator]} | {FINER_PROBE}))
        self._visitor = WidthLosses(
            workspace, options, dict(self._layers), plan, widths, thorough=estimator == "measured"
        )
        self.unknown = ""
        try:
            self._visitor.pooled = pool_uses(workspace, options, self._layers, plan, source.engine)
        except Unknown as reason:
            self.unknown = str(reason)
        self._centred = centred_layers(workspace, self._names)
        self.first = {name: self._visitor.first.get(name, name) for name in self._names}

    def losses(self) -> Mapping[str, Mapping[BitWidth, float]]:
        """By the first of the layers of a weight, the loss at each width."""
        if not self._visitor.losses and self._no_time_for(RUNS_OF_A_WALK, ESTIMATED):
            for name in self._names:
                self._visitor.take_typical(name)
        if not self._visitor.losses:
            engine = self._source.probe() or self._source.engine()
            walk(self._workspace.graph, engine, self._visitor, frozenset(self._names))
        return self._visitor.losses

    def take_weights_alone(self) -> None:
        """Let losses be the error of each weight over its energy, where statistics of layers' inputs are not known."""
        nodes = nodes_by_name(self._workspace.graph)
        self._visitor.losses.clear()
        for name in self._names:
            self._visitor.without_statistics(nodes[name])

    def gains(self) -> dict[str, float]:
        """By the first of the layers of a weight, damage over loss: the geometric mean of the probes."""
        losses = self.losses()
        if self._estimator != "closed-form" and self._no_time_for(runs_of_variants(len(losses)), MEASURED):
            self._workspace.deadline.cut("what each layer does to the outputs was not measured")
            return dict.fromkeys(losses, 1.0)
        found = self._derived_gains() if self._estimator == "closed-form" else self._measured_gains()
        known = sorted(gain for gain in found.values() if gain > 0)
        if not known:  # no output can be compared: what the next layer loses counts
            return dict.fromkeys(losses, 1.0)
        typical = known[len(known) // 2]
        return {name: max(found.get(name, typical), LEAST_OF_TYPICAL * typical) for name in losses}

    def _measured_gains(self) -> dict[str, float]:
        logs: dict[str, list[float]] = {}
        for bits, norms in PROBES[self._estimator]:
            widths = dict.fromkeys(self.losses(), bits)
            damages = self._damages(self._visitor.rounded[bits], norms)
            coarse = [name for name, lost in damages.items() if lost > SATURATED and bits < FINER_PROBE]
            if coarse:
                widths.update(dict.fromkeys(coarse, FINER_PROBE))
                finer = self._visitor.rounded[FINER_PROBE]
                damages |= self._damages({name: finer[name] for name in coarse}, norms)
            for name, lost in damages.items():
                loss = self._visitor.probed[widths[name]][name]
                if loss > LEAST_LOSS_SEEN:
                    logs.setdefault(name, []).append(math.log(max(lost, LEAST_LOSS_SEEN) / loss))
        return expected_gains({name: sum(found) / len(found) for name, found in logs.items()})

    def _no_time_for(self, runs: float, share: float) -> bool:
        """Whether so many runs on one image would take longer than until a share of the limit is gone."""
        deadline = self._workspace.deadline
        return deadline.limited and deadline.until(share) <= runs * seconds_of_run(self._workspace)

    def table(self) -> Sensitivity:
        """The rows of the layers whose width is free, and what the others do."""
        losses, gains = self.losses(), self.gains()
        members: dict[str, list[str]] = {}
        for name, first in self.first.items():
            members.setdefault(first, []).append(name)
        rows, floor = [], 0.0
        for first, found in losses.items():
            planned = self.plan[first]
            if planned.role != "auto":
                assert planned.bits != FLOAT  # of which there is no loss
                floor += gains[first] * found[planned.bits]
                continue
            blocks = self._visitor.blocks.get(first, frozenset())
            widths = tuple(
                WidthLoss(bits, found[bits], gains[first] * found[bits], bits in blocks) for bits in PLANNED_WIDTHS
            )
            rows.append(LayerSensitivity(tuple(members[first]), gains[first], widths))
        return Sensitivity(tuple(rows), self._estimator, self._source.note(0), floor)

    def _damages(self, weights: Weights, norms: Norms) -> dict[str, float]:
        """By variant what the outputs lose where one weight alone is changed; several walks where memory is short."""
        found: dict[str, float] = {}
        by_layer = {name: weights[first] for name, first in self.first.items() if first in weights}
        waiting = frozenset(by_layer)
        while waiting:
            engine = self._source.variants(norms=norms, variant_of=self.first.__getitem__, centred=self._centred)
            walk(self._workspace.graph, engine, ChangedWeights(by_layer), waiting)
            found |= {name: damage(losses) for name, losses in engine.losses_of().items()}
            waiting = frozenset(name for name in waiting if self.first[name] in engine.postponed)
        return found

    def _derived_gains(self) -> dict[str, float]:
        """By weights and BatchNormalizations alone: the errors in what is read next followed through the network."""
        graph = self._workspace.graph
        known, _ = propagate(graph, self._workspace.inputs)
        gains, nodes = noise_gains(graph, known, LIKENESS), nodes_by_name(graph)
        found: dict[str, float] = {}
        for name, first in self.first.items():
            tensor = read_next(graph, nodes[name]).name
            moments, gain = known.get(tensor), gains.get(tensor)
            if moments is not None and gain is not None:
                found[first] = found.get(first, 0.0) + float((gain * moments.variance).sum())
        logs = {name: math.log(gain) for name, gain in found.items() if gain > 0 and math.isfinite(gain)}
        norms = sum(op_of(node) == "BatchNormalization" for node in graph.nodes)
        folded = 2 * norms < len(self._names)
        return expected_gains(logs, FOLDED_SCATTER if folded else DERIVED_SCATTER)
