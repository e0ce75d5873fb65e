"""What text readers read: strings out of the raw outputs of a CTC head, and how far two networks read alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

BLANK = 0  # the class that stands for no character


@dataclasses.dataclass(frozen=True)
class Alike:
    """Lines two networks read. same: those read to the last character alike; characters: those alike, per cent."""

    same: int
    lines: int
    characters: float

    def __str__(self) -> str:
        return f"lines read alike: {self.same} of {self.lines}, characters: {self.characters:.1f} %"


def read(scores: npt.NDArray[np.float64]) -> list[tuple[int, ...]]:
    """The classes read on each line. scores: ``[lines, steps, classes]``; repeats are one, blanks none."""
    return [collapsed(line) for line in scores.argmax(axis=2)]


def collapsed(steps: npt.NDArray[np.int64]) -> tuple[int, ...]:
    """One class a step to what is read: what repeats is one, and a blank between tells two of a kind apart."""
    fresh = np.ones(len(steps), bool)
    fresh[1:] = steps[1:] != steps[:-1]
    return tuple(steps[fresh & (steps != BLANK)].tolist())


def distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Levenshtein's: the fewest insertions, deletions and replacements that make one of the other."""
    row = list(range(len(b) + 1))
    for count, one in enumerate(a, 1):
        diagonal, row[0] = row[0], count
        for index, other in enumerate(b, 1):
            diagonal, row[index] = row[index], min(row[index] + 1, row[index - 1] + 1, diagonal + (one != other))
    return row[-1]


def alike(want: npt.NDArray[np.float64], got: npt.NDArray[np.float64]) -> Alike:
    """How far a network reads what another, which is taken to be right, has read."""
    pairs = list(zip(read(want), read(got), strict=True))
    wrong = sum(distance(a, b) for a, b in pairs)
    length = sum(len(a) for a, _ in pairs)
    characters = 100 * max(1 - wrong / max(length, 1), 0.0)
    return Alike(sum(a == b for a, b in pairs), len(pairs), characters)
