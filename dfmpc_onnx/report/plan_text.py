"""Plans of bits as tables for people. Names from a model are data, never markup."""

from __future__ import annotations

from rich.console import Console

from dfmpc_onnx.pipeline.plan_file import FrontEntry, PlanRecord
from dfmpc_onnx.report.layer_groups import loss_text
from dfmpc_onnx.report.tables import (
    figures,
    in_unit,
    listing,
    megabytes,
    plain,
    prose,
    rows_of_one_line,
    table,
    unit_of,
)

LOSS_LEGEND = "loss %: what the layer's bits add to the output's error, as a share of the output's power"
SET_LEGEND = "- where you or the target set the bits"


def plan_table(
    record: PlanRecord, agreement: FrontEntry | None, output: str | None, console: Console, *, verbose: bool = False
) -> None:
    """The width of each layer, what the plan is predicted to take and to lose.

    With a front, its points in their place; verbose: the layers too, each with its reason.
    """
    if verbose or not record.front:
        _layers(record, console, verbose)
    if record.front:
        _front(record, console)
    _figures(record, agreement, output, console)


def _layers(record: PlanRecord, console: Console, verbose: bool) -> None:
    columns, right = ("layer", "bits", "loss %"), ("bits", "loss %")
    rows = [
        (entry.layer, entry.bits, "-" if entry.damage is None else loss_text(entry.damage)) for entry in record.layers
    ]
    if verbose:
        listing(console, (*columns, "why"), [(*row, e.why) for row, e in zip(rows, record.layers, strict=True)], right)
    else:
        rows_of_one_line(console, columns, rows, right)
    console.print()
    is_set = any(entry.damage is None for entry in record.layers)
    prose(console, f"{LOSS_LEGEND}{f'; {SET_LEGEND}' if is_set else ''}")
    console.print()


def _front(record: PlanRecord, console: Console) -> None:
    front_table(record.front, console)
    middle = record.front[len(record.front) // 2]
    size = in_unit(middle.bytes, *unit_of([middle.bytes]), up=True).replace(" ", "")
    prose(console, f"take one: dfmpc-onnx quantize MODEL -o OUT --max-size {size}")
    console.print()


def _figures(record: PlanRecord, agreement: FrontEntry | None, output: str | None, console: Console) -> None:
    times = f" ({record.float_bytes / record.bytes:.2f}x smaller)" if record.bytes and record.float_bytes else ""
    figure_rows = [
        ("limit", record.asked or "none given: what the recipe lets the output lose"),
        ("predicted size", f"{megabytes(record.bytes or 0)}{times}"),
        ("mean bits per weight", f"{record.mean_bits or 0:.2f}"),
        ("predicted SQNR", f"{record.sqnr_db or 0:.1f} dB, from a trial file run on generated inputs"),
        ("estimated by", f"{record.estimator}, {record.inputs}" if record.inputs else record.estimator),
    ]
    if agreement is not None:
        figure_rows.append(("agreement", f"{_agreement(agreement)} on images that no statistics came from"))
    if output is not None:
        figure_rows.append(("written", output))
    figures(console, figure_rows)
    if output is not None and output.endswith(".toml"):  # not the standard output
        prose(console, f"use it: dfmpc-onnx quantize MODEL --recipe {output} -o OUT")


def front_table(front: list[FrontEntry], console: Console) -> None:
    """Bytes, mean bits and predicted SQNR of each point; agreement where images were given."""
    judged = any(entry.agreement is not None for entry in front)
    columns = ["size", "bits", "SQNR (dB)", *(["agreement"] if judged else [])]
    made = table(*columns, right=columns[:3])
    unit = unit_of([entry.bytes for entry in front])
    for entry in front:
        cells = [in_unit(entry.bytes, *unit), f"{entry.mean_bits:.2f}", f"{entry.sqnr_db:.1f}"]
        made.add_row(*plain(*cells, *([_agreement(entry)] if judged else [])))
    console.print(made)


def _agreement(entry: FrontEntry) -> str:
    if entry.agreement is None or entry.interval is None:
        return ""
    return f"{entry.agreement:g} % ({entry.interval[0]:g} to {entry.interval[1]:g})"
