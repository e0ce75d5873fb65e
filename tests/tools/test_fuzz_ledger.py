"""A run of the fuzzer goes on where it was stopped, and the table counts what each case came to last."""

import pytest

from tools.fuzz import ledger
from tools.fuzz.trial import AGREEING, ERROR, Case, Outcome

CASE = Case("chain", "", b"", {}, None)


def test_a_run_goes_on_with_defects_first_and_then_with_what_was_not_tried(tmp_path):
    path = tmp_path / "runs" / "1.jsonl"
    held = ledger.opened(path, "graphs", 1)
    held.add(0, CASE, Outcome(AGREEING, seconds=0.5), "aaaaaaa")
    held.add(3, CASE, Outcome("defect", "hang"), "aaaaaaa")
    with path.open("a") as file:
        file.write('{"number": 1, "kind"')  # killed while it wrote
    again = ledger.opened(path, "graphs", 1)
    assert again.left(range(5)) == [3, 1, 2, 4]
    again.add(1, CASE, Outcome(ERROR), "bbbbbbb")
    assert ledger.read(path).left(range(5)) == [3, 2, 4]
    assert again.rows[3]["place"] == "hang"
    with pytest.raises(ValueError, match="holds seed 1 of graphs"):
        ledger.opened(path, "graphs", 2)


def test_the_table_counts_the_last_row_of_each_case(tmp_path):
    path = tmp_path / "1.jsonl"
    held = ledger.opened(path, "graphs", 1)
    held.add(0, CASE, Outcome("defect", "hang", seconds=1.0), "aaaaaaa")
    held.add(1, CASE, Outcome(ERROR, seconds=0.2), "aaaaaaa")
    held.add(0, CASE, Outcome(AGREEING, seconds=0.6), "bbbbbbb")
    head, _, row = ledger.table([path])
    found = dict(zip(head.split(" | "), row.split(" | "), strict=True))
    assert found["at commit"] == "aaaaaaa to bbbbbbb"
    assert (found[AGREEING], found[ERROR], found["defect"]) == ("1", "1", "0")
    assert found["processor s a case |"] == "0.40 |"
