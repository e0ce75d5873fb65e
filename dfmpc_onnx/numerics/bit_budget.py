"""Which width each weight gets under one budget for all: a multiple-choice knapsack, solved for every budget at once.

Each item takes exactly one of its options, an option has a size and a damage, and both add up. The front is the list
of all choices that no other beats in both: with it every question is a look-up, so that a larger budget is never
predicted worse. Items are added one by one; of the sums of the choices so far and the options of the next item those
that another beats are left out (Nemhauser and Ullmann, Management Science 15, 1969).

Sizes are integers and never rounded: what is chosen is exactly as large as stated. The front is exact as long as it
has at most `MOST_CHOICES` entries on the way. Beyond, its span of sizes is cut into as many equal cells and the least
damage in each is kept, so that after n items a choice has at most the damage of the best one that is n cells smaller.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MOST_CHOICES = 4096

Sizes = npt.NDArray[np.int64]
Damages = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class WeightOptions:
    """The options of one weight. sizes: ``[options]`` int64. damages: ``[options]`` float64, at least 0. counted:
    ``[options]`` bool, whether an option counts against the number of those that are allowed; None for none."""

    sizes: Sizes
    damages: Damages
    counted: npt.NDArray[np.bool_] | None = None


@dataclasses.dataclass(frozen=True)
class Choice:
    """One option for each item, by position. size and damage: their sums, the size exact."""

    options: tuple[int, ...]
    size: int
    damage: float


@dataclasses.dataclass(frozen=True, eq=False)
class _Stage:
    """The front after one more item: by entry the option taken and the entry of the stage before."""

    options: npt.NDArray[np.int16]
    before: npt.NDArray[np.int32]


class BudgetFront:
    """The choices that no other beats, from the smallest size to the least damage."""

    def __init__(
        self, items: Sequence[WeightOptions], most_counted: int | None = None, most: int = MOST_CHOICES
    ) -> None:
        """most_counted: how many items may take a counted option; None for any number. most: entries of the front."""
        if most_counted is None or most_counted >= len(items):
            items, most_counted = [dataclasses.replace(item, counted=None) for item in items], 0
        # Those of little size first: while sums are small, so is what a cell spans.
        self._order = sorted(range(len(items)), key=lambda i: int(np.ptp(items[i].sizes)))
        built = _build([items[i] for i in self._order], most_counted, most)
        self.sizes, self.damages, self._entries, self._stages = built

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, position: int) -> Choice:
        """An entry of the front, from the smallest size on."""
        options, entry = [0] * len(self._order), int(self._entries[position])
        for item, stage in zip(reversed(self._order), reversed(self._stages), strict=True):
            options[item] = int(stage.options[entry])
            entry = int(stage.before[entry])
        return Choice(tuple(options), int(self.sizes[position]), float(self.damages[position]))

    @property
    def smallest(self) -> int:
        """The least size that any choice has."""
        return int(self.sizes[0])

    def within_size(self, budget: float) -> Choice | None:
        """The least damage of at most so much size; None where even the smallest choice is larger."""
        position = self.position_within_size(budget)
        return self[position] if position >= 0 else None

    def position_within_size(self, budget: float) -> int:
        """The entry of least damage of at most so much size; -1 where even the smallest choice is larger."""
        return int(np.searchsorted(self.sizes, budget, side="right")) - 1

    def within_damage(self, budget: float) -> Choice | None:
        """The least size of at most so much damage; None where even the best choice does more."""
        position = int(np.searchsorted(-self.damages, -budget, side="left"))
        return self[position] if position < len(self) else None

    def spread(self, count: int) -> list[Choice]:
        """At most so many choices in rising size, both ends included, about evenly spaced in the logarithm of size."""
        wanted = np.geomspace(max(self.smallest, 1), max(int(self.sizes[-1]), 1), max(count, 2))
        positions = np.searchsorted(self.sizes, wanted * (1 + 1e-12), side="right") - 1
        positions[-1] = len(self) - 1
        return [self[int(position)] for position in np.unique(np.maximum(positions, 0))]


_Built = tuple[Sizes, Damages, npt.NDArray[np.int32], list[_Stage]]


def _build(items: Sequence[WeightOptions], most_counted: int, most: int) -> _Built:
    """The front, the entry of the last stage for each of its choices, and the stages to go back through."""
    levels = 1 + most_counted
    most = max(most // levels, 64)
    sizes, damages = np.zeros(1, np.int64), np.zeros(1)
    level = np.zeros(1, np.int64)
    stages: list[_Stage] = []
    for item in items:
        sizes, damages, level, stage = _add(sizes, damages, level, item, levels, most)
        stages.append(stage)
    kept = _unbeaten(sizes, damages)
    return sizes[kept], damages[kept], kept.astype(np.int32), stages


def _add(
    sizes: Sizes, damages: Damages, level: npt.NDArray[np.int64], item: WeightOptions, levels: int, most: int
) -> tuple[Sizes, Damages, npt.NDArray[np.int64], _Stage]:
    """The entries with one item more; those of each level, how many counted options they hold, are kept apart."""
    counted = np.zeros(len(item.sizes), np.int64) if item.counted is None else item.counted.astype(np.int64)
    all_sizes = (item.sizes[:, None] + sizes).ravel()
    all_damages = (item.damages[:, None] + damages).ravel()
    all_levels = (counted[:, None] + level).ravel()
    parts = []
    for wanted in range(levels):
        there = np.flatnonzero(all_levels == wanted)
        kept = there[_unbeaten(all_sizes[there], all_damages[there])]
        parts.append(kept[_thinned(all_sizes[kept], most)])
    chosen = np.concatenate(parts)
    options, before = np.divmod(chosen, len(sizes))
    stage = _Stage(options.astype(np.int16), before.astype(np.int32))
    return all_sizes[chosen], all_damages[chosen], all_levels[chosen], stage


def _unbeaten(sizes: Sizes, damages: Damages) -> npt.NDArray[np.intp]:
    """Positions, in rising size, of the entries that no other beats: the first of equal ones."""
    if not len(sizes):
        return np.zeros(0, np.intp)
    order = np.lexsort((damages, sizes))
    falling = damages[order]
    better = np.ones(len(order), bool)
    better[1:] = falling[1:] < np.minimum.accumulate(falling)[:-1]
    return order[better]


def _thinned(sizes: Sizes, most: int) -> npt.NDArray[np.intp]:
    """Positions of at most about `most` entries: of each cell of sizes the largest, which has the least damage there,
    and the smallest of all, so that what is possible stays known. sizes: in rising order."""
    if len(sizes) <= most:
        return np.arange(len(sizes))
    cells = (sizes - sizes[0]) * most // (int(sizes[-1] - sizes[0]) + 1)
    last = np.append(np.flatnonzero(np.diff(cells)), len(sizes) - 1)
    return np.unique(np.append(0, last))
