"""How often a planned network gives the same first answer as its float model, on images of the user's."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence

import msgspec

from dfmpc_onnx.api.builds import Builder, as_model
from dfmpc_onnx.api.intake import Intake
from dfmpc_onnx.api.reference import output_kinds, reference_session
from dfmpc_onnx.errors import ModelError, OptionError
from dfmpc_onnx.evaluation.fidelity import compare, expected_outputs
from dfmpc_onnx.inputs.files import Images, read_images
from dfmpc_onnx.numerics.proportions import exact_interval, samples_for
from dfmpc_onnx.pipeline.plan_file import FrontEntry
from dfmpc_onnx.pipeline.weight_plan import PlanTable, WeightPlan
from dfmpc_onnx.quantization.budget_planner import BudgetPlanner
from dfmpc_onnx.runtime.session import Session

TRIED = 24  # plans from the smallest file to the best, among which one of enough agreement is sought


class Judge:
    """Builds plans and compares them with the float model on images that no statistics came from."""

    def __init__(self, taken: Intake, builder: Builder, images: str | os.PathLike[str]) -> None:
        """images: an .npz or a folder; labels in it are not read. Raises UserError."""
        self._taken, self._builder = taken, builder
        spec = taken.workspace.inputs.image_input()
        read = read_images(images, spec.shape, spec.preprocess)
        self.images = Images(read.x, None, read.origin)
        reference, said = reference_session(taken.source, taken.workspace.settings, taken.workspace.inputs)
        if reference is None:
            raise ModelError(said)
        self._want = expected_outputs(reference, self.images)

    @property
    def count(self) -> int:
        return len(self.images.x)

    def require(self, percent: float) -> None:
        """Raise OptionError where so few images cannot show an agreement."""
        best = 100 * exact_interval(self.count, self.count)[0]
        if best < percent:
            raise OptionError(
                f"min-agreement {percent:g}: {self.count} images cannot show it, as even if all agree the interval "
                f"begins at {best:.1f} %; give at least {samples_for(percent / 100)}"
            )

    def all_judged(self, table: PlanTable, plans: Sequence[WeightPlan]) -> list[FrontEntry]:
        """Each plan with its agreement; progress says how many are left and how long they take."""
        began, found = time.monotonic(), list[FrontEntry]()
        for plan in plans:
            left = (time.monotonic() - began) / len(found) * (len(plans) - len(found)) if found else None
            said = f", about {left:.0f} s left" if left is not None else ""
            self._taken.workspace.tell(f"plan {len(found) + 1} of {len(plans)}{said}")
            found.append(self.judged(table, plan))
        return found

    def judged(self, table: PlanTable, plan: WeightPlan) -> FrontEntry:
        """A plan with its agreement: percent, and the interval of 95 %."""
        return self._judged(table, plan)[0]

    def _judged(self, table: PlanTable, plan: WeightPlan) -> tuple[FrontEntry, float]:
        """A plan with its agreement, and where the interval begins exactly: the entry has it rounded."""
        self._builder.build_plan(table, plan)
        candidate = Session(as_model(self._taken, ()), label="the planned model")
        found = compare(self._want, candidate, self.images, *output_kinds(self._taken.source.model))
        if not found.rows:
            raise OptionError("images: agreement is of class scores, and no output has some; give a size or --min-sqnr")
        low, high = exact_interval(found.agreeing, found.rows)
        interval = [math.floor(1000 * low) / 10, math.ceil(1000 * high) / 10]  # outwards: no plan looks better
        entry = msgspec.structs.replace(as_entry(plan), agreement=found.agreement, interval=interval)
        return entry, 100 * low

    def smallest(self, table: PlanTable, percent: float, most_float: int) -> tuple[WeightPlan, FrontEntry, bool]:
        """The smallest of some plans whose interval begins at `percent` or above, and whether there is one; else the
        best. Agreement is taken to rise with the size."""
        plans = BudgetPlanner(table, most_float).spread(TRIED)
        low, high = 0, len(plans) - 1
        found, begins = self._judged(table, plans[high])
        if begins < percent:
            return plans[high], found, False
        while low < high:
            middle = (low + high) // 2
            trial, begins = self._judged(table, plans[middle])
            if begins >= percent:
                high, found = middle, trial
            else:
                low = middle + 1
        return plans[high], found, True


def as_entry(plan: WeightPlan) -> FrontEntry:
    """A point of the front, without agreement."""
    return FrontEntry(plan.size, round(plan.mean_bits, 3), round(min(plan.sqnr_db, 200.0), 2))
