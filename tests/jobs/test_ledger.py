"""Rows on disk: appended, read back, and safe from crashes and full disks."""

from __future__ import annotations

import errno
import io
import os
import pathlib

import pytest

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.jobs.ledger import Ledger, read_rows
from dfmpc_onnx.jobs.sources import Shard
from dfmpc_onnx.report.batch_row import JobRow

WHOLE = Shard()


def row(name: str, **columns: object) -> JobRow:
    return JobRow(name=name, model=f"{name}.onnx", **columns)  # type: ignore[arg-type]


def test_the_last_row_of_a_job_counts(tmp_path: pathlib.Path) -> None:
    with Ledger.open(tmp_path, WHOLE) as ledger:
        for status in ("failed", "ok"):
            ledger.append(row("a", status=status))
        ledger.append(row("b"))
    assert {name: r.status for name, r in read_rows(tmp_path).items()} == {"a": "ok", "b": "failed"}


def test_the_last_row_counts_also_where_the_clock_was_set_back(tmp_path: pathlib.Path) -> None:
    with Ledger.open(tmp_path, WHOLE) as ledger:
        ledger.append(row("a", status="failed", ended="2026-01-02"))
        ledger.append(row("a", status="ok", ended="2026-01-01"))
    assert read_rows(tmp_path)["a"].status == "ok"


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_line_that_a_crash_cut_off_is_left_out_and_written_over(tmp_path: pathlib.Path, cut: int) -> None:
    with Ledger.open(tmp_path, WHOLE) as ledger:
        ledger.append(row("a"))
        ledger.append(row("b"))
    path = tmp_path / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert list(read_rows(tmp_path)) == (["a", "b"] if cut == 1 else ["a"])
    with Ledger.open(tmp_path, WHOLE) as ledger:
        ledger.append(row("c"))
    assert list(read_rows(tmp_path)) == ["a", "c"]
    assert len(path.read_bytes().splitlines()) == 2


def test_bytes_that_are_no_row_are_left_out(tmp_path: pathlib.Path) -> None:
    (tmp_path / "results.jsonl").write_bytes(b'{"name": 3}\n\xff\xfe\n[]\n{"name": "a", "model": "a.onnx"}\n')
    assert list(read_rows(tmp_path)) == ["a"]


def test_a_full_disk_leaves_no_half_line(tmp_path: pathlib.Path) -> None:
    class Full(io.FileIO):
        def write(self, data: object) -> int:
            super().write(bytes(data)[:7])  # type: ignore[call-overload]
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "results.jsonl"
    path.write_bytes(b"")
    with Full(path, "a+") as stream, pytest.raises(OptionError, match=r"cannot be written \(No space left on device\)"):
        Ledger(stream, path).append(row("a"))  # type: ignore[arg-type]
    assert path.read_bytes() == b""


def test_two_batches_do_not_write_into_one_folder(tmp_path: pathlib.Path) -> None:
    with (
        Ledger.open(tmp_path, WHOLE),
        pytest.raises(OptionError, match="another batch is at work there; choose"),
        Ledger.open(tmp_path, WHOLE),
    ):
        pass
    with Ledger.open(tmp_path, Shard(1, 2)), Ledger.open(tmp_path, Shard(2, 2)):  # a shard has a file of its own
        pass


@pytest.mark.parametrize(("first", "second"), [(WHOLE, Shard(1, 2)), (Shard(1, 2), WHOLE), (Shard(1, 2), Shard(2, 4))])
def test_batches_that_divide_the_jobs_otherwise_would_do_the_same_ones(
    tmp_path: pathlib.Path, first: Shard, second: Shard
) -> None:
    with (
        Ledger.open(tmp_path, first),
        pytest.raises(OptionError, match="another batch is at work there; choose"),
        Ledger.open(tmp_path, second),
    ):
        pass
    with Ledger.open(tmp_path, second):  # once the other has ended
        pass


def test_storage_without_locks_is_written_to(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def none(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    with Ledger.open(tmp_path, WHOLE) as ledger:
        ledger.append(row("a"))
    assert list(read_rows(tmp_path)) == ["a"]


def test_rows_of_shards_are_read_together_the_latest_first(tmp_path: pathlib.Path) -> None:
    for index, ended in ((1, "2026-01-02"), (2, "2026-01-01")):
        with Ledger.open(tmp_path, Shard(index, 2)) as ledger:
            ledger.append(row("a", ended=ended, code=str(index)))
            ledger.append(row(f"of {index}"))
    rows = read_rows(tmp_path)
    assert sorted(rows) == ["a", "of 1", "of 2"]
    assert rows["a"].code == "1"


def test_a_folder_without_rows_is_a_mistake(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OptionError, match=r"holds no results\.jsonl; give the folder of a batch"):
        read_rows(tmp_path)
    with pytest.raises(OptionError, match="no such folder"):
        read_rows(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="cannot be written"), Ledger.open(tmp_path / "file", WHOLE):
        pass
