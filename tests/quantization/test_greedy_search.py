"""The greedy search step by step: against a network whose damages are known, and against the rule as published."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from dfmpc_onnx.pipeline.weight_plan import PlanRow, PlanTable, bits_of
from dfmpc_onnx.quantization.greedy_search import completed, greedy_search
from dfmpc_onnx.quantization.storage_costs import predicted_bytes

WIDTHS = ("ternary", 2, 4, 8, "float")
GAINS = {"a": 1.0, "b": 0.1, "c": 0.01}


def table() -> PlanTable:
    """Three weights of 40,000 codes."""
    rows = tuple(
        PlanRow(
            (name,),
            (200, 200),
            200,
            WIDTHS,
            (0.5, 0.2, 0.01, 1e-4, 0.0),
            tuple(gain * loss for loss in (0.5, 0.2, 0.01, 1e-4, 0.0)),
            tuple(int(5000 * bits_of(width)) + 1000 for width in WIDTHS),
        )
        for name, gain in GAINS.items()
    )
    return PlanTable(rows, 5000, 0, 0.0, 0.0, 25, True, 500_000, "by hand", "none")


def damage_of(settings: Mapping[str, int | str]) -> float:
    return sum(GAINS[name] * 4 ** -bits_of(width) for name, width in settings.items())


def test_it_ends_within_the_size_and_takes_bits_where_they_matter_least() -> None:
    found = greedy_search(table(), 80_000, damage_of)
    assert found.finished and found.size <= 80_000
    assert found.size == predicted_bytes(table(), found.widths)
    assert [bits_of(width) for width in found.widths] == sorted(map(bits_of, found.widths), reverse=True)


def test_each_step_tries_both_directions_of_every_layer_and_takes_the_least_score() -> None:
    tried: list[dict[str, int | str]] = []

    def watched(settings: Mapping[str, int | str]) -> float:
        tried.append(dict(settings))
        return damage_of(settings)

    full = predicted_bytes(table(), (8, 8, 8))
    found = greedy_search(table(), full - 1, watched)
    # From the widest codes on: three layers, one width down; none goes up, and float is no width of the search.
    assert tried == [{"a": 4, "b": 8, "c": 8}, {"a": 8, "b": 4, "c": 8}, {"a": 8, "b": 8, "c": 4}]
    assert found.widths == (8, 8, 4) and (found.steps, found.runs) == (1, 3)
    tried.clear()
    greedy_search(table(), found.size - 1, watched)
    assert {"a": 4, "b": 8, "c": 4} in tried  # the second step goes on from the first
    assert {"a": 8, "b": 8, "c": 2} in tried
    assert tried.count({"a": 8, "b": 8, "c": 8}) == 0  # and does not undo it


def test_a_size_that_is_impossible_ends_unfinished() -> None:
    found = greedy_search(table(), 10, damage_of)
    assert not found.finished


def test_an_interrupt_ends_it_with_what_it_has() -> None:
    runs = 0

    def interrupted(settings: Mapping[str, int | str]) -> float:
        nonlocal runs
        runs += 1
        if runs > 5:
            raise KeyboardInterrupt
        return damage_of(settings)

    lines: list[str] = []
    found = greedy_search(table(), 60_000, interrupted, lines.append)
    assert not found.finished and found.steps == 1 and found.widths == (8, 8, 4)
    assert lines[0].startswith("greedy step 1: ") and lines[0].endswith(" s left")


def test_a_search_keeps_to_its_runs_and_the_knapsack_goes_on_from_there() -> None:
    found = greedy_search(table(), 40_000, damage_of, most_runs=7)
    assert not found.finished and 0 < found.runs <= 7
    widths = completed(table(), found, 40_000)
    assert predicted_bytes(table(), widths) <= 40_000
    assert all(bits_of(width) <= bits_of(reached) for width, reached in zip(widths, found.widths, strict=True))


def test_what_ends_the_process_ends_more_than_the_search() -> None:
    class Ended(KeyboardInterrupt):
        """As the command line raises it for SIGTERM."""

    def ended(settings: Mapping[str, int | str]) -> float:
        raise Ended

    with pytest.raises(Ended):
        greedy_search(table(), 60_000, ended)


def test_once_it_is_late_no_step_is_made() -> None:
    found = greedy_search(table(), 10, damage_of, late=lambda: True)
    assert (found.finished, found.steps, found.runs) == (False, 0, 0)
