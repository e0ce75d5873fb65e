"""What an HTML report says of one pair of files, gathered: each part by itself, and why where one cannot be had."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, TypeVar

import msgspec

from dfmpc_onnx.api.command_line import command_line
from dfmpc_onnx.api.page_layers import drawn_grids, places_of, with_blame, with_places, with_steps
from dfmpc_onnx.api.provenance import version
from dfmpc_onnx.errors import DfmpcError, ModelError
from dfmpc_onnx.evaluation.activation_ranges import ActivationRange, activation_ranges
from dfmpc_onnx.evaluation.diagnosis.schema import Diagnosis
from dfmpc_onnx.evaluation.fidelity import Fidelity
from dfmpc_onnx.evaluation.island_times import MOST_CLOSED, TimeTable, time_table
from dfmpc_onnx.evaluation.kernel_census import Census, is_quantized, take_census
from dfmpc_onnx.evaluation.layer_errors import LayerErrors
from dfmpc_onnx.evaluation.verdict import Verdict
from dfmpc_onnx.evaluation.weight_grids import WeightGrid, weight_grids
from dfmpc_onnx.inputs.batches import input_batch
from dfmpc_onnx.inputs.files import Images
from dfmpc_onnx.inputs.image_stream import ImageStream
from dfmpc_onnx.inputs.samples import Samples
from dfmpc_onnx.inputs.spec import InputSpecs
from dfmpc_onnx.model.metadata import metadata_of
from dfmpc_onnx.model.source import Source
from dfmpc_onnx.pipeline.manager import Refusal
from dfmpc_onnx.pipeline.progress import ProgressReport
from dfmpc_onnx.pipeline.weight_plan import PlanRow, Width
from dfmpc_onnx.qdq.qonnx_nodes import refuse_qonnx
from dfmpc_onnx.qdq.stored_bits import StoredLayer, mean_bits, nearest_width, stored_layers
from dfmpc_onnx.qdq.stored_bytes import stored_bytes
from dfmpc_onnx.report.computes_text import why_float
from dfmpc_onnx.report.html.schema import FileFacts, PageLayer, Place, ReportPage, RunTimes, ShownImages
from dfmpc_onnx.report.html.thumbnails import shown_images
from dfmpc_onnx.report.layer_groups import bits_text
from dfmpc_onnx.report.schema import Report
from dfmpc_onnx.runtime.latency import Span, run_times
from dfmpc_onnx.runtime.processor import machine_name, processor_name
from dfmpc_onnx.runtime.session import Session
from dfmpc_onnx.runtime.threads import thread_count

TIMED_SECONDS = 0.1  # of runs of each file, and of its kernels; the fewest runs of a slow one take longer
LOW_WIDTH = 3  # bits, up to which a layer is low
DETECTED_BY = ("images", "covariances", "head", "norms")  # of `PreprocessChoice.by`
_KNOWN = {"given": "as given", "file": "as the file stated", "assumed": "assumed: nothing tells it"}
Found = TypeVar("Found")
STEPS_OF_REPORT = ("weights", "activations", "time", "page")


@dataclasses.dataclass(frozen=True)
class Diagnosed:
    """errors: of the tensors inside; diagnosis: what causes them; None each where it could not be had, as `why_not`
    says.
    """

    errors: LayerErrors | None = None
    diagnosis: Diagnosis | None = None
    why_not: str = ""


@dataclasses.dataclass(frozen=True)
class ReportedPair:
    """Two files, what they ran on, and what came of it; batch: None where the float model did not run.

    seed: of the images that were made; None where they are the user's. diagnosed: where the error is, and what causes
    it. made: the report of the run that made the quantized file, where this is that run; planned: the rows of the
    table that its bits were planned from, if they were, with the width that each got; plan_options, plan_file: as in
    `ReportPage`.
    """

    float_source: Source
    source: Source
    inputs: InputSpecs
    batch: Images | Samples | ImageStream | None
    seed: int | None
    verdict: Verdict | None
    fidelity: Fidelity | None
    warnings: tuple[str, ...]
    diagnosed: Diagnosed
    made: Report | None = None
    planned: tuple[tuple[PlanRow, Width], ...] = ()
    plan_options: tuple[str, str] = ("", "")
    plan_file: str = ""


def gather_page(pair: ReportedPair, *, latency: bool, progress: ProgressReport) -> ReportPage:
    """Measure what the report says beyond the comparison of outputs. latency: of each island of float, what integers
    in its place would save, too."""
    gathered = _Gathering(pair, progress)
    images = _images(pair)  # first, while the pictures are still held
    stored = stored_layers(pair.source.model)
    names = {layer.name for layer in stored}
    grids_of = partial(weight_grids, pair.float_source.model, pair.source.model)
    grids = grids_of(names) if pair.made is None else []
    census = gathered.found("census", lambda: _census(pair.source))
    layers = with_steps(_layers(pair, stored, grids, census), pair.planned)
    places, effect_by = _places(layers, pair.diagnosed)
    gathered.step(1)
    ranges = gathered.found("activations", lambda: _ranges(pair))
    gathered.step(2)
    times = gathered.found("time", lambda: _times(pair))
    if times is not None:
        table = gathered.found("islands", lambda: _table(pair, MOST_CLOSED if latency else 0))
        times = msgspec.structs.replace(times, table=table)
    gathered.step(3)
    return ReportPage(
        float_file=_facts(pair.float_source),
        quantized_file=_facts(pair.source),
        verdict=pair.verdict,
        fidelity=pair.fidelity,
        warnings=pair.warnings,
        made=_made(pair),
        layers=with_places(layers, places, pair.diagnosed.errors),
        places=places,
        mean_bits=_mean_bits(pair, stored),
        drawn=drawn_grids(places, names, lambda wanted: grids if pair.made is None else grids_of(wanted)),
        ranges=ranges or (),
        times=times,
        refusals=_refusals(pair.made, census),
        images=images,
        version=version(),
        diagnosis=pair.diagnosed.diagnosis,
        untold=gathered.untold,
        effect_by=effect_by,
        command=command_line(),
        date=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        machine=machine_name(),
        processor=processor_name(),
        plan_options=pair.plan_options,
        plan_file=pair.plan_file,
    )


def _images(pair: ReportedPair) -> ShownImages:
    only = next(iter(pair.inputs)) if len(pair.inputs) == 1 else None
    return ShownImages("nothing") if pair.batch is None else shown_images(only, pair.batch.origin, pair.seed)


def _places(
    layers: Sequence[PageLayer], diagnosed: Diagnosed
) -> tuple[tuple[Place, ...], Literal["plan", "blame", ""]]:
    """Where errors enter, and what measured their effect on the output."""
    places = places_of(layers, diagnosed.errors)
    if diagnosed.diagnosis is not None and diagnosed.diagnosis.blamed:
        return with_blame(places, diagnosed.diagnosis), "blame"
    return places, "plan" if any(place.effect is not None for place in places) else ""


class _Gathering:
    """The parts of a report as they are gathered, and why those that could not be had are missing."""

    def __init__(self, pair: ReportedPair, progress: ProgressReport) -> None:
        why = pair.diagnosed.why_not
        self.untold: dict[str, str] = {"losses": why, "causes": why, "advice": why} if why else {}
        self._progress = progress
        self.step(0)

    def found(self, section: str, gather: Callable[[], Found]) -> Found | None:
        try:
            return gather()
        except DfmpcError as error:
            self.untold[section] = str(error)
            return None

    def step(self, done: int) -> None:
        self._progress(done, len(STEPS_OF_REPORT), f"report: {STEPS_OF_REPORT[done]}")


def _facts(source: Source) -> FileFacts:
    return FileFacts(source.label, "" if source.path is None else str(source.path), source.size, stored_bytes(source))


def _ranges(pair: ReportedPair) -> tuple[ActivationRange, ...]:
    if pair.batch is None:
        raise ModelError("nothing could be run")
    # A file of ours keeps its Relus and Clips, and may multiply channels, and so the bounds of a Clip.
    fused = None if metadata_of(pair.source.model) else pair.float_source.model
    return activation_ranges(pair.source.model, pair.source.label, pair.batch, fused)


def _census(source: Source) -> Census | None:
    if not is_quantized(source.model):
        return None
    return take_census(source.path or source.model, source.model, source.label)


def _layers(
    pair: ReportedPair, stored: Sequence[StoredLayer], grids: Sequence[WeightGrid], census: Census | None
) -> tuple[PageLayer, ...]:
    """The layers by the run that made the file; of a file alone, as it holds them."""
    if pair.made is not None:
        in_float = why_float(pair.made)
        return tuple(
            PageLayer(
                name=row.name,
                op=row.op,
                weights=row.weights,
                bits=bits_text(row),
                stored_bits=row.stored_bits,
                role=row.role,
                computes="integers" if row.integer else "float",
                why=f"{row.why}; float: {in_float[row.name]}" if row.name in in_float else row.why,
                planned=row.loss,
                block=row.block,
            )
            for row in pair.made.layers
        )
    by_layer = {grid.layer: grid for grid in grids}
    integer = frozenset(census.integer_layers) if census is not None else frozenset()
    why = {name: why for why, found in census.float_layers.items() for name in found} if census is not None else {}
    return tuple(
        _of_file(layer, by_layer.get(layer.name), layer.name in integer, why.get(layer.name, "")) for layer in stored
    )


def bits_of_layers(float_source: Source, source: Source, stored: Sequence[StoredLayer]) -> dict[str, str]:
    """The bits of each layer of a file, as `PageLayer` has them."""
    names = {layer.name for layer in stored}
    grids = {grid.layer: grid for grid in weight_grids(float_source.model, source.model, names)}
    return {layer.name: _of_file(layer, grids.get(layer.name), False, "").bits for layer in stored}


def _of_file(layer: StoredLayer, grid: WeightGrid | None, integer: bool, why: str) -> PageLayer:
    bits, role = bits_shown(layer, grid)
    computes = "integers" if integer else "float"
    return PageLayer(layer.name, layer.op, math.prod(layer.shape), bits, layer.bits, role, computes, why)


def bits_shown(layer: StoredLayer, grid: WeightGrid | None) -> tuple[str, str]:
    """Bits and role of a layer of a file as `PageLayer` has them: the bits that its codes need, or fewer where an index
    of a codebook stands for several codes."""
    if not layer.coded:
        return "float", "float"
    width = math.ceil(layer.bits) if grid is None else min(nearest_width(layer.bits), grid.width)
    ternary = grid is not None and set(grid.levels) <= {-1.0, 0.0, 1.0}
    role = "low" if width <= LOW_WIDTH else "8-bit" if width == 8 else "high"
    return "ternary" if ternary else f"{width:g}", role


def _times(pair: ReportedPair) -> RunTimes:
    refuse_qonnx(pair.source, "it has no time here")
    feeds = input_batch(pair.inputs, 0, 1).first(1).feeds
    sessions = [Session(s.path or s.model, label=s.label) for s in (pair.float_source, pair.source)]
    taken = run_times([(session, feeds) for session in sessions], TIMED_SECONDS)
    ours, other = (round(1000 * Span.of(samples).seconds, 4) for samples in taken)
    fed = ", ".join(f"{name} {'x'.join(map(str, value.shape))}" for name, value in feeds.items())
    return RunTimes(ours, other, thread_count() or os.cpu_count() or 1, None, fed)


def _table(pair: ReportedPair, closed: int) -> TimeTable:
    return time_table(pair.source, input_batch(pair.inputs, 0, 1).first(1).feeds, closed, TIMED_SECONDS)


def _mean_bits(pair: ReportedPair, stored: Sequence[StoredLayer]) -> float:
    if pair.made is not None:
        return pair.made.mean_weight_bits
    return mean_bits((layer.total, math.prod(layer.shape)) for layer in stored)


def _refusals(made: Report | None, census: Census | None) -> tuple[Refusal, ...]:
    """What passes refused; of a file alone, what onnxruntime leaves in float and why."""
    if made is not None:
        return made.refusals
    found: Mapping[str, tuple[str, ...]] = census.float_layers if census is not None else {}
    return tuple(Refusal(name, why, why) for why, names in found.items() for name in names)


def _made(pair: ReportedPair) -> tuple[tuple[str, str], ...]:
    """How the quantized file says it was made."""
    stated = metadata_of(pair.source.model)
    if not stated:
        return (("made by", f"{pair.source.model.producer_name or 'not stated'}, not by dfmpc-onnx quantize"),)
    keys = ("recipe", "weights", "activations", "target", "budget", "max_seconds", "cut_short", "preprocess", "seed")
    rows = [(key, stated[key]) for key in (*keys, "statistics", "version") if key in stated]
    rows = [(key, _how_known(value, stated)) if key == "preprocess" else (key, value) for key, value in rows]
    with contextlib.suppress(msgspec.DecodeError):  # a damaged file
        versions = msgspec.json.decode(stated.get("versions", "{}"), type=dict[str, str])
        rows += [(f"version of {name}", number) for name, number in versions.items()]
    if "source_sha256" in stated:
        rows.append(("float file's SHA-256", stated["source_sha256"]))
    return tuple(rows)


def _how_known(preprocess: str, stated: Mapping[str, str]) -> str:
    """A preprocess, and whether it was given, found out or assumed."""
    by, _, reason = stated.get("preprocess_choice", "").partition(": ")
    if by in DETECTED_BY:
        return f"{preprocess}, detected: {reason}"
    return f"{preprocess}, {_KNOWN[by]}" if by in _KNOWN else preprocess
