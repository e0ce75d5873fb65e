"""Quantize layer by layer against the float network: its activations on images, or its covariance functions."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.pipeline.deadline import MEASURED
from dfmpc_onnx.pipeline.facts import BitPlan, Codes, Layers, MeasuredRanges
from dfmpc_onnx.pipeline.manager import CannotGoOn, Pass, PassResult
from dfmpc_onnx.pipeline.refusals import Reason
from dfmpc_onnx.pipeline.settings import FLOAT
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.image_count import gets_few_bits, images_needed
from dfmpc_onnx.quantization.input_grids import InputGrids
from dfmpc_onnx.quantization.layer_rebuilder import Rebuilder, ReconstructLayersOptions
from dfmpc_onnx.quantization.pooled_uses import pool_uses
from dfmpc_onnx.quantization.statistics_source import statistics_source
from dfmpc_onnx.statistics.engines import registration
from dfmpc_onnx.statistics.image_streams import ImageStreams
from dfmpc_onnx.statistics.recoloured_streams import RecolouredStreams
from dfmpc_onnx.statistics.walk import GraphWriter, walk


class ReconstructLayers(Pass[ReconstructLayersOptions]):
    """Before: Conv(x, W) -> BatchNormalization(gamma, beta, m, s)
    After: Conv(x, scale * (codes - zero_point)) -> BatchNormalization(gamma, beta, m', s')

    Why: with x from the float and x^ from the quantized network, W' = W (C + r I)(H + r I)^-1 with H = E[x^ x^'],
    C = E[x x^'] is the weight that best undoes the error of the layers in front: DF-MPC's compensation without its
    restriction to one factor a channel. W' is rounded with error feedback under H, and BatchNormalization takes
    the mean and deviation of what comes out. Both streams run on procedural images with BatchNormalization in
    batch-statistics mode, so each of its outputs has the moments of training.

    Where weights get at most 4 bits, what a Conv in front of a BatchNormalization reads of procedural images is moved
    first, in both networks, until the outputs have the moments that the BatchNormalization measured.

    Layers that read one weight get one set of codes, rounded once: H is the mean of theirs in the float network, each
    scaled to a mean square of 1. W stays as it is there, since what undoes the error in front of one use would be an
    error in another; biases and BatchNormalizations are corrected for each use.

    Where layers read fewer than 8 bits, they read them here, on grids made from what the quantized network gives: H and
    BatchNormalizations then hold the noise of rounding. W stays as it is, for the fit would weaken whatever barely
    shows beside that noise on the images.

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
    by_layer: ClassVar = True
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
        plan, layers = workspace.get(BitPlan).layers, workspace.get(Layers).by_name()
        images = self.options.images or (images_needed(workspace) if self.reads_images() else 0)
        recoloured = self.options.recolour and gets_few_bits(workspace)
        source = statistics_source(workspace, self.options.statistics, images, recoloured=recoloured)
        engine = source.engine()
        grids = _rounds_inputs(workspace, engine)
        rebuilder = Rebuilder(workspace, self.options, layers, dict(plan))
        rebuilder.ranges.update(source.ranges)
        rebuilder.pooled = pool_uses(workspace, self.options, layers, plan, source.engine)
        workspace.put(Codes({}))
        if not self.reads_images() and workspace.deadline.past(MEASURED):
            raise Unknown("no time was left")
        wanted = frozenset(name for name in layers if plan[name].bits != FLOAT)
        walk(workspace.graph, engine, rebuilder, wanted, GraphWriter(workspace.graph, workspace.set_weight))
        workspace.put(MeasuredRanges(rebuilder.ranges, rebuilder.reach.bounds, grids.found if grids else {}))
        warnings = source.warnings
        if workspace.settings.by_hand:
            warnings = (*warnings, *rebuilder.warnings(self.options.threshold))
        notes = (source.note(engine.live.peak), *_moved(engine), *(grids.notes if grids else ()))
        return PassResult(self.name, tuple(rebuilder.rewrites), tuple(rebuilder.refusals), notes, warnings)


def _rounds_inputs(workspace: Workspace, engine: object) -> InputGrids | None:
    """Let the layers of the quantized network read few bits, where they shall and the engine has values to round."""
    bits = workspace.settings.few_bits
    if bits is None or not isinstance(engine, ImageStreams):
        return None
    grids = InputGrids(workspace, bits)
    engine.rounding = grids.rounded
    return grids


def _moved(engine: object) -> tuple[str, ...]:
    """For the report: of how many layers the inputs were corrected, and what that did."""
    if not isinstance(engine, RecolouredStreams) or not engine.moved:
        return ()
    before, after = np.mean(list(engine.moved.values()), axis=0)
    what = f"inputs of {len(engine.moved)} layers moved to what BatchNormalizations measured"
    return (f"{what}; mean square distance {before:.2g} -> {after:.2g} on images that it was not fitted to",)
