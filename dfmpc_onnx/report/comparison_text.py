"""Several quantized files of one network side by side, as a table."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from dfmpc_onnx.errors import printable, shown
from dfmpc_onnx.evaluation.verdict import Verdict
from dfmpc_onnx.report.html.schema import Comparison, QuantizedFile
from dfmpc_onnx.report.tables import megabytes, prose, rows_of_one_line

ROW_HEADINGS = ("file", "size", "smaller", "bits", "SQNR dB", "agreement %", "ms", "faster", "verdict")


def comparison_row(found: Comparison, file: QuantizedFile) -> list[str]:
    """A file's figures, under `ROW_HEADINGS`."""
    known = not file.fidelity.not_known
    faster = "-" if not file.ms or not found.float_ms else f"{found.float_ms / file.ms:.2f}x"
    return [
        f"{file.letter}{'*' if file.letter in found.front else ''} {shown(file.label)}",
        megabytes(file.bytes),
        f"{found.float_bytes / max(file.bytes, 1):.2f}x",
        "-" if file.mean_bits is None else f"{file.mean_bits:.2f}",
        f"{file.fidelity.sqnr_db:.2f}" if known else "-",
        agreement_text(file.verdict),
        "-" if file.ms is None else f"{file.ms:.2f}",
        faster,
        "-" if file.verdict is None else file.verdict.level,
    ]


def agreement_text(verdict: Verdict | None) -> str:
    """The agreement to expect and its interval; of a detector the boxes that are found again."""
    if verdict is None or verdict.level == "not known":
        return "-"
    if verdict.agreement is not None and verdict.interval is not None:
        low, high = verdict.interval
        return f"{verdict.agreement:g} ({low:g}-{high:g})"
    if verdict.boxes is not None:
        return f"{verdict.boxes[0]} of {verdict.boxes[1]} boxes"
    return "-"


def threads_text(count: int) -> str:
    """So many threads; 0 for as many as there are."""
    return "all threads" if not count else f"{count} thread{'' if count == 1 else 's'}"


def comparison_table(found: Comparison, console: Console) -> None:
    """One row a file, and which of them no other beats."""
    rows = []
    for file in found.files:
        name, *cells = comparison_row(found, file)
        letter, _, label = name.partition(" ")
        rows.append((letter, label, *cells))
    rows_of_one_line(console, ("", *ROW_HEADINGS), rows, right=ROW_HEADINGS[1:-1], name=1)
    console.print()
    timed = "" if found.float_ms is None else f"; float {found.float_ms:.2f} ms a run, {threads_text(found.threads)}"
    prose(console, f"on {found.origin}; float {megabytes(found.float_bytes)}{timed}")
    console.print(Text(printable("* no other file is both smaller and nearer to the float network")))
