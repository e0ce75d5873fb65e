"""Compute so much of what was left in float in integers, for the least error, that a run takes as long as it may."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import ClassVar

import msgspec

from dfmpc_onnx.errors import ModelError, OptionError, shown
from dfmpc_onnx.evaluation.rounding_switches import ToggledRounding
from dfmpc_onnx.evaluation.time_trials import ClosedIsland, LatencyReport, LimitJudged, TimeLimit, TimeTrials
from dfmpc_onnx.inputs.batches import input_batch
from dfmpc_onnx.numerics.closing_choice import by_worth, cheapest_enough
from dfmpc_onnx.numerics.ranges import unsigned_qparams
from dfmpc_onnx.pipeline.facts import Codes, FinalOpset, FoldedBatchNorms, Layers, Ranges
from dfmpc_onnx.pipeline.manager import Pass, PassResult, Rewrite
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.qdq.float_islands import FloatIsland, close, closing, float_islands, placed
from dfmpc_onnx.qdq.placement import Sites
from dfmpc_onnx.runtime.session import Feeds, Loadable
from dfmpc_onnx.statistics.batch_axis import statistics_batch

OWN_IMAGES = 64  # of the user's, on which the largest output is compared
MOST_ALONE = 15  # islands that are timed one by one; what is left of more is closed together or not at all
SECONDS_OF_TRIALS = 90.0  # after which no further island is timed
MOST_ADDED = 4  # beyond the first choice, where its time is not what the islands promised one by one


class MeetLatencyOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """limit: the time of a run, as milliseconds ("12.5") or per cent of the float model's ("80%"); images: how many
    generated ones the error is measured on."""

    limit: str = "100%"
    images: int = 4

    def __post_init__(self) -> None:
        try:
            TimeLimit.parse(self.limit)
        except OptionError as error:
            raise ValueError(str(error)) from None


class MeetLatency(Pass[MeetLatencyOptions]):
    """Before: layers and activations that are known to stay in float, for their error or by estimated time
    After: the same graph; so many of them forgotten that the file that results is as fast as asked for

    Why: kernels of 8 bits take the same time whatever the bits of their codes were, so what decides the time of a file
    is what computes in float. Each connected part of that is closed alone, the file built and timed beside the one with
    all of them open, on this machine; and what rounding its activations costs is measured at the network's output.
    Those that gain most for each unit of error are closed until the time is met, which is measured again; of these
    the costliest that are not needed stay open.

    Requires: ranges and codes, what stays in float, the layers as they will be in the file.

    Refuses when: the time cannot be met: then nothing is closed, and a warning names the fastest that was found.

    Reference: docs/method.md, section 7; Dantzig 1957 (the greedy rule for the knapsack).
    """

    name = "meet_latency"
    Options = MeetLatencyOptions
    requires: ClassVar = (Ranges, Codes, Layers, FoldedBatchNorms, FinalOpset)
    provides: ClassVar = (LimitJudged,)

    def reads_images(self) -> bool:
        return True

    def run(self, workspace: Workspace) -> PassResult:
        workspace.put(LimitJudged(None))
        trials, settings = workspace.find(TimeTrials), workspace.settings
        if trials is None:
            return PassResult(self.name, notes=("there is no float model to time beside",))
        if not settings.target.between:
            return PassResult(self.name, notes=("times are those of the CPU provider, which the file is not for",))
        feeds = input_batch(workspace.inputs, settings.seed, 1).first(1).feeds
        try:
            search = _Search(workspace, trials, feeds, self.options.images)
            limit = TimeLimit.parse(self.options.limit)
            found = search.result(limit)
        except ModelError as error:
            why = f"max-latency {self.options.limit}: times cannot be measured ({error}); nothing is changed for it"
            return PassResult(self.name, warnings=(why,))
        workspace.put(LimitJudged(found))
        rewrites = tuple(
            Rewrite(shown((*island.layers, *island.tensors)[0]), "computes in integers", {"saves_ms": island.saves_ms})
            for island in found.closed
        )
        note = f"{found.before_ms:.2f} ms, {found.after_ms:.2f} at the end; float {found.float_ms:.2f}"
        return PassResult(self.name, rewrites, notes=(note,), warnings=() if found.met else (_unmet(found),))


def _unmet(found: LatencyReport) -> str:
    return (
        f"max-latency {found.limit} ({found.limit_ms:.2f} ms) cannot be met: {found.fastest_ms:.2f} ms is the fastest "
        f"possible here, float takes {found.float_ms:.2f} ms; no more was quantized for it"
    )


class _Search:
    """Times and errors of a workspace with some of its islands closed."""

    def __init__(self, workspace: Workspace, trials: TimeTrials, feeds: Feeds, images: int) -> None:
        self._workspace, self._trials, self._feeds, self._images = workspace, trials, feeds, images
        can = workspace.settings.activations != "none" and workspace.graph.opset >= 13
        islands = float_islands(workspace) if can else []
        islands.sort(key=lambda island: len(island.nodes), reverse=True)
        rest = islands[MOST_ALONE:]
        self.groups = [[island] for island in islands[:MOST_ALONE]] + ([rest] if rest else [])

    def result(self, limit: TimeLimit) -> LatencyReport:
        """Close what is needed for the limit, and say what that came to. Raises ModelError where nothing runs."""
        everything = range(len(self.groups))
        open_now = self._file([])
        tried = [open_now, self._file(everything)] if self.groups else [open_now]
        in_float, before, *closed = self._trials.beside_float(tried, self._feeds)
        wanted = limit.seconds(in_float)
        fastest = min([before, *closed])
        if before <= wanted or not self.groups:
            return _report(limit, wanted, in_float, before, before, fastest, before <= wanted)
        gains = self._gains(open_now)
        error = _Errors(self._workspace, self.groups, self._images)
        costs = [max(error.share([i]) - error.share([]), 0.0) for i in everything]
        chosen = cheapest_enough(gains, costs, before - wanted)
        after = self._beside_open(open_now, before, chosen)
        more = [i for i in by_worth(gains, costs) if i not in chosen]
        for index in more[:MOST_ADDED]:
            if after <= wanted:
                break
            chosen.append(index)
            after = self._beside_open(open_now, before, chosen)
        if after > wanted >= fastest:  # by islands that gain only together
            chosen, after = list(everything), fastest
        fastest = min(fastest, after)
        if after > wanted:
            return _report(limit, wanted, in_float, before, before, fastest, met=False)
        found = _report(limit, wanted, in_float, before, after, fastest, met=True)
        rows = tuple(self._closed(index, gains[index], error) for index in sorted(chosen))
        close(self._workspace, self._islands(chosen))
        return error.reported(found, rows, chosen)

    def _closed(self, index: int, gain: float, error: _Errors) -> ClosedIsland:
        islands = self.groups[index]
        layers = tuple(name for island in islands for name in island.layers)
        tensors = tuple(name for island in islands for name in island.tensors)
        return ClosedIsland(layers, tensors, round(1000 * gain, 4), _decibels(error.share([index])))

    def _gains(self, open_now: Loadable) -> list[float]:
        """Seconds that closing each group alone saves; 0 for those for which there was no time."""
        began, gains = time.perf_counter(), []
        for index in range(len(self.groups)):
            late = time.perf_counter() - began > SECONDS_OF_TRIALS
            gains.append(0.0 if late else self._trials.gain(open_now, self._file([index]), self._feeds))
        return gains

    def _beside_open(self, open_now: Loadable, before: float, chosen: Sequence[int]) -> float:
        """Seconds with these groups closed: what they save of the time with all open, measured in turns."""
        return before - self._trials.gain(open_now, self._file(chosen), self._feeds)

    def _islands(self, chosen: Sequence[int]) -> list[FloatIsland]:
        return [island for index in chosen for island in self.groups[index]]

    def _file(self, chosen: Sequence[int]) -> Loadable:
        with closing(self._workspace, self._islands(chosen)):
            return self._trials.finish(self._workspace)


class _Errors:
    """What rounding activations costs at the outputs, with groups of islands closed."""

    def __init__(self, workspace: Workspace, groups: Sequence[Sequence[FloatIsland]], images: int) -> None:
        settings, ranges = workspace.settings, workspace.get(Ranges).tensors
        everything = placed(workspace, [island for group in groups for island in group])
        self._numbers = {name: i for i, name in enumerate(everything.tensors)}
        scales = {name: unsigned_qparams(*ranges[like])[0] for name, like in everything.tensors.items()}
        own = workspace.inputs.own_images is not None
        batch = statistics_batch(workspace.graph, workspace.inputs, settings.seed, OWN_IMAGES if own else images)
        batch = batch.first(OWN_IMAGES if own else images)
        self.images, self._own = batch.count, own
        self._network = ToggledRounding(workspace, scales, [[name] for name in self._numbers], batch.feeds)
        self._sites: list[Sites] = [placed(workspace, group) for group in groups]
        self._before = placed(workspace, [])
        self._known: dict[frozenset[int], float] = {}

    def share(self, chosen: Sequence[int]) -> float:
        """The largest share of an output's variance that is error; 0 where no output can be compared."""
        key = frozenset(chosen)
        if key not in self._known:
            losses = self._network.losses(self._rounded(chosen))
            self._known[key] = max((loss.share_of_variance for loss in losses), default=0.0)
        return self._known[key]

    def reported(self, found: LatencyReport, rows: tuple[ClosedIsland, ...], chosen: Sequence[int]) -> LatencyReport:
        """A report with the errors before and after these groups are closed."""
        agreeing = [self._network.agreeing(self._rounded(which)) if self._own else None for which in ([], chosen)]
        return msgspec.structs.replace(
            found,
            closed=rows,
            sqnr_before=_decibels(self.share([])),
            sqnr_after=_decibels(self.share(chosen)),
            images=self.images,
            agreeing_before=agreeing[0],
            agreeing_after=agreeing[1],
        )

    def _rounded(self, chosen: Sequence[int]) -> list[int]:
        """The numbers of the tensors that are rounded with these groups closed."""
        names = set(self._before.tensors).union(*(self._sites[index].tensors for index in chosen))
        return [self._numbers[name] for name in self._numbers if name in names]


def _report(
    limit: TimeLimit, wanted: float, in_float: float, before: float, after: float, fastest: float, met: bool
) -> LatencyReport:
    allowed, plain, now, then, least = (
        round(1000 * seconds, 4) for seconds in (wanted, in_float, before, after, fastest)
    )
    return LatencyReport(str(limit), allowed, plain, now, then, least, met)


def _decibels(share: float) -> float | None:
    """Signal over noise, from the share of the variance that is noise; None where there is none."""
    return round(-10 * math.log10(share), 2) if share > 0 else None
