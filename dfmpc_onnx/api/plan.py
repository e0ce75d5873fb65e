"""plan(): which bits each weight should get for a size, an SQNR or an agreement, as a file that quantize() takes."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Literal

import msgspec

from dfmpc_onnx import catalog
from dfmpc_onnx.api.agreement import Judge, as_entry
from dfmpc_onnx.api.boundary import GivenImages, GivenLayers, GivenRanges, GivenShapes, Path, as_path, public
from dfmpc_onnx.api.builds import NEAR, Builder, Built, as_model, check_plans, measured_noise
from dfmpc_onnx.api.intake import Intake, parse_settings, take_in
from dfmpc_onnx.api.planned_again import plan_again
from dfmpc_onnx.errors import OptionError, Unknown, shown
from dfmpc_onnx.inputs.image_places import check_place
from dfmpc_onnx.inputs.learned_file import refuse_learned
from dfmpc_onnx.inputs.preprocess import AUTO
from dfmpc_onnx.model.source import ModelSource, size_of
from dfmpc_onnx.model.write import check_target, save_text
from dfmpc_onnx.pipeline.deadline import SEARCHED, Deadline
from dfmpc_onnx.pipeline.facts import BitPlan, Sensitivity
from dfmpc_onnx.pipeline.plan_file import PLAN_FILE, FrontEntry, PlannedLayer, PlanRecord, plan_as_toml, record_of
from dfmpc_onnx.pipeline.progress import Progress, ProgressReport
from dfmpc_onnx.pipeline.recipe import DEFAULT_RECIPE
from dfmpc_onnx.pipeline.settings import ASKED, FLOAT, TERNARY, WeightBits, WeightBudget
from dfmpc_onnx.pipeline.weight_plan import PlannedWidths, PlanTable, WeightPlan, Width
from dfmpc_onnx.quantization.budget_planner import BudgetPlanner, plan_of, whys_of, with_other_bytes
from dfmpc_onnx.quantization.greedy_search import completed, greedy_search
from dfmpc_onnx.quantization.joint_damage import JointDamage
from dfmpc_onnx.quantization.statistics_source import statistics_source
from dfmpc_onnx.quantization.storage_costs import with_built_forms
from dfmpc_onnx.runtime.threads import takes_threads

MOST_MEASURED = 3  # files that are built and run for a plan, each planned by what the one before showed
# Options of `plan` that say how a network is run: their names on the command line, and what they are if not given.
OF_A_RUN: Mapping[str, tuple[str, object]] = {
    "layers": ("--layer", ()),
    "images": ("--images", None),
    "input_shapes": ("--input-shape", ()),
    "input_ranges": ("--input-range", ()),
    "search": ("--search", "knapsack"),
    "target": ("--target", "cpu"),
    "recipe": ("--recipe", DEFAULT_RECIPE),
    "activations": ("--activations", None),
    "preprocess": ("--preprocess", AUTO),
    "seed": ("--seed", 0),
    "reduce_range": ("--reduce-range", None),
    "max_seconds": ("--max-seconds", None),
}
MOST_FITTED = 3  # that are built until the plan of a size is one whose bytes are known
ALIKE_DB = 0.3  # between the plan of such a file and the next, which is then not built
NAME_SLACK = 64  # bytes: the name of a plan file is longer than that of the recipe
Search = Literal["knapsack", "greedy"]


class Planned(msgspec.Struct, frozen=True):
    """What `plan` found. record: the plan as its file states it, with the front where one was asked for. text: the
    file. warnings: what asks for the user's attention. agreement: of this plan, where images were given."""

    record: PlanRecord
    text: str
    warnings: tuple[str, ...] = ()
    agreement: FrontEntry | None = None

    def __repr__(self) -> str:
        found = self.record
        sizes = f"{found.bytes} bytes, {found.mean_bits or 0:.2f} bits a weight, SQNR {found.sqnr_db or 0:.1f} dB"
        return f"Planned({len(found.layers)} layers, {sizes})"


