"""The tables of targets are all written from one run."""

import pathlib

from tools.experiments.targets import COLUMNS, TABLES, Rated, Row, write_tables


def rated(target: str, agreement: float, below: float = 0.0, fault: str = "") -> Rated:
    return Rated("net", Row(target, fault, 25, 13, "1.24", agreement, 0.1, 27.0), below)


def test_every_table_has_the_rows_of_its_targets(tmp_path: pathlib.Path) -> None:
    targets = sorted({*COLUMNS.values(), *(name for names in TABLES.values() for name in names)})
    write_tables(tmp_path, [rated(target, 98.0) for target in targets])
    for name, shown in TABLES.items():
        lines = (tmp_path / name).read_text().splitlines()[2:]
        assert sorted(line.split("|")[2].strip() for line in lines) == sorted(shown)
    assert (tmp_path / "targets.md").read_text().splitlines()[2] == "| net | 98.0 | 98.0 | 98.0 |"


def test_a_row_that_falls_short_is_bold() -> None:
    assert "**qnn**" in rated("qnn", 97.0, 0.6).line and "**" not in rated("qnn", 97.0, 0.5).line
    assert "**tensorrt**" not in rated("tensorrt", 97.0, 3.0).line
    assert "**cpu**" in rated("cpu", 97.0, 0.0, "IR higher than its opset needs").line
