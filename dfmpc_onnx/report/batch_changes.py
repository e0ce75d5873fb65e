"""Two runs of a batch beside each other: what got better, worse, slower, or stopped working."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from dfmpc_onnx.report.batch_row import JobRow

SLOWER, LEAST_SECONDS = 1.25, 1.0  # a time is another one where it differs by a quarter, and by a second
LOST_DB = 1.0  # of SQNR, from which on less is left of a network: the error has a quarter more power
WORDS = {
    "bytes": "size",
    "sqnr_db": "SQNR",
    "sha256": "the file's content",
    "seconds": "time",
}  # of columns, for people
RANK = {"ok": 0, "below": 1, "refused": 2, "failed": 3, "": 4}


class JobChange(msgspec.Struct, frozen=True):
    """One job in both runs; None and an empty status where a run has no such job, or the figure is not known.

    changed: the columns that differ, of status, bytes, agreement, sqnr_db, sha256 and seconds. worse: whether the
    status got worse, or less is left of the network (`less_is_left`).
    """

    name: str
    changed: tuple[str, ...]
    worse: bool
    old_status: str
    new_status: str
    old_reason: str
    new_reason: str
    old_bytes: int | None
    new_bytes: int | None
    old_agreement: float | None
    new_agreement: float | None
    old_sqnr_db: float | None
    new_sqnr_db: float | None
    old_seconds: float | None
    new_seconds: float | None

    @property
    def only_in(self) -> str:
        """Which run alone has the job, OLD or NEW; empty where both do."""
        return "" if self.old_status and self.new_status else "OLD" if self.old_status else "NEW"

    @property
    def changed_words(self) -> str:
        """What differs, for people."""
        return "" if self.only_in else ", ".join(WORDS.get(column, column) for column in self.changed)


class BatchChanges(msgspec.Struct, frozen=True):
    """What changed from the run in folder `old` to that in folder `new`. same: jobs of which nothing did."""

    old: str
    new: str
    rows: tuple[JobChange, ...]
    same: int

    @property
    def worse(self) -> int:
        """How many jobs got worse."""
        return sum(row.worse for row in self.rows)

    @property
    def summary(self) -> str:
        """How many jobs changed, got worse, are the same, and are in one of the runs only."""
        only = [row.only_in for row in self.rows if row.only_in]
        absent = "".join(f", {only.count(run)} only in {run}" for run in ("OLD", "NEW") if run in only)
        return f"{len(self.rows) - len(only)} jobs changed, {self.worse} got worse, {self.same} are the same{absent}"


def changes_between(old: str, before: Mapping[str, JobRow], new: str, after: Mapping[str, JobRow]) -> BatchChanges:
    """The jobs of both runs by name, those that got worse first, those of one run alone last."""
    rows = [_change(name, before.get(name), after.get(name)) for name in sorted({*before, *after})]
    changed = sorted((row for row in rows if row.changed), key=lambda row: (not row.worse, row.only_in, row.name))
    return BatchChanges(old, new, tuple(changed), len(rows) - len(changed))


def _change(name: str, old: JobRow | None, new: JobRow | None) -> JobChange:
    changed = [] if old is not None and new is not None and old.status == new.status else ["status"]
    if old is not None and new is not None:
        columns = ("bytes", "agreement", "sqnr_db", "sha256")
        changed += [column for column in columns if getattr(old, column) != getattr(new, column)]
        times = sorted((old.seconds, new.seconds))
        if times[1] >= times[0] * SLOWER and times[1] - times[0] >= LEAST_SECONDS:
            changed.append("seconds")
    return JobChange(
        name,
        tuple(changed),
        _worse(old, new),
        old.status if old else "",
        new.status if new else "",
        old.reason if old else "",
        new.reason if new else "",
        old.bytes if old else None,
        new.bytes if new else None,
        old.agreement if old else None,
        new.agreement if new else None,
        old.sqnr_db if old else None,
        new.sqnr_db if new else None,
        old.seconds if old else None,
        new.seconds if new else None,
    )


def _worse(old: JobRow | None, new: JobRow | None) -> bool:
    if old is None or new is None:
        return False  # absent, which whoever chose the models knows
    if RANK[old.status] < RANK[new.status] or not (old.written and new.written):
        return RANK[old.status] < RANK[new.status]
    return less_is_left(old, new)


def less_is_left(old: JobRow, new: JobRow) -> bool:
    """Whether more is lost than another rounding explains, such as one answer of a thousand.

    Where both runs know an agreement: it fell, to where the 95 % interval of OLD begins or below, or together with
    the SQNR by `LOST_DB`. Else whether the SQNR fell by that, or nothing is known any more.
    """
    fewer_decibels = old.sqnr_db is not None and (new.sqnr_db is None or old.sqnr_db - new.sqnr_db >= LOST_DB)
    if old.agreement is None or new.agreement is None:
        return fewer_decibels or (old.agreement is not None and new.sqnr_db is None)
    outside = old.agreement_low is None or new.agreement <= old.agreement_low
    return new.agreement < old.agreement and (outside or fewer_decibels)
