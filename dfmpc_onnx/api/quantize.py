"""quantize(): from a float model to a quantized one, with a report on how it was made.

Several threads of a program may quantize at once.
"""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Sequence

import msgspec
import onnx

from dfmpc_onnx import catalog
from dfmpc_onnx.api.boundary import GivenImages, GivenLayers, GivenRanges, GivenShapes, Path, public
from dfmpc_onnx.api.builds import Builder, Built, as_model, build_within, check_plans, plans_bits
from dfmpc_onnx.api.closing_check import ClosingCheck, closing_check
from dfmpc_onnx.api.file_size import larger_than_its_source
from dfmpc_onnx.api.intake import Intake, parse_settings, take_in, with_budget, with_float16
from dfmpc_onnx.api.layers import errors_of_layers
from dfmpc_onnx.api.learned_images import of_another_model
from dfmpc_onnx.api.option_check import check_settings
from dfmpc_onnx.api.page_of_run import check_page, write_page_of_run
from dfmpc_onnx.api.provenance import version
from dfmpc_onnx.api.quantized import Quantized
from dfmpc_onnx.api.static_shapes import assumed_batches
from dfmpc_onnx.api.time_left import causes_in_time, checked_in_time, layers_in_time
from dfmpc_onnx.api.time_limit import allow_trials, with_time_limit
from dfmpc_onnx.evaluation.layer_errors import LayerErrors
from dfmpc_onnx.inputs.preprocess import AUTO
from dfmpc_onnx.inputs.unknown_inputs import not_known
from dfmpc_onnx.model.source import ModelSource, size_of
from dfmpc_onnx.model.write import save
from dfmpc_onnx.pipeline.deadline import Deadline
from dfmpc_onnx.pipeline.manager import Instrument, Pass
from dfmpc_onnx.pipeline.progress import Progress, ProgressReport
from dfmpc_onnx.pipeline.recipe import DEFAULT_RECIPE, Recipe
from dfmpc_onnx.pipeline.settings import Settings, WeightBudget
from dfmpc_onnx.qdq.activation_grids import few_activation_bits
from dfmpc_onnx.qdq.qonnx_nodes import from_qonnx, to_qonnx
from dfmpc_onnx.report.build import make_report, with_layer_errors, with_stored_bits
from dfmpc_onnx.runtime.session import require
from dfmpc_onnx.runtime.threads import takes_threads


@public
@takes_threads
def quantize(
    model: ModelSource,
    output: Path | None = None,
    recipe: Path | Recipe = DEFAULT_RECIPE,
    *,
    weights: str | int | None = None,
    activations: str | int | None = None,
    layers: GivenLayers = (),
    reduce_range: bool | None = None,
    target: str = "cpu",
    fp16: bool | None = None,
    preprocess: str = AUTO,
    input_shapes: GivenShapes = (),
    input_ranges: GivenRanges = (),
    images: GivenImages | None = None,
    seed: int = 0,
    check: bool = True,
    max_latency: str | float | None = None,
    dump: Path | None = None,
    instruments: Sequence[Instrument] = (),
    progress: ProgressReport | None = None,
    threads: int | None = None,
    max_size: str | int | None = None,
    mean_bits: float | None = None,
    min_sqnr: float | None = None,
    max_float_layers: int = 0,
    force: bool = False,
    layer_errors: bool = False,
    report: Path | None = None,
    max_seconds: float | None = None,
) -> Quantized:
    """Quantize a float model without data.

    - Files: model (a path, the bytes of a file, or a ModelProto; never changed); output (written whole or not at all;
      None: in memory); force (write over what is no ONNX model); report (an HTML page on it all, extra `report`).
    - Bits: recipe (a name, a ``.toml`` path, or a Recipe); weights (8, ``LOW/HIGH``, ``ternary/HIGH``); activations (4,
      8, 16, "auto", "none"); layers (overrides, ``{"layer1/*": 8}`` or ``"8/4"``); reduce_range (7-bit weights, for
      runtimes without VNNI); target (what the file is for); fp16 (floats as float16; None: as the target wants).
    - Limits: max_size (of the file: "2MB", bytes, or "25%" of the float one, met within a percent); mean_bits (of all
      weights); min_sqnr (dB, as the check measures it); max_float_layers (how many may stay in float for these);
      max_latency (``12.5``, ms of a run, or ``80%`` of the float model's); max_seconds (of this call).
    - Input: preprocess (what the network expects; "auto"); input_shapes (``{"x": (1, 3, 224, 224)}``); input_ranges
      (``{"x": (0, 255)}``); seed (of what is made up); images (unlabelled, in place of procedural ones: an .npz, a
      folder, or arrays, uint8 [n, height, width, 3] or float32 as the model takes them).
    - Check: check (compare with the model, on inputs that no statistics came from); layer_errors (tensors inside, too).
    - Run: threads (of onnxruntime and BLAS; None and 0: all processors); progress (called with (done, total, name), see
      `rich_progress`); dump (a folder for the graph after each pass); instruments (watch each pass).

    Raises UserError for what the caller can correct, Defect for our own mistakes; `output` is then as it was before.
    """
    began, deadline = time.perf_counter(), Deadline(max_seconds)
    page = check_page(report, model, output, force=force, check=check)
    pipeline = catalog.build(chosen := with_time_limit(catalog.find_recipe(recipe), max_latency))
    asked = (weights, activations, layers, preprocess, input_shapes, input_ranges, seed, images, reduce_range, target)
    settings = with_float16(parse_settings(chosen, *asked), fp16)
    budget = _without_idle(WeightBudget.parse(max_size, mean_bits, min_sqnr, max_float_layers), settings, pipeline)
    settings = with_budget(settings, budget, "--weights" if weights is not None else f"recipe {chosen.name}")
    _check_runtime(settings, check=check or min_sqnr is not None, timed=max_latency is not None, errors=layer_errors)
    taken = take_in(model, output, chosen, pipeline, settings, preprocess, Progress(progress), force=force)
    return _finish(taken, _build(taken, deadline, budget, instruments, dump), check, began, page, errors=layer_errors)


