"""What each width of each layer does to the outputs, where the recipe or a budget is to choose the bits."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.graph.compared_outputs import compared_tensors
from dfmpc_onnx.numerics.least_squares import RIDGE
from dfmpc_onnx.pipeline.deadline import MEASURED
from dfmpc_onnx.pipeline.facts import BitPlan, Layers, Sensitivity
from dfmpc_onnx.pipeline.manager import Pass, PassResult, Rewrite
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.image_count import RUNS_OF_A_WALK
from dfmpc_onnx.quantization.layer_rebuilder import ReconstructLayersOptions
from dfmpc_onnx.quantization.sensitivity import Estimator, SensitivityMeter, runs_of_variants
from dfmpc_onnx.quantization.statistics_source import statistics_source
from dfmpc_onnx.statistics.engines import registration


class MeasureSensitivityOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """statistics, images, ridge: as those of `reconstruct_layers`. estimator: of what the outputs make of an error:
    measured with each layer at 3 bits in turn (probe), at 2 and at 4 bits with BatchNormalizations of the batch and as
    exported (measured, four times the time), or derived from weights and BatchNormalizations (closed-form)."""

    statistics: str = "images"
    images: int = 0
    estimator: Estimator = "probe"
    ridge: Annotated[float, msgspec.Meta(gt=0)] = RIDGE

    def __post_init__(self) -> None:
        try:
            registration(self.statistics)
        except ValueError as error:
            raise ValueError(f"{error} - at `$.statistics`") from None  # as msgspec says where its own errors are


class MeasureSensitivity(Pass[MeasureSensitivityOptions]):
    """Before: layers whose width is free
    After: the same, and for each of its widths the share of the output that quantizing this layer alone costs

    Why: one threshold for what each layer loses makes a network no better at equal bytes than one width for all: what
    an output makes of an error differs by a hundred times between layers. Each layer is rounded to 3 bits in turn, all
    others float, and what lies behind it is run; the other widths follow from what rounding to them costs the layer's
    next input. BatchNormalizations are re-calibrated, as they are in what is written. Inputs are procedural also where
    the user gives images: an error is larger beside what procedural ones differ by, so that the same budget would
    choose fewer bits, and a worse file, by images. Only where their scale is not known those of the user are taken.

    Requires: a bit plan.

    Refuses when: never; where covariance functions (statistics = "gaussian") cannot be followed, the error of the
    weights themselves takes the place of what the next layer reads.

    Reference: docs/method.md, section 8; Lee et al. 2021 (what a layer's error does to the task, on inputs that the
    network labels itself); Tang et al. 2024 (by inference alone).
    """

    name = "measure_sensitivity"
    Options = MeasureSensitivityOptions
    requires: ClassVar = (BitPlan, Layers)
    provides: ClassVar = (Sensitivity,)
    by_layer: ClassVar = True

    def reads_images(self) -> bool:
        return registration(self.options.statistics).reads_images

    def run(self, workspace: Workspace) -> PassResult:
        options = self.options
        free = any(bits.role == "auto" for bits in workspace.get(BitPlan).layers.values())
        if not (free or workspace.settings.weights.auto):
            workspace.put(Sensitivity((), options.estimator, "no layer whose width is free"))
            return PassResult(self.name)
        runs = RUNS_OF_A_WALK + runs_of_variants(len(workspace.get(Layers).quantizable))
        source = statistics_source(workspace, options.statistics, options.images, made=True, share=MEASURED, runs=runs)
        rounding = ReconstructLayersOptions(options.statistics, options.images, ridge=options.ridge)
        meter = SensitivityMeter(workspace, source, options.estimator, rounding)
        notes = compared_tensors(workspace.graph).notes
        try:
            if meter.unknown:
                raise Unknown(meter.unknown)
            table = meter.table()
        except Unknown as reason:
            meter.take_weights_alone()
            table = meter.table()
            notes = (*notes, f"covariances cannot be followed ({reason}): what rounding loses is of the weights alone")
        workspace.put(table)
        rewrites = tuple(
            Rewrite(
                row.layers[0],
                f"the outputs make {row.gain:.2g} of its errors",
                {"gain": row.gain, **{f"damage_{width.bits}": width.damage for width in row.widths}},
            )
            for row in table.rows
        )
        return PassResult(self.name, rewrites, notes=notes)
