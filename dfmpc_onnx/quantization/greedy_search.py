"""Widths by the bidirectional greedy search of Tang et al. 2024, by inference alone; beside the knapsack.

From the widest codes on, each step tries to move every weight one width down and one up, runs the network with all
weights of that setting, and takes the move of least ``1.5 error' + size'``, both scaled to 0..1 over the moves
of the step; it ends when the size is small enough. This is the search of the paper's code, with its factor 1.5.

What differs: the paper searches widths of activations after those of weights, here activations have one width. Its
error is that of labels on a fresh batch for each step; here it is the damage to the outputs, on inputs that no table
was made from, the same for all steps. Its network was trained for all widths at once; here weights are rounded. Two
moves that undo each other may follow one another for ever; a setting that was left is not entered again.

Reference: C. Tang et al., Retraining-free Model Quantization via One-Shot Weight-Coupling Learning, CVPR 2024
(arXiv 2401.01543), inference-only search.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from dfmpc_onnx.pipeline.settings import FLOAT, BitWidth, WeightBudget
from dfmpc_onnx.pipeline.weight_plan import PlanTable, Width
from dfmpc_onnx.quantization.budget_planner import BudgetPlanner
from dfmpc_onnx.quantization.storage_costs import predicted_bytes

ERROR_FACTOR = 1.5  # the paper's weight of the error against the size
MOST_SEARCH_RUNS = 2000  # of the network; a search of 50 layers takes five times as many

DamageOf = Callable[[Mapping[str, BitWidth]], float]


@dataclasses.dataclass(frozen=True)
class Searched:
    """Where a search ended. finished: whether it is small enough; not where runs ran out, or it was
    interrupted. damage: as measured, all weights together. steps, runs: how many were made, and how often the network
    was run."""

    widths: tuple[Width, ...]
    size: int
    damage: float
    finished: bool
    steps: int
    runs: int


def greedy_search(
    table: PlanTable,
    size: int,
    damage_of: DamageOf,
    tell: Callable[[str], None] = lambda line: None,
    most_runs: int = MOST_SEARCH_RUNS,
    late: Callable[[], bool] = lambda: False,
) -> Searched:
    """Widths for each row of a table whose file takes at most `size` bytes.

    damage_of: of widths by layer name. tell: called with a line on how far it is. A step that would take the search
    beyond most_runs is not made, and none once it is late. An interrupt (Ctrl-C) ends it with what it has reached.
    """
    choices = [tuple(width for width in row.widths if width != FLOAT) for row in table.rows]
    at = [len(widths) - 1 for widths in choices]
    seen = {tuple(at)}
    steps = runs = 0
    damage, began = 0.0, time.monotonic()
    first = now = predicted_bytes(table, _widths(choices, at))
    try:
        while now > size and not late():
            moves = [move for move in _moves(choices, at) if tuple(move) not in seen]
            if not moves or runs + len(moves) > most_runs:
                break
            found = []
            for move in moves:
                widths = _widths(choices, move)
                found.append((damage_of(_by_layer(table, widths)), predicted_bytes(table, widths), move))
                runs += 1
            damage, now, at = _best(found)
            seen.add(tuple(at))
            steps += 1
            left = (time.monotonic() - began) * max(now - size, 0) / max(first - now, 1)
            tell(f"greedy step {steps}: {now} bytes of {size}, about {left:.0f} s left")
    except KeyboardInterrupt as stop:
        if type(stop) is not KeyboardInterrupt:  # of the command line's: the process is to end, not the search
            raise
    return Searched(_widths(choices, at), now, damage, now <= size, steps, runs)


def completed(table: PlanTable, searched: Searched, size: int) -> tuple[Width, ...]:
    """Widths of least damage in so many bytes by the table, none above those where a search ended.

    Raises OptionError where the smallest widths take more.
    """
    rows = []
    for row, reached in zip(table.rows, searched.widths, strict=True):
        kept = row.widths.index(reached) + 1
        rows.append(
            dataclasses.replace(
                row,
                widths=row.widths[:kept],
                losses=row.losses[:kept],
                damages=row.damages[:kept],
                sizes=row.sizes[:kept],
            )
        )
    planner = BudgetPlanner(dataclasses.replace(table, rows=tuple(rows)))
    return planner.plan(WeightBudget(size=size, other_bytes=table.other_bytes), 0.0)[0].widths


def _moves(choices: Sequence[Sequence[Width]], at: Sequence[int]) -> Iterator[list[int]]:
    """The settings one width away: down, then up, row by row."""
    for row, position in enumerate(at):
        for there in (position - 1, position + 1):
            if 0 <= there < len(choices[row]):
                yield [*at[:row], there, *at[row + 1 :]]


def _best(found: Sequence[tuple[float, int, list[int]]]) -> tuple[float, int, list[int]]:
    """The move of least weighted sum of error and size, each over the range of all moves; the first of equal ones."""
    errors, sizes = [error for error, _, _ in found], [size for _, size, _ in found]
    error_span, size_span = max(errors) - min(errors), max(sizes) - min(sizes)

    def score(item: tuple[float, int, list[int]]) -> float:
        error = (item[0] - min(errors)) / error_span if error_span else 0.0
        return ERROR_FACTOR * error + ((item[1] - min(sizes)) / size_span if size_span else 0.0)

    return min(found, key=score)


def _widths(choices: Sequence[Sequence[Width]], at: Sequence[int]) -> tuple[Width, ...]:
    return tuple(widths[position] for widths, position in zip(choices, at, strict=True))


def _by_layer(table: PlanTable, widths: Sequence[Width]) -> dict[str, BitWidth]:
    pairs = zip(table.rows, widths, strict=True)
    return {name: width for row, width in pairs if width != FLOAT for name in row.layers}
