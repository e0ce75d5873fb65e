"""Running a recipe's passes, once or until the file has the size that was asked for.

What is measured is measured once: the workspace is taken back to where widths are planned, and planned again from the
same table with what the file built before takes beside its weights.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import msgspec
import onnx

from dfmpc_onnx import catalog
from dfmpc_onnx.api.intake import Intake
from dfmpc_onnx.api.provenance import provenance
from dfmpc_onnx.api.reference import check_source
from dfmpc_onnx.errors import CannotRun, OptionError, PassError
from dfmpc_onnx.graph.exchange import to_model
from dfmpc_onnx.model.source import size_of
from dfmpc_onnx.pipeline.instruments import Dump, PassSteps, Timing
from dfmpc_onnx.pipeline.manager import Instrument, Pass, PassManager, PassResult
from dfmpc_onnx.pipeline.settings import WeightBudget
from dfmpc_onnx.pipeline.weight_plan import PlannedWidths
from dfmpc_onnx.pipeline.workspace import Snapshot
from dfmpc_onnx.quantization.budget_planner import with_other_bytes

MOST_BUILDS = 4
NEAR = 0.99  # of the size that was asked for; a file that is smaller is planned again


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

    @property
    def plans(self) -> bool:
        """Whether the recipe plans widths."""
        return self._planner is not None

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
        found = self._run(self._taken.pipeline[self._planner :])
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
    stated = provenance(taken.source, taken.recipe, workspace.settings, workspace.inputs, taken.choice, results)
    return to_model(workspace.graph, taken.source, stated)


def check_plans(builder: Builder, what: str, recipe: str) -> None:
    """Raise OptionError where a recipe cannot plan. what: the user asks for."""
    if not builder.plans:
        raise OptionError(
            f"{what}: recipe {recipe} plans no bits; take mixed, or another that does, or for a plan file "
            "`plan --from` with the budget"
        )


def build_within(builder: Builder, taken: Intake) -> Built:
    """Build under the budget of the settings until the file is as large as was asked for, from below within a percent,
    or cannot be.

    Raises OptionError where no build is small enough.
    """
    workspace, budget = taken.workspace, taken.workspace.settings.budget
    allowed = budget.size
    builder.measure()
    if allowed is None:
        return builder.build_with(budget)
    best: tuple[int, Built, Snapshot] | None = None
    smallest, tried = 0, set[tuple[object, ...]]()
    for _ in range(MOST_BUILDS):
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
        budget = dataclasses.replace(budget, other_bytes=other)
    if best is None:
        raise OptionError(
            f"max-size {allowed}: the smallest file that was built takes {smallest} bytes; give at least that"
        )
    workspace.restore(best[2])
    return best[1]
