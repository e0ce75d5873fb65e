"""What an output of a network loses: the share of its variance that is error.

Of a vector, as the logits of a classifier, there are two answers, and they differ much: most of what logits vary by
lies between the classes and is the same for every picture. Procedural images are told apart far less than
photographs are, so what lies between images is small in them and its share of error is large.

Where channels are of unlike scale (`channel_groups`), each group of like scale loses a share of its own, and the worst
counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

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
    vector = is_vector(plain.shape)
    if plain is hat:
        return OutputLoss(0.0, 0.0, vector)
    found = groups or array_groups(plain)
    if not vector:
        share = _share_of_channels(plain, hat, found)
        return OutputLoss(share, share, vector)
    losses = [_vector_loss(plain, hat, 0.0)]
    if found is not None:
        parts = ((plain.take(index, found.axis), hat.take(index, found.axis)) for index in found.groups)
        losses = [_vector_loss(want, got, found.floor) for want, got in parts]
    return OutputLoss(max(loss[0] for loss in losses), max(loss[1] for loss in losses), vector)


def _vector_loss(plain: npt.NDArray[np.generic], hat: npt.NDArray[np.generic], floor: float) -> tuple[float, float]:
    """The share of all variance and that of what lies between the images; floor: least variance of an entry."""
    share = _share_of_channels(plain.reshape(1, -1), hat.reshape(1, -1), None, floor)
    several = plain.ndim >= 2 and len(plain) >= 2
    return share, _share_between(plain, hat, floor) if several else share


def _share_between(plain: npt.NDArray[np.generic], hat: npt.NDArray[np.generic], floor: float) -> float:
    """Squared error over the variance between images, both summed over the entries of a vector; 0 to 1."""
    if not plain.size:
        return 0.0
    want = np.asarray(plain, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is lost
        square = np.nan_to_num(np.square(np.asarray(hat, np.float64) - want), nan=np.inf)
        error = float(square.mean(axis=0).sum())
    variance = max(float(want.var(axis=0).sum()), floor * want[0].size)
    return min(error / variance, 1.0) if variance > 1e-12 * float(np.square(want).mean()) else 0.0


def _share_of_channels(
    want: npt.NDArray[np.generic],
    got: npt.NDArray[np.generic],
    groups: ChannelGroups | None,
    floor: float = 0.0,
) -> float:
    """Squared error over variance of an output ``[n, ...]``, 0 to 1: the mean over its channels, each at most 1.

    Channels are along the axis of the groups, of which the worst counts; else along the second dimension, or the last
    where that one is the shorter and no other follows. A vector ``[1, k]`` is one channel. floor: least variance.
    """
    if not want.size:
        return 0.0
    if groups is None:
        channel = 2 if want.ndim == 3 and want.shape[2] < want.shape[1] else 1 if want.ndim > 2 else 0
        parts: tuple[npt.NDArray[np.intp], ...] = (np.arange(want.shape[channel]),)
    else:
        channel, parts, floor = groups.axis, groups.groups, groups.floor
    variance, error = _by_channel(want, got, channel)
    share = np.minimum(error / np.maximum(np.maximum(variance, floor), 1e-300), 1.0)
    losses = []
    for part in parts:
        live = part[variance[part] > 1e-12 * max(float(variance[part].max(initial=0.0)), 1e-300)]
        losses += [float(share[live].mean())] if live.size else []
    return max(losses, default=0.0)


def _by_channel(want: npt.NDArray[np.generic], got: npt.NDArray[np.generic], channel: int) -> tuple[Float, Float]:
    """Variance and mean squared error of each index along an axis, float64 ``[channels]``."""
    axes = tuple(axis for axis in range(want.ndim) if axis != channel)
    # Some channels at a time: in double precision, with their difference and its square, large outputs would swell.
    many = max(VALUES_AT_ONCE // (want.size // want.shape[channel]), 1)
    variances, errors = [], []
    for start in range(0, want.shape[channel], many):
        part = (slice(None),) * channel + (slice(start, start + many),)
        x = want[part].astype(np.float64)
        variances.append(x.var(axis=axes))
        with np.errstate(over="ignore", invalid="ignore"):
            errors.append(np.nan_to_num(np.square(got[part].astype(np.float64) - x).mean(axis=axes), nan=np.inf))
    return np.concatenate(variances), np.concatenate(errors)
