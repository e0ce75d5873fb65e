"""Choose the width of every free weight at once, under one budget for all."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from dfmpc_onnx.pipeline.facts import BitPlan, Layers, Sensitivity
from dfmpc_onnx.pipeline.manager import Figure, Pass, PassResult, Rewrite
from dfmpc_onnx.pipeline.weight_plan import PlannedWidths, WeightPlan
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.budget_planner import BudgetPlanner, percent, planned, take_plan, width_name
from dfmpc_onnx.quantization.storage_costs import table_of


class PlanBitsOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """damage: the share of the output that suffers most which all weights together may cost, where the user states no
    size and no SQNR."""

    damage: Annotated[float, msgspec.Meta(gt=0)] = 0.005


class PlanBits(Pass[PlanBitsOptions]):
    """Before: a bit plan whose free layers wait for their width, and the table of what each width does
    After: the widths of fewest bytes whose damages add up to the budget; or of least damage in so many bytes

    Why: min sum_l bytes(l, b_l) with sum_l damage(l, b_l) <= D, or the other way round: a multiple-choice knapsack,
    solved exactly. One threshold for every layer spends bits where they buy little.

    Requires: a bit plan, the table of sensitivities, the layers.

    Refuses when: never; where not even the widest codes keep to the budget they are taken, with a warning. A size that
    is impossible is the user's mistake, with the smallest that there is.

    Reference: docs/method.md, section 8; Nemhauser and Ullmann 1969 for the knapsack.
    """

    name = "plan_bits"
    Options = PlanBitsOptions
    requires: ClassVar = (BitPlan, Sensitivity, Layers)
    provides: ClassVar = (BitPlan, PlannedWidths)

    def run(self, workspace: Workspace) -> PassResult:
        budget = workspace.settings.budget
        table = table_of(workspace, 0, budget.other_bytes, budget.noise)
        plan, kept = BudgetPlanner(table, budget.most_float).plan(budget, self.options.damage)
        rewrites = []
        for row, width, bits in planned(table, plan):
            figures: dict[str, Figure] = {"why": bits.why, "damage": row.damages[row.widths.index(width)]}
            rewrites += [Rewrite(name, width_name(width), figures) for name in row.layers]
        take_plan(workspace, table, plan)
        note = (
            f"all weights together cost {percent(plan.damage)} of the output, at {plan.mean_bits:.2f} bits on average"
        )
        return PassResult(self.name, tuple(rewrites), notes=(note,), warnings=self._warnings(workspace, plan, kept))

    def _warnings(self, workspace: Workspace, plan: WeightPlan, kept: bool) -> tuple[str, ...]:
        if kept or not plan.widths:
            return ()
        budget = workspace.settings.budget
        if budget.min_sqnr is not None:
            within = f" within {budget}" if budget.size is not None or budget.mean_bits is not None else ""
            return (
                f"min-sqnr {budget.min_sqnr:g} is not reached{within}: {plan.sqnr_db:.1f} dB are predicted, "
                "the best that there is",
            )
        cost, may = percent(plan.damage), percent(self.options.damage)
        return (f"the widest codes cost {cost} of the output, more than the {may} that weights may; they are taken",)
