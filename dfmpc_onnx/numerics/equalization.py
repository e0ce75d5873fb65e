"""Factors that give channels the same reach, as codes hold them: docs/method.md, section 7."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from dfmpc_onnx.numerics.arrays import Float, Float32
from dfmpc_onnx.numerics.ranges import LEVELS

POWERS = (1.0, 0.75, 0.5, 0.25, 0.0)  # of the factors that give all channels the same reach, those tried
WIDEST_SPREAD = 8.0  # times what a channel reaches: of its noise a 64th is left, and more would leave it no tail


def gate_codes(reach: Float) -> Float:
    """Whole 255ths k / 255 of the widest channel's reach that each channel's is enlarged to, rounded up.

    Times 255 / k no channel reaches further than the widest. reach: ``[channels]``, at least 0. Returns whole numbers
    of 255 / 8 to 255, ``[channels]`` float64; 255 for all where nothing reaches anywhere.
    """
    widest = float(np.max(reach, initial=0.0))
    if not widest > 0:
        return np.full(len(reach), float(LEVELS))
    codes: Float = np.ceil(LEVELS * np.maximum(reach / widest, 1.0 / WIDEST_SPREAD))
    return codes


@dataclasses.dataclass(frozen=True)
class ChannelReader:
    """A layer that reads channels which factors are to be taken from.

    rows: its weight, ``[groups, out/group, k]``; squares: mean squares of the entries of its patches on a sample,
    ``[groups, k]``. Entries are channel by channel, each with its taps.
    """

    rows: Float32
    squares: Float

    def noise(self, factors: Float, reach: Float, bits: float, levels: int = LEVELS) -> float:
        """Of its outputs, the share that is noise of rounding, where channels are divided by factors.

        A weight is rounded in steps of the largest of its output's row, ``max_e |w_e f_e|``, and what it reads in steps
        of the widest channel, ``max_j r_j / f_j``; each step d is an error of variance d^2 / 12. Entries are taken as
        independent. The larger share counts of that on the sample and that where what is faint on it is excited as an
        average entry is. factors, reach: ``[channels]``; bits: of the weight; levels: steps that what it reads has.
        """
        entries = np.repeat(factors, self.squares.size // len(factors)).reshape(self.squares.shape)
        rows = self.rows * entries[:, None, :].astype(np.float32)
        steps = np.abs(rows).max(axis=2).astype(np.float64) / (2 ** (bits - 1) - 1)
        power = np.square(steps).sum(axis=1)
        of_input = float(np.square((reach / factors).max() / levels) * np.square(rows).sum(dtype=np.float64))
        shares = [0.0]
        for squares in (self.squares, np.maximum(self.squares, self.squares.mean())):
            of_weight = float((power * (squares / np.square(entries)).sum(axis=1)).sum())
            signal = float((np.square(self.rows) @ squares[:, :, None]).sum(dtype=np.float64))
            shares += [(of_weight + of_input) / (12 * signal)] if signal > 0 else []
        return max(shares)


def quietest(
    readers: Sequence[ChannelReader], factors: Float, reach: Float, bits: float, levels: int = LEVELS
) -> Float:
    """The power of the factors with which all readers together make the least noise, the highest of those alike.

    Channels of like reach waste no steps of what is read. But the factors come back in the weights of the layers that
    read them, whose rows have one step each: where one channel reaches far beyond the others, that step is coarse for
    all, and the weights of those that are faint on the sample are lost. A depthwise Conv has a step a channel, and
    loses nothing. factors, reach, bits, levels: as of `ChannelReader.noise`.
    """
    tried = [np.power(factors, power) for power in POWERS]
    return min(tried, key=lambda chosen: sum(reader.noise(chosen, reach, bits, levels) for reader in readers))
