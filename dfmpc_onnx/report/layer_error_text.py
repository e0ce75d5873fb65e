"""The errors of layers as a table."""

from __future__ import annotations

from rich.console import Console

from dfmpc_onnx.evaluation.layer_errors import LayerError, LayerErrors
from dfmpc_onnx.report.tables import prose, rows_of_one_line

LEGEND = (
    "SQNR dB: of the layer's output against the float network's, rounding included; error %: the same as an amplitude; "
    "own %: the error made here, fed as in the float network; times: by how much it multiplies the errors that come in"
)
LEAST_PERCENT = 1e-4  # per cent, below which nothing is told apart


def layer_error_table(found: LayerErrors, console: Console, *, every: bool = False) -> None:
    """One line a layer in the order of the quantized network. every: also the tensors that no layer computes."""
    rows = [row for row in found.rows if every or row.layers] or list(found.rows)
    columns = ("layer", "op", "SQNR dB", "error %", "own %", "times")
    console.print()
    rows_of_one_line(console, columns, [_cells(row) for row in rows], columns[2:])
    prose(console, f"on {found.origin}; {LEGEND}")


def _cells(row: LayerError) -> tuple[str, ...]:
    name = row.layers[0] if row.layers else row.tensor
    times = "-" if row.amplification is None else f"{row.amplification:.2f}"
    return name, row.op, f"{row.sqnr_db:.1f}", percent(row.error), percent(row.own_error), times


def percent(share: float) -> str:
    """A share in per cent, without its sign: two digits, never an exponent."""
    value = 100 * share
    if 0 < value < LEAST_PERCENT:
        return f"<{LEAST_PERCENT:.4f}"
    return f"{value:.2g}" if value < 10 else f"{value:.0f}" if value < 1e5 else ">99999"
