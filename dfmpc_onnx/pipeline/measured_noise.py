"""What the damages of a plan come to at the outputs, as a file showed that was built by it."""

from __future__ import annotations

import dataclasses
import math

LEAST_PART = 0.1  # of the noise, that is of weights at least, where rounded activations seem to make all of it
# Noise for each unit of damage, where activations make most of the noise and hide what weights make: files in which
# weights make it have a third at most, and a half is on the safe side.
MOST_UNRESOLVED = 1 / 2


@dataclasses.dataclass(frozen=True)
class MeasuredNoise:
    """Noise over signal at the outputs: so much for each unit of summed damage, and so much by rounded activations.

    Damages are of single layers, before anything is repaired, as shares of what the outputs of a few procedural images
    differ by: their sum ranks plans, and is 3 to 10 times the noise of the file. What a file of such a plan shows
    fixes that factor.
    """

    per_damage: float = 1.0
    activations: float = 0.0

    @classmethod
    def of_file(cls, sqnr_db: float, damage: float, activations: float) -> MeasuredNoise:
        """As a file of so many dB shows it. damage: of its plan. activations: noise over signal by rounding them, at
        most; the rest is of weights."""
        noise = 10 ** (-sqnr_db / 10)
        of_weights = max(noise - activations, LEAST_PART * noise)
        if damage <= 0:
            return cls(1.0, noise)
        if activations > noise / 2:
            of_weights = min(of_weights, MOST_UNRESOLVED * damage)
        return cls(of_weights / damage, noise - of_weights)

    def above(self, decibels: float) -> MeasuredNoise:
        """The same with so much more noise, for plans that shall lie above what is asked for."""
        factor = 10 ** (decibels / 10)
        return MeasuredNoise(self.per_damage * factor, self.activations * factor)

    def of(self, damage: float) -> float:
        """Noise over signal of a plan, 0 to 1 and beyond. damage: the sum over its layers."""
        return self.per_damage * damage + self.activations

    def sqnr_db(self, damage: float) -> float:
        """The signal-to-noise ratio of a plan in dB; infinite where nothing is lost."""
        noise = self.of(damage)
        return -10 * math.log10(noise) if noise > 0 else math.inf

    def damage_at(self, sqnr_db: float) -> float:
        """What damages may add up to for so many dB; below 0 where activations alone make more noise."""
        return (10 ** (-sqnr_db / 10) - self.activations) / self.per_damage


NOT_MEASURED = MeasuredNoise()
