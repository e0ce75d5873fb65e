"""The table of files at the bytes of an earlier default."""

from __future__ import annotations

import math
import pathlib

import pytest

from tools.experiments import against_default
from tools.experiments.against_default import Measurements, Outcome, Row, cells, row_of, summary
from tools.experiments.measure import Network

BEFORE = Outcome(1000, 20.0, 95.0)


def row(first: float, second: float, agreement: float = 96.0) -> Row:
    return Row("net", BEFORE, {1.0: Outcome(1000, first, agreement), 0.92: Outcome(920, second, 94.0)})


def test_bytes_at_the_sqnr_before_lie_on_the_line_through_both_parts():
    assert row(21.0, 20.0).bytes_at_same == pytest.approx(0.92)
    assert 0.92 < row(20.5, 19.5).bytes_at_same < 1.0
    assert row(19.0, 18.0).bytes_at_same > 1.0


def test_where_fewer_bytes_give_no_lower_sqnr_there_is_no_such_line():
    assert math.isnan(row(20.0, 20.5).bytes_at_same)
    assert cells(row(20.0, 20.5))[-1] == ""


def test_a_line_of_the_table_has_bytes_sqnr_and_agreement_of_both_parts():
    assert cells(row(21.0, 20.0)) == (
        *("net", "1000", "20.0", "95.0"),
        *("1.000", "21.0 (+1.0)", "96.0", "0.920", "20.0 (+0.0)", "94.0", "0.920"),
    )


def test_the_last_line_has_the_mean_gain_and_the_worst_change_of_agreement():
    found = summary([row(21.0, 20.0), row(22.0, 21.0, agreement=94.5)])
    assert found[4:10] == ("1.000", "(+1.50)", "-0.5 at worst", "0.920", "(+0.50)", "-1.0 at worst")


def test_each_seed_is_planned_at_the_bytes_of_its_own_file_and_measured_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    asked: list[tuple[str, int, int]] = []
    monkeypatch.setattr(
        against_default, "by_tree", lambda tree, network, seed, out: out.write_bytes(bytes(1000 + seed))
    )

    def by_size(network: Network, seed: int, size: int, out: pathlib.Path) -> None:
        asked.append((network.label, seed, size))
        out.write_bytes(bytes(size))

    def measured(network: Network, write) -> Outcome:
        out = tmp_path / "out.onnx"
        write(out)
        return Outcome(out.stat().st_size, 20.0, 95.0)

    monkeypatch.setattr(against_default, "by_size", by_size)
    monkeypatch.setattr(against_default, "measured", measured)
    network, rows = Network("net", tmp_path / "net.onnx", tmp_path), tmp_path / "rows.jsonl"
    for _ in range(2):  # the second time all is read from the file
        found = row_of(network, tmp_path, "abc", (1.0, 0.5), 2, Measurements(rows))
        assert asked == [("net", 0, 1000), ("net", 0, 500), ("net", 1, 1001), ("net", 1, 500)]
        assert found.before.bytes == 1000.5 and found.now[0.5].bytes == 500
