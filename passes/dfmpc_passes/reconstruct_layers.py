"""Quantize layer by layer against the float network: its activations on images, or its covariance functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.graph.compared_outputs import compared_tensors
from dfmpc_onnx.pipeline.facts import BitPlan, Codes, Layer, LayerBits, Layers, MeasuredRanges
from dfmpc_onnx.pipeline.manager import CannotGoOn, Pass, PassResult
from dfmpc_onnx.pipeline.refusals import Reason
from dfmpc_onnx.pipeline.settings import FLOAT
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.layer_rebuilder import Rebuilder, ReconstructLayersOptions
from dfmpc_onnx.quantization.output_cost import output_cost
from dfmpc_onnx.quantization.pooled_uses import pool_uses
from dfmpc_onnx.quantization.statistics_source import statistics_source
from dfmpc_onnx.statistics.engines import StatisticsSource, registration
from dfmpc_onnx.statistics.walk import GraphWriter, walk

LOWEST = 1 / 16  # of the threshold: two bits more in every layer


class ReconstructLayers(Pass[ReconstructLayersOptions]):
    """Before: Conv(x, W) -> BatchNormalization(gamma, beta, m, s)
    After: Conv(x, scale * (codes - zero_point)) -> BatchNormalization(gamma, beta, m', s')

    Why: with x from the float and x^ from the quantized network, W' = W (C + r I)(H + r I)^-1 with H = E[x^ x^'],
    C = E[x x^'] is the weight that best undoes the error of the layers in front: DF-MPC's compensation without its
    restriction to one factor a channel. W' is rounded with error feedback under H, and BatchNormalization takes
    the mean and deviation of what comes out. Both streams run on procedural images with BatchNormalization in
    batch-statistics mode, so each of its outputs has the moments of training.

    Where the recipe chooses the bits, what the next layer reads is wrong by at most a threshold, the same for all. How
    much a network makes of that is measured first, with random errors of that size in every layer: where it is more
    than a tenth of an output (a fortieth of a map or list, which is used value by value), the threshold of all its
    layers is lower, down to a sixteenth.

    Layers that read one weight get one set of codes, rounded once: H is the mean of theirs in the float network, each
    scaled to a mean square of 1. W stays as it is there, since what undoes the error in front of one use would be an
    error in another; biases and BatchNormalizations are corrected for each use.

    With statistics = "gaussian" the moments come from covariance functions instead: no image, no run of the network.

    Requires: a bit plan.

    Refuses when: covariance functions cannot be followed (an operator without a rule, too many channels): the passes
    that the recipe names as its fallback run in its place.

    Reference: docs/method.md, sections 3 to 6; Chen et al. 2023, equation 27 (the diagonal form); Frantar et al. 2022.
    """

    name = "reconstruct_layers"
    Options = ReconstructLayersOptions
    requires: ClassVar = (BitPlan, Layers)
    provides: ClassVar = (Codes, MeasuredRanges)
    may_stop = True

    def reads_images(self) -> bool:
        return registration(self.options.statistics).reads_images

    def run(self, workspace: Workspace) -> PassResult:
        try:
            return self._rebuild(workspace)
        except Unknown as reason:
            why = f"covariances cannot be followed ({reason})"
            raise CannotGoOn(Reason("covariances-unknown", why)) from None

    def _rebuild(self, workspace: Workspace) -> PassResult:
        given, layers = workspace.get(BitPlan).layers, workspace.get(Layers).by_name()
        source = statistics_source(workspace, self.options.statistics, self.options.images)
        options, notes = self._within_budget(workspace, layers, given, source)
        plan, engine = dict(given), source.engine()
        rebuilder = Rebuilder(workspace, options, layers, plan)
        rebuilder.ranges.update(source.ranges)
        rebuilder.pooled = pool_uses(workspace, options, layers, given, source.engine)
        workspace.put(Codes({}))
        wanted = frozenset(name for name in layers if plan[name].bits != FLOAT)
        walk(workspace.graph, engine, rebuilder, wanted, GraphWriter(workspace.graph, workspace.set_weight))
        workspace.put(BitPlan(plan))
        workspace.put(MeasuredRanges(rebuilder.ranges, rebuilder.reach.bounds))
        warnings = source.warnings
        if workspace.settings.by_hand:
            warnings = (*warnings, *rebuilder.warnings(self.options.threshold))
        notes = (*notes, source.note(engine.live.peak))
        return PassResult(self.name, tuple(rebuilder.rewrites), tuple(rebuilder.refusals), notes, warnings)

    def _within_budget(
        self,
        workspace: Workspace,
        layers: Mapping[str, Layer],
        given: Mapping[str, LayerBits],
        source: StatisticsSource,
    ) -> tuple[ReconstructLayersOptions, tuple[str, ...]]:
        """The options with a lower threshold where errors of that size cost an output too much, and what they cost."""
        options = self.options
        probe = source.probe() if any(bits.role == "auto" for bits in given.values()) else None
        if probe is None:
            return options, ()
        found, compared = output_cost(workspace, options, layers, given, probe), compared_tensors(workspace.graph)
        if found is None:
            unknown = "no output can be compared; what errors in every layer cost is not known"
            return options, (unknown, *compared.notes)
        note = f"errors of {100 * options.threshold:.2g} % in every layer cost {100 * found.cost:.2g} % of an output"
        if found.times < 1:
            lower = options.threshold * max(found.times, LOWEST)
            options = msgspec.structs.replace(options, threshold=lower)
            note += f"; so a layer may lose {100 * lower:.2g} %"
        return options, (note, *compared.notes)
