"""What an HTML report says of one pair of files, gathered: each part by itself, and why where one cannot be had."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from dfmpc_onnx.api.provenance import version
from dfmpc_onnx.errors import DfmpcError
from dfmpc_onnx.evaluation.activation_ranges import activation_ranges
from dfmpc_onnx.evaluation.fidelity import Fidelity
from dfmpc_onnx.evaluation.island_times import MOST_CLOSED, TimeTable, time_table
from dfmpc_onnx.evaluation.kernel_census import Census, is_quantized, take_census
from dfmpc_onnx.evaluation.layer_errors import LAYER_INPUTS, LayerErrors, layer_errors
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
from dfmpc_onnx.qdq.stored_bits import StoredLayer, mean_bits, stored_layers
from dfmpc_onnx.qdq.stored_bytes import stored_bytes
from dfmpc_onnx.report.computes_text import why_float
from dfmpc_onnx.report.html.loss_sections import worst_layers
from dfmpc_onnx.report.html.schema import FileFacts, PageLayer, ReportPage, RunTimes
from dfmpc_onnx.report.html.thumbnails import shown_images
from dfmpc_onnx.report.layer_groups import bits_text
from dfmpc_onnx.report.schema import Report
from dfmpc_onnx.runtime.latency import Span, run_times
from dfmpc_onnx.runtime.session import Session
from dfmpc_onnx.runtime.threads import thread_count

DRAWN_LAYERS = 6  # whose weights are drawn: those that lose most
TIMED_SECONDS = 0.5  # of runs of each file
LOW_WIDTH = 3  # bits, up to which a layer is low
Found = TypeVar("Found")
STEPS_OF_REPORT = ("layers one by one", "weights", "activations", "time", "page")


@dataclasses.dataclass(frozen=True)
class ReportedPair:
    """Two files, what they ran on, and what came of it.

    seed: of the images that were made; None where they are the user's. made: the report of the run that made the
    quantized file, where this is that run.
    """

    float_source: Source
    source: Source
    inputs: InputSpecs
    batch: Images | Samples | ImageStream
    seed: int | None
    verdict: Verdict | None
    fidelity: Fidelity | None
    warnings: tuple[str, ...]
    made: Report | None = None


def gather_page(pair: ReportedPair, *, latency: bool, progress: ProgressReport) -> ReportPage:
    """Measure what the report says beyond the comparison of outputs. latency: of each island of float, what integers
    in its place would save, too."""
    gathered = _Gathering(pair, progress)
    errors = gathered.found("losses", lambda: _errors(pair))
    gathered.step(1)
    stored = stored_layers(pair.source.model)
    names = {layer.name for layer in stored}
    grids = weight_grids(pair.float_source.model, pair.source.model, names)
    census = gathered.found("census", lambda: _census(pair.source))
    layers = _with_errors(_layers(pair, stored, grids, census), errors)
    gathered.step(2)
    ranges = gathered.found("activations", lambda: activation_ranges(pair.source.model, pair.source.label, pair.batch))
    gathered.step(3)
    times = gathered.found("time", lambda: _times(pair))
    if times is not None:
        table = gathered.found("islands", lambda: _table(pair, MOST_CLOSED if latency else 0))
        times = msgspec.structs.replace(times, table=table)
    gathered.step(4)
    only = next(iter(pair.inputs)) if len(pair.inputs) == 1 else None
    return ReportPage(
        float_file=_facts(pair.float_source),
        quantized_file=_facts(pair.source),
        verdict=pair.verdict,
        fidelity=pair.fidelity,
        warnings=pair.warnings,
        made=_made(pair),
        layers=layers,
        mean_bits=_mean_bits(pair, stored),
        drawn=_drawn(layers, grids),
        ranges=ranges or (),
        times=times,
        refusals=_refusals(pair.made, census),
        images=shown_images(only, pair.batch.origin, pair.seed),
        version=version(),
        untold=gathered.untold,
    )


class _Gathering:
    """The parts of a report as they are gathered, and why those that could not be had are missing."""

    def __init__(self, pair: ReportedPair, progress: ProgressReport) -> None:
        self.untold: dict[str, str] = {}
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
    return FileFacts(source.label, source.size, stored_bytes(source))


def _errors(pair: ReportedPair) -> LayerErrors:
    batch = first_inputs(pair.batch, LAYER_INPUTS)
    return layer_errors(pair.float_source.model, pair.source.model, batch, pair.source.label)


def first_inputs(batch: Images | Samples | ImageStream, count: int) -> Images | Samples | ImageStream:
    """So many inputs of those given."""
    if isinstance(batch, ImageStream):
        return batch.spread(count)
    if isinstance(batch, Images):
        return dataclasses.replace(batch, x=batch.x[:count], y=None)
    feeds = {name: values[:count] for name, values in batch.feeds.items()}
    return dataclasses.replace(batch, feeds=feeds, runs=min(batch.runs, count))


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
            )
            for row in pair.made.layers
        )
    by_layer = {grid.layer: grid for grid in grids}
    integer = frozenset(census.integer_layers) if census is not None else frozenset()
    why = {name: why for why, found in census.float_layers.items() for name in found} if census is not None else {}
    return tuple(
        _of_file(layer, by_layer.get(layer.name), layer.name in integer, why.get(layer.name, "")) for layer in stored
    )


def _of_file(layer: StoredLayer, grid: WeightGrid | None, integer: bool, why: str) -> PageLayer:
    bits, role = "float", "float"
    if layer.coded:
        width = math.ceil(layer.bits) if grid is None else _width(grid)
        ternary = grid is not None and set(grid.levels) <= {-1.0, 0.0, 1.0}
        bits = "ternary" if ternary else str(width)
        role = "low" if width <= LOW_WIDTH else "8-bit" if width == 8 else "high"
    computes = "integers" if integer else "float"
    return PageLayer(layer.name, layer.op, math.prod(layer.shape), bits, layer.bits, role, computes, why)


def _width(grid: WeightGrid) -> int:
    """Bits that the levels in use need."""
    count = grid.levels[-1] - grid.levels[0] + 1
    return max(math.ceil(math.log2(count)), 1)


def _with_errors(layers: tuple[PageLayer, ...], errors: LayerErrors | None) -> tuple[PageLayer, ...]:
    """The layers with the error behind each, and its share of all that enters anywhere in the network."""
    if errors is None:
        return layers
    total = sum(row.own_error**2 for row in errors.rows)
    seen: set[str] = set()
    found = []
    for layer in layers:
        row = errors.of_layer(layer.name)
        if row is None:
            found.append(layer)
            continue
        first = row.tensor not in seen  # of several layers with one row the first stands for all
        seen.add(row.tensor)
        share = row.own_error**2 / total if total > 0 else 0.0
        found.append(msgspec.structs.replace(layer, sqnr_db=row.sqnr_db, added=share if first else None))
    return tuple(found)


def _drawn(layers: Sequence[PageLayer], grids: Sequence[WeightGrid]) -> tuple[WeightGrid, ...]:
    """The grids of the layers that lose most, of those that have a grid."""
    by_layer = {grid.layer: grid for grid in grids}
    names = [layers[place].name for place in worst_layers(layers)] + [
        grid.layer for grid in sorted(grids, key=lambda grid: math.inf if grid.sqnr_db is None else grid.sqnr_db)
    ]
    chosen = [by_layer[name] for name in dict.fromkeys(names) if name in by_layer]
    return tuple(chosen[:DRAWN_LAYERS])


def _times(pair: ReportedPair) -> RunTimes:
    feeds = input_batch(pair.inputs, 0, 1).first(1).feeds
    sessions = [Session(s.path or s.model, label=s.label) for s in (pair.float_source, pair.source)]
    taken = run_times([(session, feeds) for session in sessions], TIMED_SECONDS)
    ours, other = (round(1000 * Span.of(samples).seconds, 4) for samples in taken)
    fed = ", ".join(f"{name} {'x'.join(map(str, value.shape))}" for name, value in feeds.items())
    return RunTimes(ours, other, thread_count(), None, fed)


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
    keys = ("recipe", "weights", "activations", "target", "preprocess", "seed", "statistics", "version", "versions")
    rows = [(key, stated[key]) for key in keys if key in stated]
    if "source_sha256" in stated:
        rows.append(("float file's SHA-256", stated["source_sha256"]))
    return tuple(rows)
