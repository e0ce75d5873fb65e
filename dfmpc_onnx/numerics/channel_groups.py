"""Which channels of an output are of one scale, and which are not: boxes in pixels beside scores of 0 to 1.

Errors of the large ones hide those of the small ones where all are pooled, so each group is judged by itself. What the
channels mean nobody states; their root mean squares tell. Sorted by these, groups are cut where one channel is at least
8 times as large as the next: what is less far apart hides at most 18 dB.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.arrays import Float

APART = 8.0  # times as large as the next channel is the smallest of a group
FEWEST_OF_CHANNEL = 4  # of a channel; of fewer it is chance how large they are
# Of the channels must be smaller than the rest to be a group: no lone channel that is barely active.
FEWEST_CHANNELS = 1 / 16
FEWEST_BESIDE_ONE = 4  # channels that one of a smaller scale must stand beside to be a group: boxes, not another logit
MOST_CHANNELS = 2**16  # an axis that is longer holds positions
FEW_POSITIONS = 128  # of the longer of two axes: it may be the channels as well
# Of the largest channel's root mean square: what is fainter than float32 resolves beside that counts as so large.
FAINTEST = 2.0**-24
BESIDE = 1e-6  # 0 and 1 a probability may lie
VALUES_SUMMED_AT_ONCE = 2**20  # values that are summed at a time
CONSTANT = 1e-9  # share of the mean square that is variance, below which sums in double precision cannot tell


@dataclasses.dataclass(frozen=True)
class ChannelGroups:
    """Channels of like scale, the largest first; together all indices of the axis.

    axis: of an output ``[n, ...]``. floor: mean square that a group's signal counts at least as.
    """

    axis: int
    groups: tuple[npt.NDArray[np.intp], ...]
    floor: float


@dataclasses.dataclass
class ChannelSums:
    """Sums over the values of each channel along one axis, float64 ``[channels]``, and how many values each has."""

    values: Float
    squares: Float
    count: int

    def groups(self, axis: int, lowest: float, highest: float) -> ChannelGroups | None:
        """The groups along an axis; None where all channels are of one scale.

        lowest, highest: of all values. Probabilities, which lie from 0 to 1, are of one kind however small some are.
        """
        if self.count < FEWEST_OF_CHANNEL or (lowest >= -BESIDE and highest <= 1 + BESIDE):
            return None
        square = self.squares / self.count
        if not np.isfinite(square).all():
            return None
        variance = square - np.square(self.values / self.count)
        found = groups_of_scales(np.sqrt(square), variance > CONSTANT * square)
        return ChannelGroups(axis, found, float(FAINTEST**2 * square.max())) if len(found) > 1 else None


def channel_axes(shape: Sequence[int]) -> tuple[int, ...]:
    """The axes of an output ``[n, ...]`` that may be its channels.

    Of three dimensions the shorter of the last two, the other as well where it is short too; else the second and the
    last. Nothing of one index is.
    """
    if len(shape) < 2:
        return ()
    if len(shape) == 3:
        shorter, longer = (2, 1) if shape[2] < shape[1] else (1, 2)
        both = shape[shorter] < 2 or shape[longer] <= FEW_POSITIONS
        axes: tuple[int, ...] = (shorter, longer) if both else (shorter,)
    else:
        axes = tuple(dict.fromkeys((1, len(shape) - 1)))
    return tuple(axis for axis in axes if 2 <= shape[axis] <= MOST_CHANNELS)


def groups_of_scales(scales: Float, live: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.intp], ...]:
    """Channels cut where one is `APART` times as large as the next, the largest group first.

    scales: ``[channels]``, root mean squares. live: ``[channels]``, those that are not constant; what is constant has
    no scale of its own and goes with the largest. Groups of too few channels at the small end go with the next larger.
    """
    order = np.argsort(-scales, kind="stable")
    order = order[live[order] & (scales[order] > 0)]
    if len(order) < 2:
        return (np.arange(len(scales)),)
    sorted_scales = scales[order]
    cuts = np.flatnonzero(sorted_scales[:-1] >= APART * sorted_scales[1:]) + 1
    parts = np.split(order, cuts)
    while len(parts) > 1 and _chance(len(parts[-1]), len(scales)):
        last = parts.pop()
        parts[-1] = np.concatenate([parts[-1], last])
    rest = np.setdiff1d(np.arange(len(scales)), order)
    parts[0] = np.concatenate([parts[0], rest])
    return tuple(np.sort(part) for part in parts)


def _chance(channels: int, of: int) -> bool:
    """Whether so few channels are small by chance, as the weak one of two logits is."""
    return channels < FEWEST_CHANNELS * of or (channels == 1 and of <= FEWEST_BESIDE_ONE)


def array_groups(plain: npt.NDArray[np.generic]) -> ChannelGroups | None:
    """The groups of a whole output ``[n, ...]`` of finite numbers; None where it is of one scale.

    Of two axes with groups that one whose groups are farther apart counts.
    """
    found = []
    for axis in channel_axes(plain.shape):
        sums = _sums(plain, axis)
        groups = sums.groups(axis, float(plain.min()), float(plain.max())) if plain.size else None
        if groups is not None:
            found.append((spread(sums, groups), groups))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def spread(sums: ChannelSums, groups: ChannelGroups) -> float:
    """How many times as large the largest group is as the smallest, root mean squares of both."""
    first, last = (float(sums.squares[index].mean()) for index in (groups.groups[0], groups.groups[-1]))
    return float(np.sqrt(first / last)) if last > 0 else np.inf


def _sums(plain: npt.NDArray[np.generic], axis: int) -> ChannelSums:
    channels = plain.shape[axis]
    values, squares = np.zeros(channels), np.zeros(channels)
    rows = max(VALUES_SUMMED_AT_ONCE // max(plain[:1].size, 1), 1)
    for start in range(0, len(plain), rows):  # in double precision a whole output would swell
        x = np.moveaxis(plain[start : start + rows], axis, 0).reshape(channels, -1).astype(np.float64)
        values += x.sum(axis=1)
        with np.errstate(over="ignore"):
            squares += np.square(x).sum(axis=1)
    return ChannelSums(values, squares, plain.size // channels)
