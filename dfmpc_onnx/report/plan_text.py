"""Plans of bits as tables for people. Names from a model are data, never markup."""

from __future__ import annotations

from rich.console import Console

from dfmpc_onnx.pipeline.plan_file import FrontEntry, PlannedLayer, PlanRecord
from dfmpc_onnx.report.tables import figures, listing, megabytes, plain, table


def plan_table(record: PlanRecord, agreement: FrontEntry | None, output: str | None, console: Console) -> None:
    """The width of each layer, what the plan is predicted to take and to lose, and the front where there is one."""
    listing(
        console,
        ("layer", "bits", "adds to the error"),
        [(entry.layer, entry.bits, _part(entry)) for entry in record.layers],
        right=("bits",),
    )
    if record.front:
        console.print()
        front_table(record.front, console)
    times = f" ({record.float_bytes / record.bytes:.2f}x smaller)" if record.bytes and record.float_bytes else ""
    rows = [
        ("asked", record.asked or "the recipe's own budget"),
        ("predicted size", f"{megabytes(record.bytes or 0)}{times}"),
        ("mean bits per weight", f"{record.mean_bits or 0:.2f}"),
        ("predicted SQNR", f"{record.sqnr_db or 0:.1f} dB, by what a file showed on procedural inputs"),
        ("estimated by", f"{record.estimator}, {record.inputs}" if record.inputs else record.estimator),
    ]
    if agreement is not None:
        rows.append(("agreement", f"{_agreement(agreement)} on images that no statistics came from"))
    if output is not None:
        rows.append(("written", output))
    console.print()
    console.print(figures(rows))


def front_table(front: list[FrontEntry], console: Console) -> None:
    """Bytes, mean bits and predicted SQNR of each point; agreement where images were given."""
    judged = any(entry.agreement is not None for entry in front)
    columns = ["size", "bits", "SQNR (dB)", *(["agreement"] if judged else [])]
    made = table(*columns, right=columns[:3])
    for entry in front:
        cells = [megabytes(entry.bytes), f"{entry.mean_bits:.2f}", f"{entry.sqnr_db:.1f}"]
        made.add_row(*plain(*cells, *([_agreement(entry)] if judged else [])))
    console.print(made)


def _part(entry: PlannedLayer) -> str:
    return entry.why if entry.damage is None else f"{100 * entry.damage:.2g} %"


def _agreement(entry: FrontEntry) -> str:
    if entry.agreement is None or entry.interval is None:
        return ""
    return f"{entry.agreement:g} % ({entry.interval[0]:g} to {entry.interval[1]:g})"