def _without_idle(budget: WeightBudget, settings: Settings, pipeline: Sequence[Pass[msgspec.Struct]]) -> WeightBudget:
    """The budget; none where nothing is planned and it asks for SQNR alone: the closing check's is the caller's to
    judge."""
    planned = settings.weights.auto and plans_bits(pipeline)
    return WeightBudget() if budget.only_sqnr and not planned else budget


def _check_runtime(settings: Settings, *, check: bool, timed: bool, errors: bool) -> None:
    """Raise what `check_settings` does, and RuntimeUnavailable where a run is needed."""
    check_settings(settings, check=check, timed=timed, errors=errors)
    if check or timed:
        require()


def _build(
    taken: Intake,
    deadline: Deadline,
    budget: WeightBudget,
    instruments: Sequence[Instrument],
    dump: str | os.PathLike[str] | None,
) -> Built:
    """Run the passes, as often as a budget needs and there is time for."""
    taken.workspace.deadline = deadline
    allow_trials(taken)
    builder = Builder(taken, instruments, dump)
    if not budget.asked:
        return builder.build()
    check_plans(builder, str(budget), taken.recipe.name)
    return build_within(builder, taken)


def _finish(
    taken: Intake, built: Built, check: bool, began: float, page: pathlib.Path | None, *, errors: bool
) -> Quantized:
    """The result as a model, compared and written, with the report on it."""
    workspace, source = taken.workspace, taken.source
    settings, inputs = workspace.settings, workspace.inputs
    results, timing = built.results, built.timing
    runs = as_model(taken, results)
    result = runs
    if settings.target.quantizers == "qonnx":  # onnxruntime has no such nodes, so what is compared is translated back
        result = to_qonnx(runs, few_activation_bits(workspace))
        runs = from_qonnx(result, source.label)
    size = size_of(result)
    found = ClosingCheck()

    def closing(candidate: pathlib.Path | onnx.ModelProto) -> None:
        nonlocal found
        if check:
            workspace.progress.begin("check")
            compared = candidate if runs is result else runs
            most = checked_in_time(workspace, source, more=errors or page is not None)
            found = closing_check(source, compared, settings, inputs, not_known(taken.choice.unknown), most)

    if taken.destination is None:
        closing(result)
    else:
        workspace.progress.begin("write")
        size = save(result, taken.destination, source.external, closing)
    of_layers, said = _layer_errors(taken, runs, found) if errors else (None, ())
    said = (*said, *of_another_model(source, inputs))
    causes = page is not None and causes_in_time(workspace)
    workspace.progress.end()
    notes = (*assumed_batches(workspace), *larger_than_its_source(source, result, size, settings), *found.notes, *said)
    notes += workspace.deadline.warnings
    report = make_report(
        workspace, taken.recipe, source, size, results, timing, found.fidelity, taken.choice, notes, began
    )
    if result is not runs:
        report = with_stored_bits(report, result)
    output = None if taken.destination is None else str(taken.destination)
    report = msgspec.structs.replace(
        with_layer_errors(report, of_layers),
        output=output,
        version=version(),
        verdict=found.verdict,
    )
    if page is not None:
        write_page_of_run(taken, runs, found, report, page, of_layers, causes=causes)
    return Quantized(result, with_layer_errors(report, of_layers))


def _layer_errors(
    taken: Intake, result: onnx.ModelProto, found: ClosingCheck
) -> tuple[LayerErrors | None, tuple[str, ...]]:
    """What the layers of the result lose, and what to warn of."""
    progress = taken.workspace.progress
    progress.begin("layer errors")
    if found.inputs is None:
        return None, ()  # the check says why it could not run
    return errors_of_layers(
        taken.source,
        result,
        found.inputs,
        not_known(taken.choice.unknown),
        lambda done, of: progress.note(f"layer errors: {done} of {of} inputs"),
        layers_in_time(taken.workspace),
    )
