"""What the outputs of two networks differ by: each output by itself, and the worst of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from dfmpc_onnx.errors import ModelError, shown
from dfmpc_onnx.evaluation.box_answers import BoxAnswers
from dfmpc_onnx.evaluation.class_answers import ClassAnswers
from dfmpc_onnx.graph.output_branches import ScoreChannels
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.channel_groups import FAINTEST, ChannelGroups, ChannelSums, channel_axes, spread
from dfmpc_onnx.numerics.row_matching import MOST_ROWS, matched_rows

VALUES_COMPARED_AT_ONCE = 2**20  # numbers that are compared at a time
SQNR_CAP = 200.0  # dB; identical outputs have no noise to divide by
Part = list[npt.NDArray[np.generic]]  # every output of one run, rows of images first
StatedShape = Sequence[int | str | None]

NO_NUMBERS = "its values are not numbers of one size"
OTHER_SIZE = "its size depends on values, and is another in each network on the same input"
EMPTY = "it is empty on these inputs"


class GroupFidelity(msgspec.Struct, frozen=True):
    """Channels of one scale in an output where others are of another.

    axis: of the output, from 0. channels: the first and the last of each run of them. rms: root mean square of the
    float network's values. sqnr_db: as of an output.
    """

    axis: int
    channels: tuple[tuple[int, int], ...]
    rms: float
    sqnr_db: float


class OutputFidelity(msgspec.Struct, frozen=True):
    """One output in both networks. sqnr_db: 10 log10 of signal over noise, None where it is not compared; of the worst
    group where channels are of unlike scale. why_not: the reason why not. groups: the largest scale first; none where
    all channels are of one scale. equal: of an output of whole numbers, as indices and labels, which have no decibels,
    the per cent that are the same. rows_matched: whether rows are chosen by values, so that each was held against the
    nearest of the other network. boxes: of a detector's scores beside boxes, how many of the float network's were found
    again, of how many; None of any other output."""

    name: str
    sqnr_db: float | None
    why_not: str = ""
    groups: tuple[GroupFidelity, ...] = ()
    rows_matched: bool = False
    equal: float | None = None
    boxes: tuple[int, int] | None = None

    @property
    def worst(self) -> GroupFidelity | None:
        """The group that `sqnr_db` is of, if there are groups."""
        return min(self.groups, key=lambda group: group.sqnr_db, default=None)


@dataclasses.dataclass(frozen=True)
class StatedOutput:
    """An output as its network states it. shape: as onnxruntime has it, empty for a scalar and for what is unknown.
    chosen: whether its rows are chosen by values; where it states how many there are, they are compared as they stand.
    scores: which of its channels are scores by the graph, where others are none. without_classes: whether its largest
    value is no answer, whatever its shape.
    """

    name: str
    shape: StatedShape
    chosen: bool = False
    scores: ScoreChannels | None = None
    without_classes: bool = False

    def may_become(self, a: tuple[int, ...], b: tuple[int, ...]) -> bool:
        """Whether values may have both shapes, rows first: whether the network states no size where they differ."""
        if not self.shape:
            return True
        if len(a) != len(b):
            return not all(isinstance(size, int) for size in self.shape)
        sizes = zip(reversed(self.shape), reversed(a), reversed(b), strict=False)
        return all(x == y or not isinstance(size, int) for size, x, y in sizes)


class OutputDifference:
    """What one output comes to, run by run."""

    def __init__(self, stated: StatedOutput) -> None:
        self.name = stated.name
        self.why_not = EMPTY
        self.floats = False
        self._answers = None if stated.without_classes or stated.chosen else ClassAnswers()
        self._boxes = BoxAnswers.of(stated.scores)
        self.signal = self.noise = self.worst = 0.0
        self._values = self._unequal = 0
        self._rank = len(stated.shape)
        self._chosen = stated.chosen and not (len(stated.shape) > 1 and isinstance(stated.shape[-2], int))
        self._channels = _ChannelDifferences(stated.scores)

    @property
    def compared(self) -> bool:
        return not self.why_not

    @property
    def answers(self) -> ClassAnswers | None:
        """The class of each row, where it holds scores of classes, or labels, and nothing else."""
        return self._answers if self.compared and self._answers is not None and self._answers.usable else None

    @property
    def sqnr_db(self) -> float:
        """Of whole numbers the share that differs counts as noise, however far apart the numbers are."""
        return self._worst_of(self.groups()) if self.floats else decibels(self._values, self._unequal)

    def _worst_of(self, groups: tuple[GroupFidelity, ...]) -> float:
        return min((group.sqnr_db for group in groups), default=decibels(self.signal, self.noise))

    def groups(self) -> tuple[GroupFidelity, ...]:
        """Channels of like scale and what they come to, where those of the output are of unlike scale."""
        return self._channels.groups(self._rank) if self.floats else ()

    def result(self) -> OutputFidelity:
        if not self.compared:
            return OutputFidelity(self.name, None, self.why_not)
        if not self.floats:
            equal = round(100 * (1 - self._unequal / max(self._values, 1)), 2)
            return OutputFidelity(self.name, None, "", (), self._chosen, equal)
        groups = self.groups()
        boxes = self._boxes.result if self._boxes is not None else None
        return OutputFidelity(self.name, rounded_down(self._worst_of(groups)), "", groups, self._chosen, boxes=boxes)

    def can_match(self, want: npt.NDArray[np.generic], got: npt.NDArray[np.generic]) -> bool:
        """Whether rows of a run can be held against the nearest of the other network, where that has another number."""
        alike = want.ndim == got.ndim == 3 and want.shape[::2] == got.shape[::2]
        return self._chosen and alike and want.shape[1] <= MOST_ROWS >= got.shape[1]

    def leave_out(self, why: str) -> None:
        """From now on; what was compared before counts no longer."""
        self.why_not = why
        self._answers = None

    def add(self, want: npt.NDArray[np.generic], got: npt.NDArray[np.generic]) -> None:
        """The same rows in both networks, of one shape."""
        if self.why_not not in ("", EMPTY):
            return
        if {want.dtype.kind, got.dtype.kind} & set("OUS"):
            self.leave_out(NO_NUMBERS)
            return
        if not (want.size or got.size):
            return
        parts = [(want, got)]
        if self._chosen and want.ndim == 3:  # behind the axis of the runs; images have their own numbers of pairs
            matched = [matched_rows(a, b) for a, b in zip(want, got, strict=True)]
            parts = [(a[None], b[None]) for a, b in matched if a.size]
        try:
            for part in parts:
                self._measure(*part)
        except (ValueError, TypeError):
            self.leave_out(NO_NUMBERS)
            return
        self.why_not = ""
        self.floats = want.dtype.kind not in "biu"
        if self._answers is not None:
            self._answers.add(want, got)
        if self._boxes is not None:
            self._boxes.add(want, got)

    def _measure(self, want: npt.NDArray[np.generic], got: npt.NDArray[np.generic]) -> None:
        """In blocks of flat values: in double precision, with their difference and squares, large ones would swell."""
        self._channels.take_shape(want.shape)
        flat, flat_got = want.reshape(-1), got.reshape(-1)
        for start in range(0, want.size, VALUES_COMPARED_AT_ONCE):
            a, b = (out[start : start + VALUES_COMPARED_AT_ONCE].astype(np.float64) for out in (flat, flat_got))
            self._values += len(a)
            self._unequal += int(np.count_nonzero(flat[start : start + len(a)] != flat_got[start : start + len(a)]))
            with np.errstate(invalid="ignore", over="ignore"):  # outputs may be infinite; then so is the noise, or NaN
                square, error = np.square(a), np.square(a - b)
                self.signal += float(square.sum())
                self.noise += float(error.sum())
                self.worst = float(np.maximum(self.worst, np.abs(a - b).max()))
                self._channels.add(start, a, square, error)


class _ChannelDifferences:
    """Sums of an output's values, their squares and their squared errors, by each axis that may be its channels."""

    def __init__(self, scores: ScoreChannels | None = None) -> None:
        self._scores = scores
        self._shape: tuple[int, ...] | None = None
        self._sums: dict[int, Float] = {}
        self._count = 0
        self._lowest, self._highest = np.inf, -np.inf

    def take_shape(self, shape: tuple[int, ...]) -> None:
        """Of the values that follow, rows first. An axis that is no longer as long as it was holds no channels."""
        before, self._shape = self._shape, shape
        if before is None:
            self._sums = {axis: np.zeros((3, shape[axis])) for axis in channel_axes(shape)}
        elif len(before) != len(shape):
            self._sums = {}
        else:
            self._sums = {axis: sums for axis, sums in self._sums.items() if sums.shape[1] == shape[axis]}

    def add(self, start: int, values: Float, square: Float, error: Float) -> None:
        """Flat values that begin at an index of the whole."""
        self._count += len(values)
        self._lowest = min(self._lowest, float(values.min()))
        self._highest = max(self._highest, float(values.max()))
        for axis, sums in self._sums.items():
            assert self._shape is not None  # it comes first
            inner = math.prod(self._shape[axis + 1 :])
            for total, part in zip(sums, (values, square, error), strict=True):
                total += _by_channel(part, start, sums.shape[1], inner)

    def _by_graph(self, rank: int, scales: ChannelGroups | None) -> ChannelGroups | None:
        """Scores and other channels apart, each by its scales, if these lie along the same axis."""
        if self._scores is None or self._shape is None:
            return None
        axis, scores = self._scores.axis + (len(self._shape) - rank if rank else 0), self._scores.scores
        if axis not in self._sums or self._sums[axis].shape[1] != len(scores):
            return None
        parts = scales.groups if scales is not None and scales.axis == axis else (np.arange(len(scores)),)
        each = [part[scores[part] == kind] for part in parts for kind in (False, True)]
        squares = self._sums[axis][1] / max(self._count // len(scores), 1)
        return ChannelGroups(axis, tuple(part for part in each if part.size), float(FAINTEST**2 * squares.max()))

    def groups(self, rank: int) -> tuple[GroupFidelity, ...]:
        """rank: how many dimensions the network states, so that axes are counted as it does; 0 if that is not known."""
        found: tuple[float, ChannelSums, Float, ChannelGroups] | None = None
        for axis, (values, squares, errors) in self._sums.items():
            sums = ChannelSums(values, squares, self._count // len(values))
            groups = sums.groups(axis, self._lowest, self._highest)
            if groups is not None and (found is None or spread(sums, groups) > found[0]):
                found = spread(sums, groups), sums, errors, groups
        if self._shape is None:
            return ()
        by_graph = self._by_graph(rank, None if found is None else found[3])
        if by_graph is not None:
            values, squares, errors = self._sums[by_graph.axis]
            found = 0.0, ChannelSums(values, squares, self._count // len(values)), errors, by_graph
        if found is None:
            return ()
        _, sums, errors, groups = found
        axis = groups.axis - (len(self._shape) - rank if rank else 0)
        return tuple(_group(axis, index, sums, errors, groups.floor) for index in groups.groups)


def _group(axis: int, index: npt.NDArray[np.intp], sums: ChannelSums, errors: Float, floor: float) -> GroupFidelity:
    signal, noise = float(sums.squares[index].sum()), float(errors[index].sum())
    least = floor * sums.count * len(index)
    runs = np.split(index, np.flatnonzero(np.diff(index) > 1) + 1)
    return GroupFidelity(
        axis,
        tuple((int(run[0]), int(run[-1])) for run in runs),
        float(f"{math.sqrt(signal / (sums.count * len(index))):.4g}"),
        rounded_down(decibels(max(signal, least), noise)),
    )


def _by_channel(values: Float, start: int, channels: int, inner: int) -> Float:
    """Sums ``[channels]`` of flat values whose first has the index `start`; inner: how many follow each channel's."""
    if inner == 1:
        ahead = start % channels
        whole = -(ahead + len(values)) % channels
        padded = np.concatenate([np.zeros(ahead), values, np.zeros(whole)]) if ahead or whole else values
        total: Float = padded.reshape(-1, channels).sum(axis=0)
        return total
    first = -start % inner
    starts = np.concatenate([[0], np.arange(first, len(values), inner)]) if first else np.arange(0, len(values), inner)
    summed = np.add.reduceat(values, starts)
    counted = np.bincount((start + starts) // inner % channels, weights=summed, minlength=channels)
    return counted.astype(np.float64, copy=False)


class NetworkDifference:
    """What all outputs of two networks come to, run by run."""

    def __init__(
        self, reference: str, candidate: str, stated: Sequence[StatedOutput], others: Sequence[StatedOutput]
    ) -> None:
        self._reference, self._candidate = reference, candidate
        self._stated = [*zip(stated, others, strict=False)]
        self.each = [OutputDifference(output) for output in stated]
        if len(stated) != len(others):
            raise self.shapes_differ()

    @property
    def compared(self) -> list[OutputDifference]:
        return [output for output in self.each if output.compared]

    @property
    def answers(self) -> ClassAnswers | None:
        """Of the first output that holds scores of classes; of labels where none does."""
        found = [answers for output in self.compared if (answers := output.answers) is not None]
        return next((answers for answers in found if answers.classes), found[0] if found else None)

    @property
    def judged(self) -> list[OutputDifference]:
        """Those whose error says how good a network is: of whole numbers, as labels are, only where nothing else is."""
        compared = self.compared
        return [output for output in compared if output.floats] or compared

    def shapes_differ(self) -> ModelError:
        return ModelError(f"{self._candidate}: its outputs have other shapes than those of {self._reference}")

    def nothing_compared(self) -> ModelError:
        reasons = "; ".join(f"'{shown(output.name)}': {output.why_not}" for output in self.each)
        return ModelError(f"{self._reference}: no output can be compared ({reasons or 'it has none'})")

    def add(self, want: Part, got: Part) -> None:
        """The same rows of both networks' outputs."""
        for output, stated, a, b in zip(self.each, self._stated, want, got, strict=True):
            if a.shape[1:] == b.shape[1:] or output.can_match(a, b):
                output.add(a, b)
            elif all(network.may_become(a.shape, b.shape) for network in stated):
                output.leave_out(OTHER_SIZE)
            else:
                raise self.shapes_differ()


def sqnr(want: list[npt.NDArray[np.float64]], got: list[npt.NDArray[np.float64]]) -> float:
    """Signal to quantization noise in dB of the worst output; at most 200."""
    found = []
    for a, b in zip(want, got, strict=True):
        found.append(OutputDifference(StatedOutput("", ())))
        found[-1].add(np.atleast_1d(a), np.atleast_1d(b))
    return min((output.sqnr_db for output in found if output.compared), default=SQNR_CAP)


def rounded_down(value: float) -> float:
    """To two places; what lies on one but for the rounding of float32 stays there."""
    return math.floor(100 * value + 1e-3) / 100


def decibels(signal: float, noise: float) -> float:
    if noise == 0 or not np.isfinite(noise):
        return SQNR_CAP if noise == 0 else -SQNR_CAP
    return float(np.clip(10 * np.log10(max(signal, 1e-300) / noise), -SQNR_CAP, SQNR_CAP))
