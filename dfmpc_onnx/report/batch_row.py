"""What became of one job of a batch: a flat row of typed columns, as JSON lines, CSV and a data frame take it."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import msgspec

Status = Literal["ok", "below", "refused", "failed"]
StageStatus = Literal["ok", "failed", ""]
NOT_KNOWN = "not known"  # the verdict where nothing tells what is lost
STAGES = ("load", "check", "quantize", "write", "verify")


class JobRow(msgspec.Struct, frozen=True, kw_only=True):
    """One job. Sizes in bytes, peak_mb in 10^6 bytes, seconds of wall clock, shares in per cent.

    name: of the job, unique in its batch. key: SHA-256 over the model's bytes, the options and the version. status: ok;
    below (written, but under a gate); refused (an error that the user can correct); failed (all else). code: what
    ended it, a word for programs; reason: the same as a sentence. load, check, quantize, write, verify: each stage, ok
    or failed, empty where the job did not come to it. data: the files beside the model that hold its weights, as JSON,
    name to SHA-256, empty where there is no such file. output, report: files, as seen from the batch's folder. options:
    those of the job, as JSON. worst_layer, worst_layer_error: with layer_errors, the layer that adds most of its own,
    and how much, relative. refusals: why layers stay float, with how many there are of each. agreement, its 95 %
    interval, basis: as in `Verdict`; not_known: why there are no such figures. ended: UTC. removed: whether the
    job is no longer there; its row is kept for a run that has it again, and left out of tables and comparisons.
    """

    name: str
    model: str
    key: str = ""
    status: Status = "failed"
    code: str = ""
    reason: str = ""
    load: StageStatus = ""
    check: StageStatus = ""
    quantize: StageStatus = ""
    write: StageStatus = ""
    verify: StageStatus = ""
    seconds: float = 0.0
    peak_mb: float | None = None
    float_bytes: int | None = None
    bytes: int | None = None
    mean_bits: float | None = None
    layers: int | None = None
    quantized_layers: int | None = None
    refusals: str = ""
    verdict: str = ""
    agreement: float | None = None
    agreement_low: float | None = None
    agreement_high: float | None = None
    agreeing: int | None = None
    rows: int | None = None
    sqnr_db: float | None = None
    basis: str = ""
    not_known: str = ""
    worst_layer: str = ""
    worst_layer_error: float | None = None
    warnings: int | None = None
    recipe: str = ""
    options: str = "{}"
    output: str = ""
    sha256: str = ""
    report: str = ""
    data: str = "{}"
    version: str = ""
    ended: str = ""
    removed: bool = False

    @property
    def written(self) -> bool:
        """Whether a file came of it."""
        return self.status in ("ok", "below")

    @property
    def made(self) -> dict[str, object]:
        """The columns that do not tell of the run itself: the same whenever the job is."""
        fields = msgspec.structs.asdict(self)
        return {name: value for name, value in fields.items() if name not in ("seconds", "peak_mb", "ended")}


class Gates(msgspec.Struct, frozen=True):
    """What a written file must reach: per cent of agreement (where nothing is counted, where its interval begins)."""

    min_agreement: float | None = None

    def judge(self, row: JobRow) -> JobRow:
        """The row with the status that it has under these gates, and under the min_sqnr of its options."""
        if not row.written:
            return row
        least = msgspec.json.decode(row.options).get("min_sqnr")
        for name, reached, wanted in (
            ("min-sqnr", row.sqnr_db, least),
            ("min-agreement", row.agreement if row.basis != "generated" else row.agreement_low, self.min_agreement),
        ):
            if wanted is None or (reached is not None and reached >= wanted):
                continue
            unknown = f"{name}: not known{f': {row.not_known}' if row.not_known else ''}"
            why = f"{name}: {reached:g} is below {wanted:g}" if reached is not None else unknown
            return msgspec.structs.replace(row, status="below", code=f"below-{name}", reason=why)
        return msgspec.structs.replace(
            row, status="ok", code="ok", reason=f"loss not known: {row.not_known}" if row.not_known else ""
        )


def moment() -> str:
    """Now, in UTC, as the column `ended` has it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def counts(rows: Iterable[JobRow]) -> dict[str, int]:
    """How many rows there are of each status."""
    found = {"ok": 0, "below": 0, "refused": 0, "failed": 0}
    for row in rows:
        found[row.status] += 1
    return found


def batch_columns() -> dict[str, str]:
    """The type of each column of a batch's table by the names of pandas: string, boolean, Int64 or Float64.

    A column in which no row has a value, such as the reasons of a run in which all went well, reads as numbers unless
    its type is stated: ``pandas.read_csv("run/results.csv", dtype=dfmpc_onnx.batch_columns())``. So a Parquet file has
    the same types whatever became of the jobs.
    """
    return {field.name: _pandas_type(field.type) for field in msgspec.structs.fields(JobRow)}


def _pandas_type(kind: object) -> str:
    kinds = set(get_args(kind)) or {kind}
    if bool in kinds:
        return "boolean"
    return "Int64" if int in kinds else "Float64" if float in kinds else "string"


def csv_table(rows: Sequence[JobRow]) -> str:
    """The rows as CSV, a column a field; what is not known is empty."""
    import csv
    import io

    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(JobRow.__struct_fields__)
    for row in rows:
        writer.writerow("" if value is None else value for value in msgspec.structs.astuple(row))
    return stream.getvalue()
