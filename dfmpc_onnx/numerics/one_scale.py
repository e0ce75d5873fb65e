"""Factors a channel for tensors that have one scale each, a power of two: those that make the least noise.

Channels that layers give are divided by factors s, and those that read them multiplied: the network stays what it was.
Rounding a tensor in steps d makes noise of variance ``d^2 / 12`` in each of its values, where d follows from the
largest of them. So what is divided, the weights and biases that make the channels and the channels themselves, makes

    max_j (r_j / s_j)^2 sum_j g_j s_j^2

with r the reach of channel j and g what noise in it adds to the output, and what is multiplied, weights that read them,

    max_j (v_j s_j)^2 sum_j p_j / s_j^2

with p what noise in a weight adds. In the logarithms of s each is convex, and so is their sum: a geometric program.
Nagel et al. 2019, equation 11, ``s = sqrt(r / v)``, is the solution where two weights alone count, all channels alike.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.moments import normal_cdf, normal_pdf
from dfmpc_onnx.numerics.ranges import SIGNED_LEVELS

DESCENT_STEPS = 150
SHARPNESS = (4.0, 32.0)  # of the norm that stands for the maximum, at the first step and at the last
FIRST_STEP, LAST_STEP = 0.2, 0.01  # of the logarithm of a factor
FRACTIONS = np.exp2(np.arange(8) / 8)  # of a power of two, that a factor common to all channels may be
FARTHEST_FACTOR = np.log(2.0**10)  # of the logarithm of a factor
TINY = 1e-30


@dataclasses.dataclass(frozen=True)
class Held:
    """A tensor that has one scale, channel by channel: ``[channels]`` float64 each.

    reach: the largest number of a channel. gain: what noise of variance 1 in its numbers adds to the output. divided:
    whether a channel is divided by its factor; else multiplied. room: a power of two is chosen for the reach over this.
    cover: and must hold at least the reach over this.
    """

    reach: Float
    gain: Float
    divided: bool
    room: float = 1.0
    cover: float = math.inf

    @property
    def sign(self) -> float:
        """What a factor's logarithm counts in that of the reach."""
        return -1.0 if self.divided else 1.0

    def scaled(self, factors: Float) -> Held:
        """With the channels divided, or multiplied, by factors."""
        size = np.power(factors, self.sign)
        return dataclasses.replace(self, reach=self.reach * size, gain=self.gain / np.square(size))

    def noise(self, *, power_of_two: bool) -> float:
        """Of rounding, 12 times its variance; power_of_two: whether steps are, or just as large as they need to be."""
        peak = float(self.reach.max(initial=0.0)) / self.room / SIGNED_LEVELS
        if not peak > 0:
            return 0.0
        step = np.exp2(np.ceil(np.log2(peak))) if power_of_two else peak * self.room
        if power_of_two and step < peak * self.room / self.cover * 0.999:
            return math.inf
        return float(np.square(step) * self.gain.sum())


@dataclasses.dataclass(frozen=True)
class Cut:
    """Channels that are cut at a bound, which stays one for all when they are divided by factors.

    mean, std: of what is cut, taken as Gaussian; gain: as of `Held`; ``[channels]`` float64 each. bound: over 0.
    Where channels are divided by s they are cut at ``s bound`` in their former units.
    """

    mean: Float
    std: Float
    gain: Float
    bound: float

    def noise(self, factors: Float) -> Float:
        """12 times the mean square of what is cut too much or too little, times the gain: ``[channels]``."""
        here = self.bound * factors
        near, far = np.minimum(here, self.bound), np.maximum(here, self.bound)
        over_far, _ = self._beyond(far)
        square = self._square(near) - self._square(far) - 2 * (far - near) * over_far
        return np.asarray(12 * self.gain * np.maximum(square, 0.0), np.float64)

    def slope(self, factors: Float) -> Float:
        """Of `noise` in the logarithm of each factor."""
        here = self.bound * factors
        over, beyond = self._beyond(here)
        kept, _ = self._beyond(np.full_like(here, self.bound))
        rate = np.where(here < self.bound, kept - over, (here - self.bound) * beyond)
        return np.asarray(24 * self.gain * rate * here, np.float64)

    def _beyond(self, at: Float) -> tuple[Float, Float]:
        """``E (x - at)+``, and how often x is over it."""
        distance = (at - self.mean) / self.std
        share = normal_cdf(-distance)
        return self.std * (normal_pdf(distance) - distance * share), share

    def _square(self, at: Float) -> Float:
        """``E (x - at)+^2``."""
        distance = (at - self.mean) / self.std
        share = normal_cdf(-distance)
        square: Float = np.square(self.std) * ((1 + np.square(distance)) * share - distance * normal_pdf(distance))
        return square


