"""Rows of a batch: gates, the CSV table, the page, and two runs beside each other."""

from __future__ import annotations

import csv
import io
import pathlib
import re
import sys

import msgspec
import pytest
from rich.console import Console

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.report.batch_changes import BatchChanges, changes_between
from dfmpc_onnx.report.batch_page import NO_PAGE, changes_page, index_page
from dfmpc_onnx.report.batch_row import Gates, JobRow, batch_columns, csv_table
from dfmpc_onnx.report.batch_text import batch_table, changes_table

GOOD = JobRow(
    name="a", model="a.onnx", status="ok", code="ok", load="ok", bytes=1000, float_bytes=4000, agreement=97.0,
    agreement_low=90.0, agreement_high=99.0, sqnr_db=20.0, seconds=10.0, output="models/a b.onnx", sha256="1",
    basis="generated", verdict="good",
)  # fmt: skip
BAD = JobRow(name="b<i>", model="b.onnx", code="killed", reason="its process <b>died</b>", load="failed")


def row(**columns: object) -> JobRow:
    return msgspec.structs.replace(GOOD, **columns)


@pytest.mark.parametrize(
    ("columns", "gate", "reason"),
    [
        ({}, 90, ""),
        ({}, 91, "min-agreement: 90 is below 91"),
        ({"basis": "images"}, 97, ""),
        ({"basis": "images"}, 98, "min-agreement: 97 is below 98"),
        ({"agreement": None, "agreement_low": None}, 1, "min-agreement: not known"),
        ({"options": '{"min_sqnr": 20}'}, None, ""),
        ({"options": '{"min_sqnr": 21}'}, None, "min-sqnr: 20 is below 21"),
        ({"options": '{"min_sqnr": 21}', "sqnr_db": None}, None, "min-sqnr: not known"),
        ({"status": "below", "code": "below-min-agreement", "reason": "of an earlier run"}, None, ""),
    ],
)
def test_a_gate_is_held_against_what_was_counted_or_where_the_interval_begins(
    columns: dict[str, object], gate: float | None, reason: str
) -> None:
    judged = Gates(gate).judge(row(**columns))
    assert (judged.status, judged.reason) == ("below" if reason else "ok", reason)
    assert Gates(100).judge(BAD) == BAD


def test_a_table_has_a_column_a_field_and_empty_cells_for_what_is_not_known() -> None:
    good, bad = csv.DictReader(io.StringIO(csv_table([GOOD, BAD])))
    assert list(good) == list(JobRow.__struct_fields__)
    assert (good["bytes"], good["agreement"], bad["bytes"], bad["reason"]) == ("1000", "97.0", "", BAD.reason)


