"""A limit on the time of a run: how much is left, and what was cut short."""

import math

import pytest

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.pipeline.deadline import MEASURED, ROUNDED, SEARCHED, Deadline


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def test_shares_of_the_time_pass_one_after_the_other() -> None:
    clock = Clock()
    deadline = Deadline(10, clock)
    assert [deadline.past(share) for share in (MEASURED, ROUNDED, SEARCHED)] == [False] * 3
    clock.time += 8
    assert [deadline.past(share) for share in (MEASURED, ROUNDED, SEARCHED)] == [True, True, False]
    assert deadline.until(1.0) == pytest.approx(2)
    clock.time += 1
    assert deadline.past(SEARCHED) and not deadline.past(1.0)


def test_without_a_limit_nothing_is_ever_late() -> None:
    clock = Clock()
    deadline = Deadline(None, clock)
    clock.time += 1e9
    assert not deadline.limited and not deadline.past(MEASURED) and deadline.until(MEASURED) == math.inf


def test_what_was_cut_short_is_said_once_and_counted() -> None:
    clock = Clock()
    deadline = Deadline(2, clock)
    assert deadline.warnings == ()
    deadline.cut("the search")
    deadline.cut("the search")
    for _ in range(3):
        deadline.count("weights rounded to the nearest level")
    clock.time += 2.5
    assert deadline.cuts == ("the search", "weights rounded to the nearest level: 3")
    assert deadline.warnings == (
        "max-seconds 2: 2.5 s were taken; cut short: the search; weights rounded to the nearest level: 3",
    )


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf])
def test_a_limit_is_a_number_above_zero(seconds: float) -> None:
    with pytest.raises(OptionError, match="give a number of seconds above 0"):
        Deadline(seconds)
