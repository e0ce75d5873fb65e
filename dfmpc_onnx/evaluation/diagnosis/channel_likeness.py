"""How like the channels of a layer are in two networks, each channel beside each."""

from __future__ import annotations

import numpy as np

from dfmpc_onnx.evaluation.tensor_sums import channel_axis
from dfmpc_onnx.numerics.arrays import Array, Float

THE_SAME = 0.9  # correlation of two channels that are one but for its rounding to few bits and more
TIMES_LESS = 4.0  # is unexplained by another channel than by itself before they have changed places


class ChannelLikeness:
    """Correlations between the channels of the float network's tensor and those of the quantized one's."""

    def __init__(self) -> None:
        self._count = 0
        self._plain = self._own = self._plain_2 = self._own_2 = np.zeros(1)
        self._crossed = np.zeros((1, 1))

    def add(self, plain: Array, own: Array, real: int) -> None:
        """One run of both, of one shape, of so many inputs that are no filling."""
        if plain.shape != own.shape:
            return
        axis = channel_axis(plain.shape)
        y, p = (
            np.asarray(values[:real] if len(values) > real > 0 and values.ndim > 1 else values, np.float64)
            for values in (plain, own)
        )
        y, p = (np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1) for values in (y, p))
        with np.errstate(over="ignore", invalid="ignore"):
            self._crossed = self._crossed + p @ y.T
            self._plain, self._own = self._plain + y.sum(axis=1), self._own + p.sum(axis=1)
            self._plain_2 = self._plain_2 + np.square(y).sum(axis=1)
            self._own_2 = self._own_2 + np.square(p).sum(axis=1)
        self._count += y.shape[1]

    def of(self, channel: int) -> tuple[float, int | None]:
        """How like a channel is to itself in the float network, 0 to 1, and which one it has changed places with.

        Each is then like the other and less like itself.
        """
        if self._count < 3 or channel >= len(self._plain):
            return 1.0, None
        row = self._correlations(channel)
        alike = abs(float(row[channel]))
        other = int(np.argmax(row))
        mutual = _is_rather(row, channel, other) and _is_rather(self._correlations(other), other, channel)
        return alike, other if mutual else None

    def _correlations(self, channel: int) -> Float:
        """Of a channel of the quantized network with each of the float one; 0 where one does not vary."""
        count = self._count
        covariance = self._crossed[channel] / count - self._own[channel] * self._plain / count**2
        variance = self._plain_2 / count - (self._plain / count) ** 2
        own = self._own_2[channel] / count - (self._own[channel] / count) ** 2
        with np.errstate(invalid="ignore", divide="ignore"):
            found: Float = np.nan_to_num(covariance / np.sqrt(variance * own), posinf=0.0, neginf=0.0)
        return found


def _is_rather(correlations: Float, channel: int, other: int) -> bool:
    """Whether a channel is another one, by its correlations with all."""
    unexplained = 1 - correlations[other] ** 2
    own = 1 - max(float(correlations[channel]), 0.0) ** 2
    return bool(correlations[other] >= THE_SAME and own > TIMES_LESS * unexplained)