def least_noise(held: Sequence[Held], cuts: Sequence[Cut] = ()) -> Float:
    """The factors of least noise in all tensors together, steps being just as large as they need to be.

    Returns ``[channels]`` float64, found by gradient descent with a norm in the place of the maximum.
    """
    point = np.zeros(len(held[0].reach))
    best, least = point, _noise_at(held, cuts, point)
    balanced = _balanced(held)
    if (noise := _noise_at(held, cuts, balanced)) < least:
        best, least, point = balanced, noise, balanced
    first, second = np.zeros_like(point), np.zeros_like(point)
    for step in range(1, DESCENT_STEPS + 1):
        done = step / DESCENT_STEPS
        slope = _slope(held, cuts, point, SHARPNESS[0] * (SHARPNESS[1] / SHARPNESS[0]) ** done)
        first, second = 0.9 * first + 0.1 * slope, 0.99 * second + 0.01 * np.square(slope)
        rate = FIRST_STEP * (LAST_STEP / FIRST_STEP) ** done
        move = (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + TINY)
        point = np.clip(point - rate * move, -FARTHEST_FACTOR, FARTHEST_FACTOR)
        if (noise := _noise_at(held, cuts, point)) < least:
            best, least = point, noise
    return np.asarray(np.exp(best), np.float64)


def common_factor(held: Sequence[Held]) -> float:
    """The factor for all channels, from 1 up to 2, with which powers of two make the least noise; 1 of those alike."""
    noises = [_noise(tuple(one.scaled(np.full(len(one.reach), f)) for one in held)) for f in FRACTIONS]
    best = int(np.argmin(noises))
    return float(FRACTIONS[best]) if noises[best] < noises[0] else 1.0


def _noise(held: Sequence[Held]) -> float:
    return sum(one.noise(power_of_two=True) for one in held)


def _noise_at(held: Sequence[Held], cuts: Sequence[Cut], point: Float) -> float:
    factors = np.exp(point)
    rounded = sum(one.scaled(factors).noise(power_of_two=False) for one in held)
    return rounded + sum(float(cut.noise(factors).sum()) for cut in cuts)


def _balanced(held: Sequence[Held]) -> Float:
    """``log sqrt(r / v)``, the reaches relative to their tensors', the largest of each kind."""
    sides = []
    for divided in (True, False):
        reaches = [one.reach / max(one.reach.max(initial=0.0), TINY) for one in held if one.divided is divided]
        sides.append(np.log(np.maximum(np.max(reaches, axis=0), 1e-6)) if reaches else np.zeros(len(held[0].reach)))
    balanced: Float = (sides[0] - sides[1]) / 2
    return balanced


def _slope(held: Sequence[Held], cuts: Sequence[Cut], point: Float, sharpness: float) -> Float:
    """Of the logarithm of the noise, with a norm of that sharpness in the place of the maximum."""
    total, slope, factors = 0.0, np.zeros_like(point), np.exp(point)
    for cut in cuts:
        total += float(cut.noise(factors).sum())
        slope += cut.slope(factors)
    for one in held:
        logs = sharpness * (np.log(np.maximum(one.reach, TINY)) + one.sign * point)
        top = logs.max()
        weights = np.exp(logs - top)
        peak = np.exp(2 * (top + np.log(weights.sum())) / sharpness)
        parts = one.gain * np.exp(-2 * one.sign * point)
        noise = peak * parts.sum()
        total += noise
        slope += 2 * one.sign * (noise * weights / weights.sum() - peak * parts)
    return slope / max(total, TINY)
