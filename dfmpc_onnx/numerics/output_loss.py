"""What an output of a network loses: the share of its variance that is error.

Of a vector, as the logits of a classifier, there are two answers, and they differ much: most of what logits vary by
lies between the classes and is the same for every picture. Procedural images are told apart far less than
photographs are, so what lies between images is small in them and its share of error is large.

Where channels are of unlike scale (`channel_groups`), each group of like scale loses a share of its own, and the worst
counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.channel_groups import ChannelGroups, array_groups

VALUES_AT_ONCE = 2**22  # values that are compared at a time
MAP_STRICTNESS = 4  # times less may an output lose that is a map or a list


@dataclasses.dataclass(frozen=True)
class OutputLoss:
    """Shares of an output's variance that are error, 0 to 1.

    share_of_variance: of a vector all values together, those of the classes and those of the images. It is what rounded
    activations may cost: what differs between the classes is about what differs between
    pictures of things.
    share_between_images: the same error as a share of what the images alone differ by, so never less. It is what errors
    of weights may cost: at 1 the error is as large as what tells the images apart.
    Of maps and lists, and of a single image, both are the same.
    vector: whether the output is one, not a map or a list.
    """

    share_of_variance: float
    share_between_images: float
    vector: bool

    def strictness(self, of_maps: float) -> float:
        """What a share is multiplied by before a budget for vectors is held against it.

        of_maps: how many times stricter maps and lists are taken. They are used value by value, and of a vector the
        largest entry.
        """
        return 1.0 if self.vector else of_maps


def damage(losses: Iterable[OutputLoss]) -> float:
    """What errors do to a network, 0 to 1 and beyond: the share that the output which suffers most loses.

    Of a vector it is the share of what inputs differ by, of a map or a list four times what a channel loses, since it
    is used value by value. Sensitivities, plans and budgets of weights are all stated in it.
    """
    return max((loss.share_between_images * loss.strictness(MAP_STRICTNESS) for loss in losses), default=0.0)


def is_vector(shape: Sequence[int]) -> bool:
    """Whether an output ``[n, ...]`` is one vector an image: all but one dimension are 1, as of ``[n, classes, 1, 1]``.

    ``[n, 1, k]`` is a list of k, or of one thing; it is taken for a list.
    """
    inner = [d for d in shape[1:] if d != 1]
    return len(shape) <= 2 or ((len(shape) > 3 or shape[2] == 1) and len(inner) <= 1)


def output_loss(
    plain: npt.NDArray[np.generic], hat: npt.NDArray[np.generic], groups: ChannelGroups | None = None
) -> OutputLoss:
    """What an output ``[n, ...]`` of finite numbers loses where it becomes `hat`, of the same shape.

    groups: those of `plain` (`array_groups`), where they are known already; else they are found.
    """
    if plain is hat:
        return OutputLoss(0.0, 0.0, is_vector(plain.shape))
    return JudgedOutput(plain, groups).loss(hat)


@dataclasses.dataclass(frozen=True)
class _Entries:
    """Entries of a vector that are judged by themselves.

    index: along the axis of the groups; None: all. variance: of all values together. between: of the images, summed
    over the entries; None where there is one image alone. Both are 0 where nothing varies.
    """

    index: npt.NDArray[np.intp] | None
    variance: float
    between: float | None


class JudgedOutput:
    """An output ``[n, ...]`` of finite numbers that others are held against; what it varies by is found once.

    Of a vector there are two shares. Of maps and lists it is the mean over the channels of squared error over variance,
    each at most 1. Channels are along the axis of the groups, of which the worst counts; else along the second
    dimension, or the last where that one is the shorter and no other follows.
    """

    def __init__(self, plain: npt.NDArray[np.generic], groups: ChannelGroups | None = None) -> None:
        """groups: those of `plain` (`array_groups`), where they are known already; else they are found."""
        self._plain = plain
        self._vector = is_vector(plain.shape)
        self._groups = groups or array_groups(plain)
        self._entries: list[_Entries] = []
        self._values_an_image = plain.size // (len(plain) if plain.ndim > 1 and len(plain) else 1)
        self._variance = np.zeros(0)
        self._channel = 2 if plain.ndim == 3 and plain.shape[2] < plain.shape[1] else 1
        if self._groups is not None:
            self._channel = self._groups.axis
        if not plain.size:
            return
        if not self._vector:
            self._variance = _by_channel(plain, self._channel, lambda x, _: x.var(axis=_others(x, self._channel)))
            return
        parts = [None, *(() if self._groups is None else self._groups.groups)]
        self._entries = [self._spread(index) for index in parts]

    @property
    def pools_last_axis(self) -> bool:
        """Whether of an error no more is asked than its squares summed over the last axis, so that the error may be
        given in any orthonormal basis there."""
        if self._plain.ndim < 2:
            return False
        return self._groups is None if self._vector else self._channel != self._plain.ndim - 1

    def loss(self, hat: npt.NDArray[np.generic]) -> OutputLoss:
        """What is lost where it becomes `hat`, of the same shape."""
        if self._vector:
            return self._vector_loss(_mean_squares(hat, self._plain))
        error = _by_channel(hat, self._channel, self._squares)
        return self._loss_of_channels(error)

    def loss_of_error(self, error: Float) -> OutputLoss:
        """What is lost by an error in an orthonormal basis of the last axis: ``[n, ..., k]`` with any k.

        Only where `pools_last_axis`.
        """
        if self._vector:
            return self._vector_loss(_mean_squares(error))
        with np.errstate(over="ignore", invalid="ignore"):
            square = np.nan_to_num(np.square(error).sum(axis=-1, keepdims=True), nan=np.inf)
        return self._loss_of_channels(square.mean(axis=_others(error, self._channel)) / self._plain.shape[-1])

    def _squares(self, got: Float, part: tuple[slice, ...]) -> Float:
        want = self._plain[part].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is lost
            found: Float = np.nan_to_num(np.square(got - want).mean(axis=_others(want, self._channel)), nan=np.inf)
        return found

    def _spread(self, index: npt.NDArray[np.intp] | None) -> _Entries:
        """Of a vector's entries; those of a group vary at least by its floor."""
        groups = self._groups
        want = self._plain if index is None or groups is None else self._plain.take(index, groups.axis)
        floor = 0.0 if index is None or groups is None else groups.floor
        x = np.asarray(want, np.float64)
        variance = float(x.var())
        variance = max(variance, floor) if variance > 0 else 0.0
        if x.ndim < 2 or len(x) < 2:
            return _Entries(index, variance, None)
        between = max(float(x.var(axis=0).sum()), floor * x[0].size)
        return _Entries(index, variance, between if between > 1e-12 * float(np.square(x).mean()) else 0.0)

    def _vector_loss(self, square: Float) -> OutputLoss:
        """square: mean over the images of the squared error of each entry, ``[...]`` without the images."""
        shares, between = [0.0], [0.0]
        for part in self._entries:
            if part.index is None or self._groups is None:
                error, count = float(square.sum()), self._values_an_image
            else:
                chosen = square.take(part.index, self._groups.axis - 1)
                error, count = float(chosen.sum()), chosen.size
            shares.append(min(error / count / part.variance, 1.0) if part.variance > 0 else 0.0)
            if part.between is None:
                between.append(shares[-1])
            else:
                between.append(min(error / part.between, 1.0) if part.between > 0 else 0.0)
        return OutputLoss(max(shares), max(between), True)

    def _loss_of_channels(self, error: Float) -> OutputLoss:
        """error: mean square of each channel."""
        variance, groups = self._variance, self._groups
        floor = 0.0 if groups is None else groups.floor
        share = np.minimum(error / np.maximum(np.maximum(variance, floor), 1e-300), 1.0)
        losses = [0.0]
        for part in (np.arange(len(variance)),) if groups is None else groups.groups:
            live = part[variance[part] > 1e-12 * max(float(variance[part].max(initial=0.0)), 1e-300)]
            losses += [float(share[live].mean())] if live.size else []
        return OutputLoss(max(losses), max(losses), False)


