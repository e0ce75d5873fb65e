"""Batches for a terminal: a row for each job, and what changed between two runs."""

from __future__ import annotations

import collections
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from dfmpc_onnx.errors import printable
from dfmpc_onnx.report.batch_changes import BatchChanges
from dfmpc_onnx.report.batch_row import NOT_KNOWN, JobRow, counts
from dfmpc_onnx.report.tables import listing

MOST_LISTED = 40  # jobs, above which those that ended well are counted only
NUMBERS_OF_ROWS = ("MB", "agr. %", "dB", "s")


def batch_table(rows: Sequence[JobRow], folder: str, console: Console, *, verbose: bool = False) -> None:
    """The rows; of many only those that are not ok, unless all are wanted. Then how many there are of each kind."""
    shown = rows if verbose or len(rows) <= MOST_LISTED else [row for row in rows if row.status != "ok"]
    if shown:
        listing(console, ("job", "status", *NUMBERS_OF_ROWS, "why"), list(map(_cells, shown)), NUMBERS_OF_ROWS)
        console.print()
    if len(shown) < len(rows):
        _say(console, f"{len(rows) - len(shown)} jobs that are ok are not listed; -v lists all")
    _say(console, f"{len(rows)} jobs: {', '.join(f'{count} {status}' for status, count in counts(rows).items())}")
    unknown = sum(row.verdict == NOT_KNOWN for row in rows)
    if unknown:
        _say(console, f"loss not known: {unknown} of {len(rows)}")
    codes = collections.Counter(row.code for row in rows if not row.written)
    if codes:
        _say(console, f"not written: {', '.join(f'{count} x {code}' for code, count in codes.most_common())}")
    _say(console, f"rows, models and reports: {printable(folder)}")


def changes_table(found: BatchChanges, console: Console) -> None:
    """A row for each job that changed, those that got worse first; how to read a pair, and how many there are."""
    right = ("kB", "agr. %", "dB", "s")
    if found.rows:
        rows = [
            (
                row.name,
                "worse" if row.worse else "",
                f"only in {row.only_in}" if row.only_in else _pair(row.old_status, row.new_status),
                _pair(_kilobytes(row.old_bytes), _kilobytes(row.new_bytes)),
                _pair(_number(row.old_agreement), _number(row.new_agreement)),
                _pair(_number(row.old_sqnr_db), _number(row.new_sqnr_db)),
                _pair(_number(row.old_seconds), _number(row.new_seconds)),
                ": ".join(filter(None, (row.changed_words, row.new_reason))),
            )
            for row in found.rows
        ]
        listing(console, ("job", "", "status", *right, "changed"), rows, right)
        console.print()
        _say(console, f"a > b: a in OLD {printable(found.old)}, b in NEW {printable(found.new)}")
    _say(console, found.summary)


def _cells(row: JobRow) -> tuple[str, ...]:
    return (
        row.name,
        row.status,
        "" if row.bytes is None else f"{row.bytes / 1e6:.3f}",
        NOT_KNOWN if row.verdict == NOT_KNOWN else _number(row.agreement),
        _number(row.sqnr_db),
        _number(row.seconds),
        row.reason,
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _kilobytes(value: int | None) -> str:
    return "" if value is None else f"{value / 1e3:.1f}"


def _pair(old: str, new: str) -> str:
    return new if old == new else f"{old or '-'} > {new or '-'}"


def _say(console: Console, line: str) -> None:
    console.print(Text(line), soft_wrap=True)
