"""Quantize layer by layer against the float network: its activations on images, or its covariance functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.inputs.batches import concrete_shape
from dfmpc_onnx.pipeline.facts import BitPlan, Codes, FloatStatistics, Layer, LayerBits, Layers, MeasuredRanges, Pairs
from dfmpc_onnx.pipeline.manager import Pass, PassResult, Refusal
from dfmpc_onnx.pipeline.settings import FLOAT
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.layer_rebuilder import Rebuilder, ReconstructLayersOptions
from dfmpc_onnx.quantization.output_cost import borne
from dfmpc_onnx.runtime.threads import blas_limited
from dfmpc_onnx.statistics.batch_axis import statistics_batch
from dfmpc_onnx.statistics.gaussian_streams import GaussianStreams
from dfmpc_onnx.statistics.image_streams import Streams
from dfmpc_passes.compensate import Compensate
from dfmpc_passes.quantize_weights import QuantizeWeights, QuantizeWeightsOptions
from dfmpc_passes.recalibrate_batch_norm import RecalibrateBatchNorm, RecalibrateOptions

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

    With statistics = "gaussian" the moments come from covariance functions instead: no image, no run of the network.

    Requires: a bit plan; the pairs and float statistics serve where covariances cannot be followed.

    Refuses when: covariance functions cannot be followed (an operator without a rule, too many channels): channels
    and pixels are then taken as independent, as in quantize_weights, recalibrate_batch_norm and compensate.

    Reference: docs/method.md, sections 3 to 6; Chen et al. 2023, equation 27 (the diagonal form); Frantar et al. 2022.
    """

    name = "reconstruct_layers"
    Options = ReconstructLayersOptions
    requires: ClassVar = (BitPlan, Layers, Pairs, FloatStatistics)
    provides: ClassVar = (Codes, MeasuredRanges)

    def reads_images(self) -> bool:
        return self.options.statistics == "images"

    def run(self, workspace: Workspace) -> PassResult:
        given = workspace.get(BitPlan).layers
        plan = dict(given)
        layers = workspace.get(Layers).by_name()
        rebuilder = Rebuilder(workspace, self.options, layers, plan)
        wanted = frozenset(name for name in layers if plan[name].bits != FLOAT)
        if self.options.statistics == "gaussian":
            graph = workspace.graph.copy()
            try:
                notes, warnings = self._on_covariances(workspace, rebuilder, wanted)
            except Unknown as reason:
                # A layer may have been rebuilt before the walk came to what it cannot follow.
                workspace.graph = graph
                return self._on_independent_pixels(workspace, str(reason))
        else:
            rebuilder, plan, notes, warnings = self._on_images(workspace, layers, given, wanted)
        workspace.put(BitPlan(plan))
        workspace.put(Codes(rebuilder.codes))
        workspace.put(MeasuredRanges(rebuilder.ranges))
        if workspace.settings.by_hand:
            warnings = (*warnings, *rebuilder.warnings(self.options.threshold))
        return PassResult(self.name, tuple(rebuilder.rewrites), tuple(rebuilder.refusals), notes, warnings)

    def _on_images(
        self, workspace: Workspace, layers: Mapping[str, Layer], given: Mapping[str, LayerBits], wanted: frozenset[str]
    ) -> tuple[Rebuilder, dict[str, LayerBits], tuple[str, ...], tuple[str, ...]]:
        """The rebuilder, the plan as it has come out, notes and warnings."""
        batch = statistics_batch(workspace.graph, workspace.settings, self.options.images)
        options, notes = self.options, []
        if any(bits.role == "auto" for bits in given.values()):
            found = borne(workspace, options, layers, given, batch.feeds)
            told = "no output can be compared; what errors in every layer cost is not known"
            if found is not None:
                share = f"{100 * options.threshold:.2g} %"
                told = f"errors of {share} in every layer cost {100 * found.cost:.2g} % of an output"
                if found.times < 1:
                    lower = options.threshold * max(found.times, LOWEST)
                    options = msgspec.structs.replace(options, threshold=lower)
                    told += f"; so a layer may lose {100 * lower:.2g} %"
            notes.append(told)
        plan = dict(given)
        rebuilder = Rebuilder(workspace, options, dict(layers), plan)
        for name, x in batch.feeds.items():
            if x.dtype.kind == "f" and x.size:
                rebuilder.ranges[name] = float(x.min()), float(x.max())
        streams = Streams(workspace.graph, batch.feeds, wanted, workspace.settings.seed)
        streams.run(rebuilder)
        notes.append(f"statistics from {batch.origin}; live activations at most {streams.peak_bytes / 1e6:.0f} MB")
        return rebuilder, plan, tuple(notes), batch.warnings

    def _on_covariances(self, workspace: Workspace, rebuilder: Rebuilder, wanted: frozenset[str]) -> Told:
        settings = workspace.settings
        shapes = {t.name: concrete_shape(t, settings)[0] for t in workspace.graph.inputs}
        # Thousands of small products: threads would wait for each other at every one, and far longer on a busy machine.
        with blas_limited(1):
            GaussianStreams(workspace.graph, shapes, settings.preprocess, wanted).run(rebuilder)
        return ("statistics from covariance functions; no image was made",), ()

    def _on_independent_pixels(self, workspace: Workspace, reason: str) -> PassResult:
        """The simpler closed form, channel by channel, for graphs whose covariances cannot be followed."""
        steps: list[Pass[msgspec.Struct]] = [
            QuantizeWeights(QuantizeWeightsOptions(ternary="optimal")),
            RecalibrateBatchNorm(RecalibrateOptions(reading="projection")),
            Compensate(),
        ]
        results = [step.run(workspace) for step in steps]
        workspace.put(MeasuredRanges({}))
        plan = workspace.get(BitPlan).layers
        eight = LayerBits(8, "8-bit", "no error was measured to choose by")
        workspace.put(BitPlan({name: eight if bits.role == "auto" else bits for name, bits in plan.items()}))
        return PassResult(
            self.name,
            tuple(rewrite for result in results for rewrite in result.rewrites),
            (Refusal("model", f"covariances cannot be followed ({reason})"), *(r for x in results for r in x.refusals)),
            ("channels and pixels taken as independent",),
            (f"covariances cannot be followed ({reason}); channels and pixels are taken as independent",),
        )


Told = tuple[tuple[str, ...], tuple[str, ...]]