def _mean_squares(got: npt.NDArray[np.generic], want: npt.NDArray[np.generic] | None = None) -> Float:
    """The squared difference of vectors, mean over the images: of each entry, float64. What is not finite is lost."""
    if not got.size:
        return np.zeros(0)
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.asarray(got, np.float64) - (0.0 if want is None else np.asarray(want, np.float64))
        square = np.nan_to_num(np.square(error), nan=np.inf)
        found: Float = square.mean(axis=0) if square.ndim > 1 else square
    return found


def _others(x: npt.NDArray[np.generic], channel: int) -> tuple[int, ...]:
    return tuple(axis for axis in range(x.ndim) if axis != channel)


def _by_channel(
    x: npt.NDArray[np.generic], channel: int, figures: Callable[[Float, tuple[slice, ...]], Float]
) -> Float:
    """A figure of each index along an axis, float64 ``[channels]``, some channels at a time: in double precision, with
    their difference and its square, large outputs would swell."""
    if not x.size:
        return np.zeros(0)
    many = max(VALUES_AT_ONCE // (x.size // x.shape[channel]), 1)
    found = []
    for start in range(0, x.shape[channel], many):
        part = (slice(None),) * channel + (slice(start, start + many),)
        found.append(figures(x[part].astype(np.float64), part))
    return np.concatenate(found)
