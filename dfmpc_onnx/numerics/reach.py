"""How far the channels of a layer's output may reach, from moments and weights: docs/method.md, section 7.

What excites a detector is not among the procedural images, so the extremes of a sample say too little: of a score
they show one end of its scale. Moments say more. A channel is taken to reach eight deviations to both sides.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dfmpc_onnx.numerics.arrays import Float, Float32
from dfmpc_onnx.numerics.ranges import DEVIATIONS

SELDOM = 0.25  # of what the layer in front allows: a channel that reaches less on the sample is seldom active there


@dataclasses.dataclass(frozen=True)
class Reach:
    """Mean, and least and greatest value, of each channel: three ``[channels]`` float64."""

    mean: Float
    low: Float
    high: Float

    @classmethod
    def of_moments(cls, mean: Float, variance: Float) -> Reach:
        """Eight deviations to both sides. mean, variance: ``[channels]``."""
        far = DEVIATIONS * np.sqrt(np.maximum(variance, 0.0))
        return cls(mean, mean - far, mean + far)

    @property
    def bounds(self) -> tuple[float, float]:
        """Of the tensor: the least of all channels, and the greatest."""
        return float(self.low.min()), float(self.high.max())

    def with_(self, other: Reach) -> Reach:
        """As far as either reaches, around the mean of this one."""
        return Reach(self.mean, np.minimum(self.low, other.low), np.maximum(self.high, other.high))

    def roused(self, allowed: Reach) -> Reach:
        """The channels that are seldom active on the sample as far as they are allowed to go; others as they are.

        Of a Gaussian that a Relu cuts eight deviations are 0.6 of what it can reach; a quarter, where its mean lies 1.2
        deviations below 0. What is cut further down says little of what will excite it.
        """
        up = self.high - self.mean < SELDOM * (allowed.high - self.mean)
        down = self.mean - self.low < SELDOM * (self.mean - allowed.low)
        return Reach(self.mean, np.where(down, allowed.low, self.low), np.where(up, allowed.high, self.high))

    def unseen(self, variance: Float) -> Float:
        """What variance there may be beyond that of a sample: of what is roused, else 0. Shaped like mean."""
        allowed = np.square(np.maximum(self.high - self.mean, self.mean - self.low) / DEVIATIONS)
        return np.where(variance < np.square(SELDOM) * allowed, allowed, 0.0)


def pushed_reach(rows: Float32, entries: Reach, bias: Float | float = 0.0) -> Reach:
    """Of a layer's outputs when the entries of its patches are pushed up, or down, along its weights.

    Each entry goes from its mean towards the end of its reach that its weight's sign asks for; independent entries do
    not do so at once, so that what they add counts by the root of its squares. rows: ``[groups, out/group, k]``;
    entries: three ``[groups, k]``; bias: ``[out]``.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is no bound
        return _pushed(rows, entries, bias)


def _pushed(rows: Float32, entries: Reach, bias: Float | float) -> Reach:
    up, down = (np.square(side)[:, :, None] for side in (entries.high - entries.mean, entries.mean - entries.low))
    squares = np.square(rows)
    rising = np.where(rows > 0, squares, np.float32(0))
    squares -= rising  # of the weights that fall
    centre = (rows @ entries.mean[:, :, None].astype(np.float32)).reshape(-1).astype(np.float64) + bias
    above, below = (
        np.sqrt((rising @ a.astype(np.float32) + squares @ b.astype(np.float32)).reshape(-1).astype(np.float64))
        for a, b in ((up, down), (down, up))
    )
    return Reach(centre, centre - below, centre + above)