def test_a_page_links_files_and_escapes_what_it_shows(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("jinja2")
    assert index_page([row(report="reports/a.html"), BAD], tmp_path / "index.html") == ""
    text = (tmp_path / "index.html").read_text()
    assert '<a href="models/a%20b.onnx">a</a>' in text and '<a href="reports/a.html">report</a>' in text
    assert "b&lt;i&gt;" in text and "&lt;b&gt;died&lt;/b&gt;" in text and "<b>" not in text
    assert "90.0 to 99.0" in text
    assert not re.search(r"(src|href)=\"https?:", text)


def test_without_jinja2_there_is_one_line_in_place_of_a_page(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert index_page([GOOD], tmp_path / "index.html") == NO_PAGE
    with pytest.raises(OptionError, match="html: jinja2 is not installed; pip install jinja2"):
        changes_page(changes_between("old", {}, "new", {}), tmp_path / "changes.html")
    assert list(tmp_path.iterdir()) == []


def changes(old: JobRow | None, new: JobRow | None) -> BatchChanges:
    return changes_between("old", {"a": old} if old else {}, "new", {"a": new} if new else {})


@pytest.mark.parametrize(
    ("new", "changed", "worse"),
    [
        (row(), (), False),
        (row(seconds=10.9), (), False),
        (row(seconds=20.0), ("seconds",), False),
        (row(bytes=900, sha256="2"), ("bytes", "sha256"), False),
        (row(agreement=96.0), ("agreement",), False),  # within the interval, at the same SQNR
        (row(agreement=96.0, sqnr_db=19.1), ("agreement", "sqnr_db"), False),
        (row(agreement=96.0, sqnr_db=19.0), ("agreement", "sqnr_db"), True),
        (row(sqnr_db=19.0), ("sqnr_db",), False),  # of what counts, the answers, nothing is lost
        (row(agreement=90.0), ("agreement",), True),  # where the interval begins
        (row(agreement=None, sqnr_db=19.1), ("agreement", "sqnr_db"), False),
        (row(agreement=None, sqnr_db=None), ("agreement", "sqnr_db"), True),
        (row(agreement=98.0), ("agreement",), False),
        (row(agreement=None, sqnr_db=19.0), ("agreement", "sqnr_db"), True),
        (row(status="below"), ("status",), True),
        (
            msgspec.structs.replace(BAD, name="a"),
            ("status", "bytes", "agreement", "sqnr_db", "sha256", "seconds"),
            True,
        ),
        (None, ("status",), False),
    ],
)
def test_what_changed_and_whether_it_got_worse(new: JobRow | None, changed: tuple[str, ...], worse: bool) -> None:
    found = changes(GOOD, new)
    assert [(r.changed, r.worse) for r in found.rows] == ([(changed, worse)] if changed else [])
    assert (found.worse, found.same) == (int(worse), int(not changed))


def test_what_is_new_or_works_again_is_no_worse() -> None:
    assert not changes(None, GOOD).rows[0].worse
    assert not changes(msgspec.structs.replace(BAD, name="a"), GOOD).rows[0].worse


def test_jobs_of_one_run_alone_are_listed_as_such_and_are_no_worse(tmp_path: pathlib.Path) -> None:
    old = {"a": GOOD, "gone": row(name="gone")}
    found = changes_between("v1", old, "v2", {"a": row(sqnr_db=19.0, sha256="2"), "new": row(name="new")})
    assert [(r.name, r.only_in, r.worse) for r in found.rows] == [
        ("a", "", False),
        ("new", "NEW", False),
        ("gone", "OLD", False),
    ]
    console = Console(file=io.StringIO(), width=120)
    changes_table(found, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in (
        "only in OLD",
        "only in NEW",
        "SQNR, the file's content",
        "a > b: a in OLD v1, b in NEW v2",
        "1 jobs changed, 0 got worse, 0 are the same, 1 only in OLD, 1 only in NEW",
    ):
        assert part in text
    pytest.importorskip("jinja2")
    changes_page(found, tmp_path / "changes.html")
    page = (tmp_path / "changes.html").read_text()
    assert "only in OLD" in page and "sqnr_db" not in page and "arrows lead from OLD to NEW" in page


def test_a_loss_that_is_not_known_is_called_so_with_the_reason(tmp_path: pathlib.Path) -> None:
    nothing = dict.fromkeys(("agreement", "agreement_low", "agreement_high", "sqnr_db"))
    blind = Gates().judge(row(verdict="not known", not_known="nothing tells what x holds", **nothing))
    assert (blind.status, blind.reason) == ("ok", "loss not known: nothing tells what x holds")
    assert Gates(90).judge(blind).reason == "min-agreement: not known: nothing tells what x holds"
    console = Console(file=io.StringIO(), width=120)
    batch_table([GOOD, blind], "run/", console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert " not known " in text and blind.reason in text and "loss not known: 1 of 2" in text
    pytest.importorskip("jinja2")
    index_page([blind], tmp_path / "index.html")
    assert '<td class="n">not known</td>' in (tmp_path / "index.html").read_text()


def test_tables_fit_80_columns(tmp_path: pathlib.Path) -> None:
    long = row(name="a_long_name_of_a_model_that_was_swept.recipe=int8.max-size=25%")
    console = Console(file=io.StringIO(), width=80)
    batch_table([long, BAD], "run/", console)
    changes_table(changes(GOOD, row(bytes=900, agreement=90.0)), console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for part in ("2 jobs: 1 ok, 0 below, 0 refused, 1 failed", "not written: 1 x killed", BAD.reason, "1 got worse"):
        assert part in text


def test_of_many_jobs_those_that_are_ok_are_counted_only() -> None:
    console = Console(file=io.StringIO(), width=200)
    batch_table([*(row(name=f"job{n}") for n in range(100)), BAD], "run/", console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "job5" not in text and "b<i>" in text and "100 jobs that are ok are not listed; -v lists all" in text


def test_changes_are_a_page(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("jinja2")
    changes_page(changes(GOOD, row(bytes=900)), tmp_path / "changes.html")
    assert "1 000 &rarr; 900" in (tmp_path / "changes.html").read_text()


def test_a_column_has_its_type_whatever_became_of_the_jobs() -> None:
    """What a data frame is read with: a column that no row has filled is no column of numbers."""
    types = batch_columns()
    assert ",".join(types) == csv_table([]).strip()
    assert {name: types[name] for name in ("bytes", "rows", "warnings")} == dict.fromkeys(
        ("bytes", "rows", "warnings"), "Int64"
    )
    assert {types[name] for name in ("seconds", "peak_mb", "agreement", "worst_layer_error")} == {"Float64"}
    assert {types[name] for name in ("name", "status", "load", "report", "worst_layer")} == {"string"}
