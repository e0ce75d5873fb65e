"""Sums over the values of a tensor in two networks, and what one of them does to its channels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.arrays import Array, Float

LEAST_CHANGE = 0.1  # of a channel's gain, or of its mean beside its values, before it may be changed on purpose
ODD_TIMES = 4.0  # further from the usual gain than all others, before one may be an error beside changes on purpose
LEAST_CORRELATION = 0.7  # of its values with the float network's: below, no factor explains them


@dataclasses.dataclass(frozen=True)
class ChannelChange:
    """What the channels of a tensor are multiplied by, and what is then added: ``[channels]`` each.

    guessed: those whose gain is taken for that of the others, since their values do not tell it.
    """

    gain: Float
    shift: Float
    guessed: npt.NDArray[np.bool_]

    def put_in(self, values: Array) -> Float:
        axis = channel_axis(values.shape)
        wide = np.asarray(values, np.float64)
        found: Float = wide * _along(self.gain, wide.ndim, axis) + _along(self.shift, wide.ndim, axis)
        return found

    def take_out(self, values: Float) -> Float:
        axis = channel_axis(values.shape)
        found: Float = (values - _along(self.shift, values.ndim, axis)) / _along(self.gain, values.ndim, axis)
        return found

    def with_gain(self, channel: int, gain: float) -> ChannelChange:
        """The same where one channel is only multiplied, by another gain."""
        only = np.arange(len(self.gain)) == channel
        return ChannelChange(np.where(only, gain, self.gain), np.where(only, 0.0, self.shift), self.guessed | only)

    def as_guessed(self, behind: ChannelChange) -> ChannelChange | None:
        """The same with the gains that were guessed for a tensor behind; None where there are none, or other channels.

        What a function of single values makes of a broken channel is read by layers that tell it from the others.
        """
        if len(self.gain) != len(behind.gain):
            return None
        odd = behind.guessed & ~self.guessed
        if not np.any(odd):
            return None
        return ChannelChange(np.where(odd, behind.gain, self.gain), np.where(odd, 0.0, self.shift), odd | self.guessed)

    def without_odd_one(self) -> ChannelChange | None:
        """The same where channels that stand out are treated as the usual one; None where none does.

        One stands out whose values are unlike the float network's, or whose gain is ODD_TIMES further from the usual
        one than any other's.
        """
        if len(self.gain) < 3:
            return None
        usual = float(np.median(np.abs(self.gain)))
        far = np.abs(np.log(np.abs(self.gain) / usual))
        second, largest = np.sort(far)[-2:]
        odd = self.guessed | ((far == largest) & (largest - second > math.log(ODD_TIMES)))
        if not np.any(odd) or np.all(odd):
            return None
        return ChannelChange(np.where(odd, usual, self.gain), np.where(odd, 0.0, self.shift), odd)


class TensorSums:
    """Sums over the values of a tensor, by channel where that tells more."""

    def __init__(self) -> None:
        self._signal = self._plain_hat = self._hat_hat = self._own = self._plain_own = np.zeros(1)
        self._plain_sum = self._hat_sum = self._own_sum = np.zeros(1)
        self._count = 0
        self.noise = self.carried = 0.0

    def add(self, plain: Array, hat: Array, own: Array, factor: ChannelChange | None, real: int) -> None:
        """One run: the float network's values, the quantized one's, and those of the piece. factor: taken out of both.

        real: how many rows are no filling, where the tensor runs along the batch. What is of another size in one of
        them, because its size depends on values, is left out.
        """
        if not plain.shape == hat.shape == own.shape:
            return
        axis = channel_axis(plain.shape)
        y, q, p = (np.asarray(values, np.float64) for values in (plain, hat, own))
        if len(y) > real > 0 and y.ndim > 1:
            y, q, p = y[:real], q[:real], p[:real]
        if factor is not None:
            q, p = factor.take_out(q), factor.take_out(p)
        others = tuple(i for i in range(y.ndim) if i != axis)
        with np.errstate(over="ignore", invalid="ignore"):
            self.noise += float(np.square(q - y).sum())
            self.carried += float(np.square(q - p).sum())
            self._signal = self._signal + np.square(y).sum(axis=others)
            self._plain_hat = self._plain_hat + (y * q).sum(axis=others)
            self._hat_hat = self._hat_hat + np.square(q).sum(axis=others)
            self._plain_sum = self._plain_sum + y.sum(axis=others)
            self._hat_sum = self._hat_sum + q.sum(axis=others)
            self._own_sum = self._own_sum + p.sum(axis=others)
            self._count += y.size // y.shape[axis]
            self._own = self._own + np.square(p - y).sum(axis=others)
            self._plain_own = self._plain_own + (y * p).sum(axis=others)

    def factors(self) -> ChannelChange | None:
        """What is done to each channel, where to some much is done and on the whole that explains them; else None."""
        count = max(self._count, 1)
        mean, mean_hat = self._plain_sum / count, self._hat_sum / count
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            variance = self._signal / count - mean**2
            covariance = self._plain_hat / count - mean * mean_hat
            alike = np.abs(covariance) / np.sqrt(variance * (self._hat_hat / count - mean_hat**2))
            gain = covariance / variance
            shift = mean_hat - gain * mean
        least = np.maximum(1e-9 * float(self._signal.sum()) / count / len(mean), (1e-5 * mean_hat) ** 2)
        sure = (variance > least) & (np.nan_to_num(alike) > LEAST_CORRELATION) & (gain != 0) & np.isfinite(gain)
        size = LEAST_CHANGE * np.sqrt(np.maximum(self._signal / count, 0))
        changed = (np.abs(gain - 1) > LEAST_CHANGE) | (np.abs(shift) > size)
        moved = ~sure & (np.abs(mean_hat - mean) > size)
        negated = sure & (gain < 0)  # nothing that quantizes does that, so it is an error
        known = sure & changed & ~negated
        if not np.any(known | moved):
            return None
        broken = negated  # and, where most are changed, what is unlike the float network's: it was changed, too
        if 2 * np.sum(known) > np.sum(sure):
            broken = negated | ((variance > least) & ~sure)
        else:  # then the others are left as they are: rounding alone makes their gains
            same = sure & ~changed
            gain, mean_hat = np.where(same, 1.0, gain), np.where(same, mean, mean_hat)
        # A channel that hardly varies says nothing of its gain: it is taken for that of the others.
        usual = float(np.median(gain[sure & ~negated])) if np.any(sure & ~negated) else 1.0
        gain = np.where(sure & ~negated, gain, np.where(moved | broken, usual, 1.0))
        shift = np.where((sure | moved) & ~broken, mean_hat - gain * mean, 0.0)
        return ChannelChange(gain, shift, moved | (broken & ~negated))

    @property
    def unlike(self) -> float:
        """The logarithm of what no factor and no shift of a channel explains, beside its deviation; mean over channels.

        At best -7, and 0 where nothing is explained.
        """
        count = max(self._count, 1)
        mean, mean_hat = self._plain_sum / count, self._hat_sum / count
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            variance, other = self._signal / count - mean**2, self._hat_hat / count - mean_hat**2
            explained = (self._plain_hat / count - mean * mean_hat) ** 2 / (variance * other)
        live = variance > 1e-9 * float(self._signal.sum()) / count / len(mean)
        if not np.any(live):
            return 0.0
        return float(np.log(np.clip(1 - np.nan_to_num(explained[live]), 1e-6, 1.0)).mean()) / 2

    @property
    def signal(self) -> float:
        return float(self._signal.sum())

    @property
    def own(self) -> float:
        return float(self._own.sum())

    def relative(self, noise: float) -> float:
        """The root of noise over signal; at most 1e9, which stands for what is not finite and for a signal of 0."""
        if noise == 0:
            return 0.0
        return math.sqrt(min(noise / max(self.signal, 1e-300), 1e18)) if math.isfinite(noise) else 1e9

    @property
    def usual_error(self) -> float:
        """The logarithm of the piece's error beside the signal, its mean over channels.

        So a channel that is wrong by itself weighs as little as any other.
        """
        least = 1e-12 * max(self.signal, 1e-300) / len(self._signal)
        with np.errstate(over="ignore", invalid="ignore"):
            shares = np.nan_to_num((self._own + least) / (self._signal + least), nan=1e18, posinf=1e18)
        return float(np.log(np.clip(shares, 1e-12, 1e18)).mean()) / 2

    def worst(self) -> tuple[int, float, float] | None:
        """The channel with most of the own noise, its part of it, and its gain."""
        total = self.own
        if not math.isfinite(total) or total <= 0:
            return None
        channel = int(self._own.argmax())
        return channel, float(self._own[channel]) / total, self._gain(channel)

    def _gain(self, channel: int) -> float:
        """What a channel of the piece varies by beside the float network's, by least squares; 1 where that is still."""
        count = max(self._count, 1)
        mean, mean_own = self._plain_sum[channel] / count, self._own_sum[channel] / count
        variance = float(self._signal[channel] / count - mean**2)
        if variance <= 1e-9 * float(self._signal[channel]) / count:
            return 1.0
        return float(self._plain_own[channel] / count - mean * mean_own) / variance

    @property
    def channels(self) -> int:
        return len(self._signal)


def channel_axis(shape: Sequence[int]) -> int:
    """The axis of the channels of a tensor ``[n, ...]``: the second, or of a list the last where that is shorter."""
    return 0 if len(shape) < 2 else 2 if len(shape) == 3 and shape[2] < shape[1] else 1


def _along(factor: Float, rank: int, axis: int) -> Float:
    shape = [1] * rank
    shape[axis] = len(factor)
    return factor.reshape(shape)
