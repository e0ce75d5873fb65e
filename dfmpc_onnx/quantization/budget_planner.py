"""From a table of damages and bytes to one width for each weight, under what the user asked for.

Damages are taken to add up (docs/method.md, section 8), and so are bytes, but for what weights share: of the plans that
no other beats row by row the best is taken whose whole file is under what was asked for.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.numerics.bit_budget import BudgetFront, Choice, WeightOptions
from dfmpc_onnx.pipeline.facts import BitPlan, LayerBits
from dfmpc_onnx.pipeline.settings import FLOAT, TERNARY, WeightBudget
from dfmpc_onnx.pipeline.weight_plan import PlannedWidths, PlanRow, PlanTable, WeightPlan, Width
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.storage_costs import mean_bits, perhaps_wider, predicted_bytes, stored_bits

PARTS = 15  # of a bit, so that 1.6 and 8 / 3 are whole


class BudgetPlanner:
    """Answers questions about one table; its fronts are found once."""

    def __init__(self, table: PlanTable, most_float: int = 0) -> None:
        """most_float: how many weights may stay in float."""
        self.table = table
        self._most_float = most_float

    @functools.cached_property
    def _front(self) -> BudgetFront:
        return BudgetFront([_item(row.sizes, row.damages, row.widths) for row in self.table.rows], self._most_float)

    @functools.cached_property
    def _bits_front(self) -> BudgetFront:
        opset = self.table.opset
        sizes = [
            tuple(round(stored_bits(row.weights, w, opset, row.run_at(w)) * PARTS) * row.weights for w in row.widths)
            for row in self.table.rows
        ]
        pairs = zip(self.table.rows, sizes, strict=True)
        return BudgetFront([_item(size, row.damages, row.widths) for row, size in pairs], self._most_float)

    def plan(self, budget: WeightBudget, damage: float) -> tuple[WeightPlan, bool]:
        """The widths for a budget, and whether they keep to it; those of least damage where they cannot.

        damage: what all weights together may cost an output where the budget states no SQNR and no size.
        Raises OptionError, with the smallest possible size, where a size or mean is impossible; of a size only where
        the rest of the file is known from one that was built, else the smallest plan is given.
        """
        if budget.mean_bits is not None and budget.size is None:
            return self._within_mean(budget.mean_bits, budget.min_sqnr)
        try:
            found, kept = self._whole(budget, damage)
        except OptionError:
            return self._without_codebooks(budget, damage)
        table = self.table
        # What a codebook's table takes stands in no row: without it the rows may be larger, and the file smaller.
        for width in _widths_of_blocks(table, found) if kept else ():
            try:
                other, fits = BudgetPlanner(_without_blocks(table, width), self._most_float)._whole(budget, damage)
            except OptionError:  # a size that needs them
                continue
            if fits and (other.size < found.size if budget.size is None else other.damage < found.damage):
                found, table = other, _without_blocks(table, width)
        return _widened(table, found), kept

    def _without_codebooks(self, budget: WeightBudget, damage: float) -> tuple[WeightPlan, bool]:
        """The plan for a size that is below that of every plan with codebooks: their tables may take more than they
        save. Raises OptionError where no plan is so small."""
        bare = self.table
        for width in dict.fromkeys(width for row in bare.rows for width in row.widths if row.run_at(width)):
            bare = _without_blocks(bare, width)
        planner = BudgetPlanner(bare, self._most_float)
        smaller = planner if planner.smallest.size < self.smallest.size else self
        found, kept = smaller._whole(budget, damage)
        return _widened(bare, found), kept

    def _whole(self, budget: WeightBudget, damage: float) -> tuple[WeightPlan, bool]:
        """As `plan`, a budget of bytes or damage, with all that the table allows."""
        if budget.size is not None:
            return self._within_size(budget.size, budget)
        wanted = damage if budget.min_sqnr is None else self.table.noise.damage_at(budget.min_sqnr)
        found = self._front.within_damage(wanted - self.table.floor)
        return (self._as_plan(found), True) if found is not None else (self.best, False)

    @property
    def best(self) -> WeightPlan:
        """The widths of least damage."""
        return self._as_plan(self._front[len(self._front) - 1])

    @property
    def smallest(self) -> WeightPlan:
        """The widths of fewest bytes."""
        return self._as_plan(self._front[0])

    def spread(self, count: int) -> list[WeightPlan]:
        """At most so many plans from the smallest file to the least damage, about evenly spaced in the size's log."""
        return [self._as_plan(choice) for choice in self._front.spread(count)]

    def _within_size(self, size: int, budget: WeightBudget) -> tuple[WeightPlan, bool]:
        least, min_sqnr = self.smallest.size, budget.min_sqnr
        if size < least:
            if budget.other_bytes is None:
                return self.smallest, min_sqnr is None or self.smallest.sqnr_db >= min_sqnr
            tenths = -(-1000 * rounded_up(least) // max(budget.float_bytes, 1))  # never less, as the bytes
            share = f", {tenths / 10:g} % of the float file" if budget.float_bytes else ""
            raise OptionError(
                f"max-size {budget.stated_size or size}: the smallest possible file takes about {rounded_up(least)} "
                f"bytes{share}; give at least that"
            )
        # What weights share comes on top of the rows' bytes, never off: so the search goes down from there.
        position = self._front.position_within_size(size - self.table.other_bytes)
        while predicted_bytes(self.table, self._widths(self._front[position])) > size:
            position -= 1
        plan = self._as_plan(self._front[position])
        return plan, min_sqnr is None or plan.sqnr_db >= min_sqnr

    def _within_mean(self, wanted: float, min_sqnr: float | None) -> tuple[WeightPlan, bool]:
        weights = self.table.other_weights + sum(row.weights for row in self.table.rows)
        budget = (wanted * weights - self.table.other_bits) * PARTS
        found = self._bits_front.within_size(budget * (1 + 1e-12))
        if found is None:
            least = mean_bits(self.table, self._widths(self._bits_front[0]))
            raise OptionError(f"mean-bits {wanted:g}: no plan has fewer than {least:.2f}; give at least that")
        plan = self._as_plan(found)
        return plan, min_sqnr is None or plan.sqnr_db >= min_sqnr

    def _widths(self, choice: Choice) -> tuple[Width, ...]:
        return tuple(row.widths[i] for row, i in zip(self.table.rows, choice.options, strict=True))

    def _as_plan(self, choice: Choice) -> WeightPlan:
        return plan_of(self.table, self._widths(choice))


def _widened(table: PlanTable, plan: WeightPlan) -> WeightPlan:
    """A plan with more bits where the file is not larger for them."""
    for index, width in perhaps_wider(table, plan.widths):
        other = plan_of(table, (*plan.widths[:index], width, *plan.widths[index + 1 :]))
        if other.size <= plan.size and other.damage <= plan.damage:
            plan = other
    return plan


def _widths_of_blocks(table: PlanTable, plan: WeightPlan) -> list[Width]:
    """The widths at which a plan has blocks of a codebook."""
    pairs = zip(table.rows, plan.widths, strict=True)
    return list(dict.fromkeys(width for row, width in pairs if row.run_at(width)))


def _without_blocks(table: PlanTable, width: Width) -> PlanTable:
    """The table without what needs the codebook of a width."""
    rows = []
    for row in table.rows:
        kept = [index for index, own in enumerate(row.widths) if own != width or not row.run_at(own)]
        rows.append(
            dataclasses.replace(
                row,
                widths=tuple(row.widths[index] for index in kept),
                losses=tuple(row.losses[index] for index in kept),
                damages=tuple(row.damages[index] for index in kept),
                sizes=tuple(row.sizes[index] for index in kept),
                runs=tuple(row.runs[index] for index in kept if row.runs),
            )
        )
    return dataclasses.replace(table, rows=tuple(rows))


def plan_of(table: PlanTable, widths: tuple[Width, ...]) -> WeightPlan:
    """What is predicted of a setting of all rows."""
    pairs = zip(table.rows, widths, strict=True)
    damage = table.floor + sum(row.damages[row.widths.index(width)] for row, width in pairs)
    return WeightPlan(widths, damage, predicted_bytes(table, widths), mean_bits(table, widths), table.noise)


def whys_of(table: PlanTable, plan: WeightPlan) -> dict[str, str]:
    """What decided the width of each layer, in words: its damage, and that of the next smaller form."""
    pairs = zip(table.rows, plan.widths, strict=True)
    whys = {row.layers: _why(row, row.widths.index(width)) for row, width in pairs}
    return {name: why for names, why in whys.items() for name in names}


def _why(row: PlanRow, chosen: int) -> str:
    said = f"adds {percent(row.damages[chosen])} to the output's error"
    smaller = [index for index, size in enumerate(row.sizes) if size < row.sizes[chosen]]
    if not smaller:
        return said
    next_smaller = max(smaller, key=lambda index: row.sizes[index])
    width = row.widths[next_smaller]
    return (
        f"{said}, {width if isinstance(width, str) else f'{width} bits'} would add {percent(row.damages[next_smaller])}"
    )


def planned(table: PlanTable, plan: WeightPlan) -> Iterator[tuple[PlanRow, Width, LayerBits]]:
    """Each row of a table with its width in a plan, as layers are given it."""
    whys = whys_of(table, plan)
    for row, width in zip(table.rows, plan.widths, strict=True):
        yield row, width, planned_bits(width, whys[row.layers[0]])


def take_plan(workspace: Workspace, table: PlanTable, plan: WeightPlan) -> None:
    """Give the layers of a workspace the widths of a plan, and keep the plan as a fact."""
    layers = dict(workspace.get(BitPlan).layers)
    for row, _, bits in planned(table, plan):
        layers.update(dict.fromkeys(row.layers, bits))
    workspace.put(dataclasses.replace(workspace.get(BitPlan), layers=layers))
    workspace.put(PlannedWidths(table, plan))


def planned_bits(width: Width, why: str) -> LayerBits:
    """A width with its role: low up to 3 bits, then the layer is repaired where it can be."""
    if width == FLOAT:
        return LayerBits(FLOAT, "float", why, "planned-float")
    low = width == TERNARY or float(width) <= 3
    return LayerBits(width, "low" if low else "8-bit" if width == 8 else "high", why)


def rounded_up(count: int) -> int:
    """A number of bytes to three digits, never less: what is predicted is good to a percent."""
    unit: int = 10 ** max(len(str(count)) - 3, 0)
    return -(-count // unit) * unit


def width_name(width: Width) -> str:
    """A width in words."""
    return str(width) if isinstance(width, str) else f"{width:g} bits"


def percent(part: float) -> str:
    """A share in percent, two digits: ``0.03 %``."""
    return f"{100 * part:.2g} %" if part >= 1e-6 else "under 0.0001 %"


def with_other_bytes(table: PlanTable, plan: WeightPlan, built: int) -> PlanTable:
    """The table as a file shows that was built by a plan of it. built: bytes of that file."""
    return dataclasses.replace(table, other_bytes=table.other_bytes + built - predicted_bytes(table, plan.widths))


def _item(sizes: tuple[int, ...], damages: tuple[float, ...], widths: tuple[Width, ...]) -> WeightOptions:
    counted = np.array([width == FLOAT for width in widths])
    return WeightOptions(np.array(sizes, np.int64), np.array(damages, np.float64), counted)
