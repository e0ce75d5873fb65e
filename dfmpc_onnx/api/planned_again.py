"""Another budget met from the table of a plan file, without a run of the network."""

from __future__ import annotations

import dataclasses
import os
import pathlib

import msgspec

from dfmpc_onnx import catalog
from dfmpc_onnx.api.agreement import as_entry
from dfmpc_onnx.errors import OptionError, RecipeError, shown
from dfmpc_onnx.model.source import ModelSource, load
from dfmpc_onnx.pipeline.plan_file import PlanRecord, record_of
from dfmpc_onnx.pipeline.recipe_file import RecipeText, plan_in
from dfmpc_onnx.pipeline.settings import WeightBudget
from dfmpc_onnx.quantization.budget_planner import BudgetPlanner, whys_of


def plan_again(
    path: str | os.PathLike[str], model: ModelSource | None, budget: WeightBudget, pareto: int
) -> tuple[PlanRecord, str]:
    """The plan for another budget, and the recipe that it extends. model: checked against the plan's where given."""
    text = RecipeText.of(pathlib.Path(path))
    record, extends = plan_in(text, catalog.LIBRARY)
    where = shown(str(path))
    if model is not None and record.sha256:
        source = load(model)
        if source.sha256 != record.sha256:
            raise RecipeError(f"{where}: made for another model than {source.label} (its sha256 differs); plan anew")
    table = record.plan_table(where)
    if budget.size is None and budget.share is None and budget.mean_bits is None and budget.min_sqnr is None:
        if not pareto:
            raise OptionError("from: say what the new plan is for: --max-size, --mean-bits, --min-sqnr or --pareto")
        budget = WeightBudget(size=record.bytes, most_float=budget.most_float)
    asked = budget
    budget = dataclasses.replace(budget.of_file(record.float_bytes), other_bytes=table.other_bytes)
    planner = BudgetPlanner(table, budget.most_float)
    plan, kept = planner.plan(budget, 0.0)
    if not kept:
        raise OptionError(f"{asked}: not reached; {plan.sqnr_db:.1f} dB are the best that is predicted")
    front = [as_entry(point) for point in planner.spread(pareto)] if pareto else record.front
    planned = {name for row in table.rows for name in row.layers}
    kept_layers = [entry for entry in record.layers if entry.layer not in planned and not _is_pattern(entry.layer)]
    made = record_of(
        table,
        plan,
        whys_of(table, plan),
        front,
        model=record.model,
        sha256=record.sha256,
        target=record.target,
        activations=record.activations,
        asked=str(asked),
        seed=record.seed,
    )
    return msgspec.structs.replace(made, layers=[*made.layers, *kept_layers]), extends


def _is_pattern(name: str) -> bool:
    return any(character in name for character in "*?")
