"""Running a recipe's passes, once or until the file has the size that was asked for.

What is measured is measured once: the workspace is taken back to where widths are planned, and planned again from the
same table with what the file built before takes beside its weights.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence

import msgspec
import onnx

from dfmpc_onnx import catalog
from dfmpc_onnx.api.closing_check import closing_check
from dfmpc_onnx.api.intake import Intake
from dfmpc_onnx.api.provenance import provenance
from dfmpc_onnx.api.reference import check_source
from dfmpc_onnx.api.static_shapes import with_static_shapes
from dfmpc_onnx.api.time_left import checked_in_time
from dfmpc_onnx.errors import CannotRun, OptionError, PassError
from dfmpc_onnx.graph.exchange import to_model
from dfmpc_onnx.model.source import size_of
from dfmpc_onnx.pipeline.deadline import ROUNDED
from dfmpc_onnx.pipeline.facts import ActivationNoise
from dfmpc_onnx.pipeline.instruments import Dump, PassSteps, Timing
from dfmpc_onnx.pipeline.manager import Instrument, Pass, PassManager, PassResult
from dfmpc_onnx.pipeline.measured_noise import MeasuredNoise
from dfmpc_onnx.pipeline.settings import WeightBudget
from dfmpc_onnx.pipeline.weight_plan import PlannedWidths, PlanTable, WeightPlan
from dfmpc_onnx.pipeline.workspace import Snapshot
from dfmpc_onnx.quantization.budget_planner import BudgetPlanner, take_plan, with_other_bytes

MOST_BUILDS = 5
NEAR = 0.99  # of the size that was asked for; a file that is smaller is planned again
NEAR_DB = 0.5  # above the SQNR that was asked for; a file that has more is planned again
AIMED_DB = 0.1  # above it: what is measured on one plan is a little off on the next


@dataclasses.dataclass(frozen=True)
class Built:
    """What passes did, and how long each took."""

    results: tuple[PassResult, ...]
    timing: Timing


class Builder:
    """Runs the passes of an intake: those in front of the planner once, those from it on as often as is asked."""

    def __init__(
        self, taken: Intake, instruments: Sequence[Instrument] = (), dump: str | os.PathLike[str] | None = None
    ) -> None:
        self._taken = taken
        by_layer = {step.name for step in taken.pipeline if step.by_layer}
        self._instruments: list[Instrument] = [*instruments, PassSteps(by_layer)]
        if dump is not None:
            self._instruments.append(Dump(dump, taken.source))
        found = [index for index, step in enumerate(taken.pipeline) if PlannedWidths in step.provides]
        self._planner = found[0] if found else None
        self._front = Built((), Timing())
        self._before: Snapshot | None = None
        self._built = False
        self._took = 0.0  # seconds of the last build

    @property
    def plans(self) -> bool:
        """Whether the recipe plans widths."""
        return self._planner is not None

    @property
    def late(self) -> bool:
        """Whether a build as long as the last would have too little time to be as good."""
        deadline = self._taken.workspace.deadline
        late = deadline.until(ROUNDED) < self._took
        if late:
            deadline.cut("the file was not built again, nearer to what was asked for")
        return late

    def build(self) -> Built:
        """Run all passes, once."""
        return self._run(self._taken.pipeline)

    def measure(self) -> None:
        """Run the passes in front of the planner."""
        PassManager(self._taken.pipeline, known=catalog.passes()).check(self._taken.workspace.known)
        self._front = self._run(self._taken.pipeline[: self._planner])
        self._before = self._taken.workspace.snapshot()

    def rewind(self) -> None:
        """Take the workspace back to where `measure` left it."""
        assert self._before is not None  # measure() comes first
        self._taken.workspace.restore(self._before)
        self._before = self._taken.workspace.snapshot()

    def build_with(self, budget: WeightBudget) -> Built:
        """Run the planner under a budget and the passes behind it, on the workspace as `measure` left it."""
        workspace = self._taken.workspace
        if self._built:
            workspace.progress.expect(len(self._taken.pipeline[self._planner :]))
        self._built = True
        self.rewind()
        workspace.settings = dataclasses.replace(workspace.settings, budget=budget)
        return self._rest(self._planner)

    def build_plan(self, table: PlanTable, plan: WeightPlan) -> Built:
        """Give layers the very widths of a plan, in place of the planner, and run the passes behind it."""
        assert self._planner is not None  # check_plans comes first
        self.rewind()
        take_plan(self._taken.workspace, table, plan)
        return self._rest(self._planner + 1)

    def _rest(self, start: int | None) -> Built:
        """Run the passes from one on."""
        now = self._taken.workspace.deadline.now
        began = now()
        found = self._run(self._taken.pipeline[start:])
        self._took = now() - began
        timing = Timing()
        timing.seconds = [*self._front.timing.seconds, *found.timing.seconds]
        return Built((*self._front.results, *found.results), timing)

    def _run(self, steps: Sequence[Pass[msgspec.Struct]]) -> Built:
        timing, taken = Timing(), self._taken
        try:
            results = PassManager(steps, [timing, *self._instruments], catalog.passes()).run(taken.workspace)
        except (PassError, CannotRun):  # of which the float model, or the size its inputs were taken as, may be guilty
            check_source(taken.source, taken.workspace.settings, taken.workspace.inputs)
            raise
        return Built(results, timing)


def as_model(taken: Intake, results: tuple[PassResult, ...]) -> onnx.ModelProto:
    """The graph as passes have left it, with the statement of its making."""
    workspace = taken.workspace
    given = taken.source, taken.recipe, workspace.settings, workspace.inputs, taken.choice
    stated = provenance(*given, results, workspace.deadline)
    return with_static_shapes(to_model(workspace.graph, taken.source, stated), workspace)


def plans_bits(pipeline: Sequence[Pass[msgspec.Struct]]) -> bool:
    """Whether one of the passes plans the widths of weights."""
    return any(PlannedWidths in step.provides for step in pipeline)


def check_plans(builder: Builder, what: str, recipe: str) -> None:
    """Raise OptionError where a recipe cannot plan. what: the user asks for."""
    if not builder.plans:
        raise OptionError(
            f"{what}: recipe {recipe} plans no bits; take mixed, or another that does, or for a plan file "
            "`plan --from` with the budget"
        )


def measured_noise(taken: Intake, built: Built) -> tuple[float, MeasuredNoise] | None:
    """The SQNR in dB of the file that was built last, as its closing check has it, and what this says of its plan's
    damages; None where it cannot be compared with the float model."""
    workspace = taken.workspace
    workspace.tell("compare")
    candidate = as_model(taken, built.results)
    most = checked_in_time(workspace, taken.source)
    fidelity = closing_check(taken.source, candidate, workspace.settings, workspace.inputs, most=most).fidelity
    if fidelity is None:
        return None
    rounded, plan = workspace.find(ActivationNoise), workspace.get(PlannedWidths).plan
    share = rounded.share if rounded is not None else 0.0
    return fidelity.sqnr_db, MeasuredNoise.of_file(fidelity.sqnr_db, plan.damage, share)


def build_within(builder: Builder, taken: Intake) -> Built:
    """Build under the budget of the settings: until the file is as large as was asked for, from below within a percent,
    or cannot be; until it shows the SQNR that was asked for, and not much more.

    Raises OptionError, with the least or the best that there is, where no build keeps to the budget.
    """
    budget = taken.workspace.settings.budget
    builder.measure()
    if budget.min_sqnr is not None and budget.size is None and budget.mean_bits is None:
        return _build_reaching(builder, taken, budget.min_sqnr)
    made = builder.build_with(budget) if budget.size is None else _build_within_size(builder, taken, budget.size)
    found = measured_noise(taken, made) if budget.min_sqnr is not None else None
    if budget.min_sqnr is not None and found is not None:
        if found[0] < budget.min_sqnr:
            raise _cannot_reach(taken, found[0])
        return _without_warnings(made, taken)
    return made


def _cannot_reach(taken: Intake, best: float) -> OptionError:
    settings = taken.workspace.settings
    within = "" if settings.budget.size is None and settings.budget.mean_bits is None else " within that size"
    other = ", or leave activations in float (--activations none)" if settings.activations != "none" else ""
    return OptionError(
        f"{settings.budget}: {math.floor(10 * best) / 10:.1f} dB are the best that can be reached{within}; "
        f"give at most that{other}"
    )


def _without_warnings(built: Built, taken: Intake) -> Built:
    """Without what the planner warned of before the file was measured."""
    planner = next(step.name for step in taken.pipeline if PlannedWidths in step.provides)
    results = tuple(
        msgspec.structs.replace(result, warnings=()) if result.name == planner else result for result in built.results
    )
    return dataclasses.replace(built, results=results)


def _build_reaching(builder: Builder, taken: Intake, wanted: float) -> Built:
    """The smallest of some files that show an SQNR, each planned by what the one before it showed."""
    workspace = taken.workspace
    asked = budget = workspace.settings.budget
    best: tuple[int, Built, Snapshot] | None = None
    reached, tried = -math.inf, set[tuple[object, ...]]()
    for attempt in range(MOST_BUILDS):
        if (attempt == MOST_BUILDS - 1 or (attempt and builder.late)) and best is None:
            made = _build_finest(builder, taken)
        else:
            made = builder.build_with(budget)
        found, plan = measured_noise(taken, made), workspace.get(PlannedWidths).plan
        if found is None:
            return made
        reached = max(reached, found[0])
        size = size_of(as_model(taken, made.results))
        if found[0] >= wanted and (best is None or size < best[0]):
            best = size, made, workspace.snapshot()
        if best is not None and (found[0] <= wanted + NEAR_DB or plan.widths in tried or builder.late):
            break
        tried.add(plan.widths)
        budget = dataclasses.replace(asked, noise=found[1].above(AIMED_DB))
    workspace.settings = dataclasses.replace(workspace.settings, budget=asked)
    if best is None:
        raise _cannot_reach(taken, reached)
    workspace.restore(best[2])
    return _without_warnings(best[1], taken)


def _build_finest(builder: Builder, taken: Intake) -> Built:
    """The plan of least damage, built."""
    table, budget = taken.workspace.get(PlannedWidths).table, taken.workspace.settings.budget
    return builder.build_plan(table, BudgetPlanner(table, budget.most_float).best)


def _build_within_size(builder: Builder, taken: Intake, allowed: int) -> Built:
    """The largest of some files that keep to a size, each planned by what the one before it took.

    What a plan takes is known to a few bytes, so after a file that was too large the next plan is for as much less.
    """
    workspace = taken.workspace
    asked = budget = workspace.settings.budget
    best: tuple[int, Built, Snapshot] | None = None
    smallest, aim, tried = 0, allowed, set[tuple[object, ...]]()
    for _ in range(MOST_BUILDS):
        if best is not None and builder.late:
            break
        made = builder.build_with(budget)
        size = size_of(as_model(taken, made.results))
        found = workspace.get(PlannedWidths)
        smallest = min(smallest or size, size)
        if size <= allowed and (best is None or size > best[0]):
            best = size, made, workspace.snapshot()
        if NEAR * allowed <= size <= allowed or found.plan.widths in tried or not found.table.rows:
            break
        tried.add(found.plan.widths)
        other = with_other_bytes(found.table, found.plan, size).other_bytes
        if budget.other_bytes is not None:  # of the first plan the rest of the file was no more than an estimate
            aim -= max(size - allowed, 0)
        budget = dataclasses.replace(budget, other_bytes=other, size=aim)
    workspace.settings = dataclasses.replace(workspace.settings, budget=asked)
    if best is None:
        raise OptionError(
            f"max-size {allowed}: the smallest file that was built takes {smallest} bytes; give at least that"
        )
    workspace.restore(best[2])
    return best[1]