JUDGING_SEED = 7919  # beside that of a run: of inputs that the greedy search judges settings on


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What the user wants of a plan."""

    budget: WeightBudget
    min_agreement: float | None
    pareto: int
    search: Search
    images: str | os.PathLike[str] | None

    def check(self) -> None:
        if self.search == "greedy" and (self.min_agreement is not None or self.images is not None):
            given = "min-agreement" if self.min_agreement is not None else "images"
            raise OptionError(f"{given} and search greedy: that search judges no plan on images; leave one of them out")
        if self.min_agreement is not None and self.images is None:
            raise OptionError("min-agreement: only images of yours can show it; give --images")
        if self.min_agreement is not None and not 0 < self.min_agreement < 100:
            raise OptionError(f"min-agreement {self.min_agreement:g}: give percent between 0 and 100")
        if self.min_agreement is not None and dataclasses.replace(self.budget, most_float=0).asked:
            raise OptionError(f"min-agreement and {self.budget}: each decides the size; give one of them")
        if self.pareto == 1 or self.pareto < 0:
            raise OptionError(f"pareto {self.pareto}: give at least 2 points")
        if self.search not in ("knapsack", "greedy"):
            raise OptionError(f"search '{self.search}': not known; give knapsack or greedy")
        check_place(self.images)
        refuse_learned(self.images)

    def __str__(self) -> str:
        agreement = f"min-agreement {self.min_agreement:g}" if self.min_agreement is not None else ""
        return ", ".join(filter(None, (str(self.budget), agreement)))


@public
@takes_threads
def plan(
    model: ModelSource | None = None,
    output: Path | None = None,
    recipe: Path = DEFAULT_RECIPE,
    *,
    max_size: str | int | None = None,
    mean_bits: float | None = None,
    min_sqnr: float | None = None,
    max_float_layers: int = 0,
    min_agreement: float | None = None,
    pareto: int = 0,
    search: Search = "knapsack",
    table_from: Path | None = None,
    activations: str | int | None = None,
    layers: GivenLayers = (),
    reduce_range: bool | None = None,
    target: str = "cpu",
    preprocess: str = AUTO,
    input_shapes: GivenShapes = (),
    input_ranges: GivenRanges = (),
    images: GivenImages | None = None,
    seed: int = 0,
    progress: ProgressReport | None = None,
    threads: int | None = None,
    force: bool = False,
    max_seconds: float | None = None,
) -> Planned:
    """Choose bits for all weights of a float model under one budget.

    output: where to write the plan (.toml), whole or not at all. force: over a file that is no plan, too. max_size,
    mean_bits, min_sqnr, max_float_layers: as for `quantize`; the recipe's own budget where none is given.
    min_agreement: percent; the smallest file of which 95 % intervals say that it agrees as often with the float model
    on `images`, which statistics do not see. pareto: how many points of the front to store. search: "greedy" measures
    all weights together, step by step (`greedy_search`). table_from: a plan file whose table is planned from, without a
    run of the network; the model may then be None. max_seconds: as for `quantize`. The other options are those of
    `quantize`. Raises UserError.
    """
    deadline = Deadline(max_seconds)
    budget = WeightBudget.parse(max_size, mean_bits, min_sqnr, max_float_layers)
    asked = _Asked(budget, min_agreement, pareto, search, as_path(images))
    asked.check()
    _check_output(output, force=force)
    if table_from is not None:
        _check_alone(locals())
        return _written(_again(pathlib.Path(table_from), model, budget, pareto, output), output)
    if model is None:
        raise OptionError("plan: give a model, or a plan file with --from")
    pipeline = catalog.build(chosen := catalog.find_recipe(recipe))
    settings = parse_settings(
        chosen, None, activations, layers, preprocess, input_shapes, input_ranges, seed, None, reduce_range, target
    )
    settings = dataclasses.replace(settings, weights=WeightBits.parse("auto"), budget=budget)
    taken = take_in(model, None, chosen, pipeline, settings, preprocess, Progress(progress))
    taken.workspace.deadline = deadline
    if output is not None:
        check_target(output, taken.source)
    return _written(_Planner(taken, asked, _extends(os.fspath(recipe), output)).run(), output)


def _again(
    path: pathlib.Path, model: ModelSource | None, budget: WeightBudget, pareto: int, output: Path | None
) -> Planned:
    """From the table of a plan file, whose recipe it names from its own folder."""
    record, extends = plan_again(path, model, budget, pareto)
    if extends.endswith(".toml"):
        extends = _extends(os.fspath(path.parent / extends), output)
    return Planned(record, plan_as_toml(record, extends))


def _check_alone(options: Mapping[str, object]) -> None:
    """Raise OptionError where options of a run are given, which a table alone cannot serve. options: of `plan`."""
    given = [option for name, (option, usual) in OF_A_RUN.items() if options[name] and options[name] != usual]
    if given:
        raise OptionError(f"from: plans from a table alone, as it was measured; leave out {', '.join(given)}")


def _check_output(output: str | os.PathLike[str] | None, *, force: bool) -> None:
    """Raise OptionError where a plan would be written under another name than a recipe's, or over what is no plan.

    force: whether it may be written over that.
    """
    if output is None:
        return
    if not str(output).lower().endswith(".toml"):  # by which --recipe knows it
        raise OptionError(f"{shown(str(output))}: a plan is a TOML file; give a name that ends in .toml")
    check_target(output, None, force=force, kind=PLAN_FILE)


def _extends(recipe: str, output: str | os.PathLike[str] | None) -> str:
    """The recipe as a plan beside the output names it."""
    if not recipe.endswith(".toml") or output is None:
        return recipe
    return os.path.relpath(recipe, pathlib.Path(output).resolve().parent)


def _written(planned: Planned, output: str | os.PathLike[str] | None) -> Planned:
    if output is not None:
        save_text(planned.text, output)
    return planned


class _Planner:
    """Plans for one intake."""

    def __init__(self, taken: Intake, asked: _Asked, extends: str) -> None:
        self._taken, self._asked, self._extends = taken, asked, extends
        self._workspace = taken.workspace
        self._builder = Builder(taken)
        self._warnings: list[str] = []

    def run(self) -> Planned:
        check_plans(self._builder, "plan", self._taken.recipe.name)
        self._check_search()
        judge = None
        self._builder.measure()
        if self._asked.images is not None:
            judge = Judge(self._taken, self._builder, self._asked.images)
            if self._asked.min_agreement is not None:
                judge.require(self._asked.min_agreement)
        table, plan = self._plan()
        agreement = None
        most_float = self._asked.budget.most_float
        if self._asked.search == "greedy":
            plan = self._searched(table, plan)
        elif judge is not None and self._asked.min_agreement is not None:
            plan, agreement, reached = judge.smallest(table, self._asked.min_agreement, most_float)
            if not reached:
                self._warnings.append(f"min-agreement {self._asked.min_agreement:g} is not reached; the best plan is")
        elif judge is not None:
            agreement = judge.judged(table, plan)
        front = self._front(table, judge)
        record = self._record(table, plan, front)
        warnings = (*self._taken.choice.warnings, *self._warnings, *self._workspace.deadline.warnings)
        return Planned(record, plan_as_toml(record, self._extends), warnings, agreement)

    def _check_search(self) -> None:
        """Raise OptionError where the recipe's statistics cannot tell what a search asks."""
        found = [step.options for step in self._taken.pipeline if Sensitivity in step.provides]
        if self._asked.search == "greedy" and "gaussian" in [getattr(one, "statistics", "") for one in found]:
            raise self._cannot_search("covariance functions alone")

    def _cannot_search(self, why: object) -> OptionError:
        name = self._taken.recipe.name
        return OptionError(f"search greedy: it runs the network, which recipe {name} cannot ({why}); leave it out")

    def _plan(self) -> tuple[PlanTable, WeightPlan]:
        """The table, right about the rest of the file and about noise since one was built, and the plan for the
        budget."""
        budget = self._workspace.settings.budget
        made = self._builder.build_with(budget)
        found = self._workspace.get(PlannedWidths)
        table = dataclasses.replace(found.table, float_bytes=self._taken.source.size)
        table = self._with_bytes(table, found.plan, made)
        budget = dataclasses.replace(budget, other_bytes=table.other_bytes)
        options = next(step.options for step in self._taken.pipeline if PlannedWidths in step.provides)
        built, damage = found.plan.widths, getattr(options, "damage", 0.0)
        for _ in range(MOST_MEASURED):
            table = self._with_noise(table, made)
            plan, kept = BudgetPlanner(table, budget.most_float).plan(budget, damage)
            if abs(plan.sqnr_db - plan_of(table, built).sqnr_db) <= ALIKE_DB or self._builder.late:
                break
            made, built = self._builder.build_plan(table, plan), plan.widths
            table = self._with_bytes(table, plan, made)
        if budget.size is not None:
            table, plan = self._fitted(table, plan, built, budget)
        if not kept and budget.min_sqnr is not None:
            self._warnings.append(f"min-sqnr {budget.min_sqnr:g} is not reached: {plan.sqnr_db:.1f} dB are predicted")
        return table, plan

    def _fitted(
        self, table: PlanTable, plan: WeightPlan, built: tuple[Width, ...], budget: WeightBudget
    ) -> tuple[PlanTable, WeightPlan]:
        """A plan whose bytes are those of a file that was built, from below within a percent of the size asked for; the
        largest of some that keep to it where none comes so near.

        built: the widths that bytes are known of. A weight may be stored in another form than its row says, since the
        best one is known only when it is rounded.
        """
        size, best = budget.size or 0, (table, plan)
        aim, kept = size, False
        for _ in range(MOST_FITTED):
            if plan.widths != built:
                if self._builder.late:
                    break
                made, built = self._builder.build_plan(table, plan), plan.widths
                table = self._with_bytes(table, plan, made)
            plan = plan_of(table, built)
            if plan.size <= size and (not kept or plan.size > best[1].size):
                best, kept = (table, plan), True
            if NEAR * size <= plan.size <= size:
                break
            aim -= max(plan.size - size, 0)  # after a file that is too large the next plan is for as much less
            other, _ = BudgetPlanner(table, budget.most_float).plan(dataclasses.replace(budget, size=aim), 0.0)
            if other.widths == built:
                break
            plan = other
        return best if kept else (table, plan)

    def _with_bytes(self, table: PlanTable, plan: WeightPlan, made: Built) -> PlanTable:
        """The table with the forms that weights have in a file that was built by a plan, and the rest of it as it is
        there."""
        found = with_built_forms(table, plan.widths, self._workspace)
        found = with_other_bytes(found, plan, size_of(as_model(self._taken, made.results)))
        other = max(found.other_bytes, 0) + statement_bytes(found)  # below 0 where weights fill the file
        return dataclasses.replace(found, other_bytes=other)

    def _with_noise(self, table: PlanTable, made: Built) -> PlanTable:
        """The table with what the file that was built last shows; as it is where that cannot be compared."""
        found = measured_noise(self._taken, made)
        return table if found is None else dataclasses.replace(table, noise=found[1])

    def _searched(self, table: PlanTable, plan: WeightPlan) -> WeightPlan:
        """A plan of the same size by the greedy search; where that ends too early, the knapsack goes on from there."""
        self._builder.rewind()
        step = next(step for step in self._taken.pipeline if Sensitivity in step.provides)
        statistics, images = getattr(step.options, "statistics", "images"), getattr(step.options, "images", 0)
        source = statistics_source(self._workspace, statistics, images)
        others = statistics_source(self._workspace, statistics, images, other_seed=JUDGING_SEED)
        try:
            damage_of = JointDamage(self._workspace, source, others)
            deadline = self._workspace.deadline
            found = greedy_search(
                table, plan.size, damage_of, self._workspace.tell, late=lambda: deadline.past(SEARCHED)
            )
        except Unknown as reason:
            raise self._cannot_search(reason) from None
        if not found.finished:
            where = f"{found.steps} steps in {found.runs} runs ended at {found.size} bytes of {plan.size}"
            self._warnings.append(f"search: {where}; the knapsack went on from there")
            return plan_of(table, completed(table, found, plan.size))
        return plan_of(table, found.widths)

    def _front(self, table: PlanTable, judge: Judge | None) -> list[FrontEntry]:
        if not self._asked.pareto:
            return []
        most_float = self._asked.budget.most_float
        plans = BudgetPlanner(table, most_float).spread(self._asked.pareto)
        if judge is None:
            return [as_entry(plan) for plan in plans]
        return judge.all_judged(table, plans)

    def _record(self, table: PlanTable, plan: WeightPlan, front: list[FrontEntry]) -> PlanRecord:
        self._builder.rewind()
        source, settings = self._taken.source, self._workspace.settings
        record = record_of(
            table,
            plan,
            whys_of(table, plan),
            front,
            model=source.path.name if source.path else "",
            sha256=source.sha256,
            target=settings.target.name,
            activations=settings.activations,
            asked=str(self._asked),
            seed=settings.seed,
        )
        return msgspec.structs.replace(record, layers=[*record.layers, *_fixed(self._workspace.get(BitPlan), table)])


def _fixed(bits: BitPlan, table: PlanTable) -> list[PlannedLayer]:
    """The layers that the user gave a width: the plan states them too, so that it is whole."""
    planned = {name for row in table.rows for name in row.layers}
    return [
        PlannedLayer(name, given.bits, given.why)
        for name, given in bits.layers.items()
        if name not in planned and (given.why == ASKED or given.bits != FLOAT)
    ]


def statement_bytes(table: PlanTable) -> int:
    """How much longer the statement of its making is in a file that a plan made, at most: it names every layer."""
    names = [name for row in table.rows for name in row.layers]
    entries = [{"layer": name, "bits": TERNARY} for name in names]
    return len(msgspec.json.encode({"layers": entries})) + NAME_SLACK
