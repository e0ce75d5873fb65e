"""What is printed about time: what a limit came to, and which islands of float take it."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from dfmpc_onnx.errors import printable, shown
from dfmpc_onnx.evaluation.island_times import IslandTime, LayerTime, TimeTable
from dfmpc_onnx.evaluation.time_trials import LatencyReport
from dfmpc_onnx.report.tables import listing, plain

MOST_ISLANDS, MOST_LAYERS, MOST_OPERATORS = 8, 10, 4
SAVES_LEGEND = (
    "saves: what integer kernels in its place would save, measured; below 0 they would take longer. -: it has none, "
    "or was not tried"
)
COSTS_LEGEND = "costs %: of the output, as 8-bit activations there would lose it on generated inputs"


def latency_rows(found: LatencyReport) -> list[tuple[str, str]]:
    """What a limit on time came to, and what it cost, as keys and values."""
    kept = "met" if found.met else "not met"
    times = f"{found.after_ms:.2f} ms a run on this machine, of {found.limit_ms:.2f} allowed: {kept}; "
    rows = [("time", f"{times}float {found.float_ms:.2f} ms")]
    if found.closed:
        before, after = (_noise(value) for value in (found.sqnr_before, found.sqnr_after))
        cost = f"{len(found.closed)} float islands closed save {found.before_ms - found.after_ms:.2f} ms; 8-bit "
        cost += f"activations alone: SQNR {before} before, {after} after"
        if found.agreeing_before is not None:
            cost += f"; largest output the same in {found.agreeing_before} and {found.agreeing_after} of "
            cost += f"{found.images} images"
        rows.append(("for it", cost))
    return rows


def _noise(decibels: float | None) -> str:
    return "-" if decibels is None else f"{decibels:.1f} dB"


def time_tables(found: TimeTable, console: Console) -> None:
    """Where the time of a run goes: islands of float, then layers, the slowest first."""
    whole, integer, rest = (f"{ms:.3f}" for ms in (found.ms, found.integer_ms, found.ms - found.integer_ms))
    console.print(
        *plain(
            f"{whole} ms a run on this machine ({found.fed}): {integer} in integers, {rest} in float and in steps from "
            "and to it"
        )
    )
    if found.islands:
        rows = [
            (_island(row), f"{row.ms:.3f}", f"{row.share:.1f}", _saves(row), _costs(row), _made_of(row))
            for row in found.islands
        ]
        more = len(rows) - MOST_ISLANDS
        console.print(Text("\nislands of float:\n"))
        columns = ("island", "ms", "%", "saves", "costs %", "of")
        listing(console, columns, rows[:MOST_ISLANDS], right=columns[1:-1])
        if more > 0:
            console.print(Text(f"... and {more} more, which --json lists"))
        console.print(Text(SAVES_LEGEND))
        if any(row.costs is not None for row in found.islands):
            console.print(Text(COSTS_LEGEND))
    if found.layers:
        console.print(Text("\nthe slowest layers:\n"))
        slow = [(row.name, f"{row.ms:.3f}", _integer(row), row.kernel) for row in found.layers[:MOST_LAYERS]]
        listing(console, ("layer", "ms", "in integers", "kernel"), slow, right=("ms", "in integers"))


def _island(row: IslandTime) -> str:
    if not row.layers:
        return "no layer"
    return row.layers[0] + (f" and {len(row.layers) - 1} more" if len(row.layers) > 1 else "")


def _made_of(row: IslandTime) -> str:
    counts = sorted(row.operators.items(), key=lambda item: -item[1])
    more = f", {len(counts) - MOST_OPERATORS} more" if len(counts) > MOST_OPERATORS else ""
    return ", ".join(f"{n} {shown(printable(op))}" for op, n in counts[:MOST_OPERATORS]) + more


def _saves(row: IslandTime) -> str:
    return "-" if row.saves_ms is None else f"{row.saves_ms:.3f}"


def _costs(row: IslandTime) -> str:
    return "-" if row.costs is None else f"{100 * row.costs:.2g}"


def _integer(row: LayerTime) -> str:
    return "-" if row.integer_ms is None else f"{row.integer_ms:.3f}"
