"""Choose the width of every free weight at once, under one budget for all."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, ClassVar

import msgspec

from dfmpc_onnx.pipeline.facts import BitPlan, LayerBits, Layers, Sensitivity
from dfmpc_onnx.pipeline.manager import Figure, Pass, PassResult, Rewrite
from dfmpc_onnx.pipeline.settings import FLOAT, TERNARY
from dfmpc_onnx.pipeline.weight_plan import PlannedWidths, PlanRow, PlanTable, WeightPlan, Width
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.budget_planner import BudgetPlanner
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
        table = table_of(workspace, 0, budget.other_bytes)
        plan, kept = BudgetPlanner(table, budget.most_float).plan(budget, self.options.damage)
        layers = dict(workspace.get(BitPlan).layers)
        rewrites = []
        for row, width, bits in planned(table, plan):
            layers.update(dict.fromkeys(row.layers, bits))
            figures: dict[str, Figure] = {"why": bits.why, "damage": row.damages[row.widths.index(width)]}
            rewrites += [Rewrite(name, width_name(width), figures) for name in row.layers]
        workspace.put(dataclasses.replace(workspace.get(BitPlan), layers=layers))
        workspace.put(PlannedWidths(table, plan))
        note = f"all weights together cost {share(plan.damage)} of the output, at {plan.mean_bits:.2f} bits on average"
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
        cost, may = share(plan.damage), share(self.options.damage)
        return (f"the widest codes cost {cost} of the output, more than the {may} that weights may; they are taken",)


def planned(table: PlanTable, plan: WeightPlan) -> Iterator[tuple[PlanRow, Width, LayerBits]]:
    """Each row of a table with its width in a plan, as layers are given it."""
    for row, width in zip(table.rows, plan.widths, strict=True):
        part = share(row.damages[row.widths.index(width)])
        yield row, width, planned_bits(width, f"adds {part} to the output's error")


def planned_bits(width: Width, why: str) -> LayerBits:
    """A width with its role: low up to 3 bits, then the layer is repaired where it can be."""
    if width == FLOAT:
        return LayerBits(FLOAT, "float", why, "planned-float")
    low = width == TERNARY or int(width) <= 3
    return LayerBits(width, "low" if low else "8-bit" if width == 8 else "high", why)


def width_name(width: Width) -> str:
    """A width in words."""
    return f"{width} bits" if isinstance(width, int) else str(width)


def share(part: float) -> str:
    """A share in percent, two digits: ``0.03 %``."""
    return f"{100 * part:.2g} %" if part >= 1e-6 else "under 0.0001 %"
