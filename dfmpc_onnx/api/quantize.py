"""quantize(): from a float model to a quantized one, with a report on how it was made."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Sequence

import onnx

from dfmpc_onnx import catalog
from dfmpc_onnx.api.builds import Builder, Built, as_model, build_within, check_plans
from dfmpc_onnx.api.closing_check import closing_check
from dfmpc_onnx.api.file_size import larger_than_its_source
from dfmpc_onnx.api.intake import Intake, parse_settings, take_in, with_budget
from dfmpc_onnx.api.time_limit import allow_trials, check_timed, with_time_limit
from dfmpc_onnx.evaluation.fidelity import Fidelity
from dfmpc_onnx.inputs.preprocess import AUTO
from dfmpc_onnx.inputs.unknown_inputs import not_known
from dfmpc_onnx.model.source import ModelSource, size_of
from dfmpc_onnx.model.write import save
from dfmpc_onnx.pipeline.manager import Instrument
from dfmpc_onnx.pipeline.recipe import DEFAULT_RECIPE, Recipe
from dfmpc_onnx.pipeline.settings import WeightBudget
from dfmpc_onnx.report.build import make_report
from dfmpc_onnx.report.schema import Report
from dfmpc_onnx.runtime.session import require
from dfmpc_onnx.runtime.threads import takes_threads


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A quantized model, and the report on how it was made."""

    model: onnx.ModelProto
    report: Report


@takes_threads
def quantize(
    model: ModelSource,
    output: str | os.PathLike[str] | None = None,
    recipe: str | Recipe = DEFAULT_RECIPE,
    *,
    weights: str | None = None,
    activations: str | int | None = None,
    layers: Sequence[str] = (),
    reduce_range: bool | None = None,
    target: str = "cpu",
    preprocess: str = AUTO,
    input_shapes: Sequence[str] = (),
    input_ranges: Sequence[str] = (),
    images: str | os.PathLike[str] | None = None,
    seed: int = 0,
    check: bool = True,
    max_latency: str | None = None,
    dump: str | os.PathLike[str] | None = None,
    instruments: Sequence[Instrument] = (),
    progress: Callable[[str], None] | None = None,
    threads: int | None = None,
    max_size: str | int | None = None,
    mean_bits: float | None = None,
    min_sqnr: float | None = None,
    max_float_layers: int = 0,
) -> Quantized:
    """Quantize a float model without data.

    model: a path, the bytes of a file, or a ModelProto; never changed. output: where to write the result, whole or not
    at all; None to get it in memory only. recipe: a name, a ``.toml`` path, or a Recipe. weights, activations, layers:
    ``LOW/HIGH``, ``BITS`` or ``ternary/HIGH``; 8 or "none"; overrides such as ``"layer1/*=8"``; the recipe's where
    None. reduce_range: 7 bits in place of 8 between quantized activations, for processors without VNNI. target: the
    provider that the file is for (`pipeline.targets`). preprocess: as the network expects its input; "auto" finds it
    out. input_ranges: ``NAME=LOW:HIGH``, what lies in an input. images: a few unlabelled images of the user's own in
    place of procedural ones (.npz or folder). check: compare the result with the model on 16 procedural images before
    it takes its name. max_latency: ``12.5`` (milliseconds of a run on this machine) or ``80%`` (of what the float model
    takes): activations that accuracy wants in float are quantized until it is met. dump: a folder for the graph after
    each pass. threads: how many onnxruntime and BLAS may take; None and 0: as many as the machine has (another number
    rounds sums in another order). Several threads of a program may quantize at once. max_size: of the file, as "2MB",
    bytes, or "25%" of the float one, met from below within a percent where more bits can fill it. mean_bits: of all
    weights, at most. min_sqnr: in dB, as the closing check measures it; nothing is written where no plan reaches it.
    max_float_layers: how many may stay in float for these.

    Raises UserError for what the caller can correct, Defect for our own mistakes. When it raises, `output` is as it
    was before: absent, or the earlier file.
    """
    began = time.perf_counter()
    chosen = with_time_limit(catalog.find_recipe(recipe) if isinstance(recipe, str) else recipe, max_latency)
    pipeline = catalog.build(chosen)
    budget = WeightBudget.parse(max_size, mean_bits, min_sqnr, max_float_layers)
    settings = parse_settings(
        chosen, weights, activations, layers, preprocess, input_shapes, input_ranges, seed, images, reduce_range, target
    )
    settings = with_budget(settings, budget, weights)
    if max_latency is not None:
        check_timed(settings)
    if check or max_latency is not None or min_sqnr is not None:
        require()
    taken = take_in(model, output, chosen, pipeline, settings, preprocess, progress or (lambda name: None))
    return _finish(taken, _build(taken, budget, instruments, dump), check, began)


def _build(
    taken: Intake, budget: WeightBudget, instruments: Sequence[Instrument], dump: str | os.PathLike[str] | None
) -> Built:
    """Run the passes, as often as a budget needs."""
    allow_trials(taken)
    builder = Builder(taken, instruments, dump)
    if not budget.asked:
        return builder.build()
    check_plans(builder, str(budget), taken.recipe.name)
    return build_within(builder, taken)


def _finish(taken: Intake, built: Built, check: bool, began: float) -> Quantized:
    """The result as a model, compared and written, with the report on it."""
    workspace, source = taken.workspace, taken.source
    settings, inputs = workspace.settings, workspace.inputs
    results, timing = built.results, built.timing
    result = as_model(taken, results)
    size = size_of(result)
    fidelity: Fidelity | None = None
    notes: tuple[str, ...] = ()

    def closing(candidate: pathlib.Path | onnx.ModelProto) -> None:
        nonlocal fidelity, notes
        if check:
            workspace.tell("check")
            fidelity, notes = closing_check(source, candidate, settings, inputs, not_known(taken.choice.unknown))

    if taken.destination is None:
        closing(result)
    else:
        workspace.tell("write")
        size = save(result, taken.destination, source.external, closing)
    notes = (*larger_than_its_source(source, result, size, settings), *notes)
    report = make_report(workspace, taken.recipe, source, size, results, timing, fidelity, taken.choice, notes, began)
    return Quantized(result, report)
