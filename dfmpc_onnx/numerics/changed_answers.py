"""How many first answers an error of class scores changes: by what it changed in other networks, and by counting.

For two tables of scores, each row's mean and each class's mean removed, let rho be their correlation. The error stands
at an angle to the scores whose tangent, t = sqrt(1 - rho^2) / rho, is noise over signal where noise is small and grows
without end where nothing is left of the scores. Rows near the border between two classes change, and their density
there does not depend on small noise: the odds of a change are c t. log10 of c scatters between networks and between
settings of a network; a new network's c has Student's t distribution about their mean.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dfmpc_onnx.numerics.arrays import Float

LOG_ODDS = np.linspace(-6.0, 6.0, 4801)  # log10 of the odds of a change
LARGEST_TANGENT = 1e3  # of tables without correlation


@dataclasses.dataclass(frozen=True)
class ErrorLaw:
    """What errors changed in the networks that were measured: log10(c) by its mean and deviation for a network not
    among them, and the degrees of freedom of these."""

    mean: float
    deviation: float
    freedom: int

    def density(self, tangent: float) -> Float:
        """How likely the odds at `LOG_ODDS` are, not normalized, under an error of this tangent."""
        z = (LOG_ODDS - self.mean - np.log10(max(tangent, 1e-9))) / self.deviation
        likely: Float = (1 + z * z / self.freedom) ** (-(self.freedom + 1) / 2)
        return likely


def changed_share(law: ErrorLaw, tangent: float, changed: int = 0, count: int = 0) -> tuple[float, float, float]:
    """The share of answers that an error changes: the ends of its interval of 95 %, and its median in between.

    changed, count: how many of how many were counted on inputs like those that the share is of (binomial likelihood;
    Bayes' rule). Without a count, the interval is that of a network of which nothing else is known.
    """
    # In logarithms: hundreds of counted answers leave likelihoods that no float holds.
    share = 1 / (1 + 10.0**-LOG_ODDS)
    other = 1 / (1 + 10.0**LOG_ODDS)
    weight = np.log(law.density(tangent)) + changed * np.log(share) + (count - changed) * np.log(other)
    likely = np.exp(weight - weight.max())
    below = np.cumsum(likely) / likely.sum()
    low, middle, high = (float(share[np.searchsorted(below, level)]) for level in (0.025, 0.5, 0.975))
    return low, middle, high


class ScoreSums:
    """Sums over the rows of two tables of class scores ``[n, classes]``, from which the tangent follows."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._rows = 0
        self._columns = np.zeros((2, classes))
        self._products = np.zeros(3)  # of want with itself, of want with got, of got with itself

    def add(self, want: Float, got: Float) -> None:
        """More rows, in double precision."""
        a, b = (table - table.mean(axis=1, keepdims=True) for table in (want, got))
        self._rows += len(a)
        self._columns += np.stack([a.sum(axis=0), b.sum(axis=0)])
        self._products += [float((x * y).sum()) for x, y in ((a, a), (a, b), (b, b))]

    @property
    def tangent(self) -> float | None:
        """None where the scores say nothing: one row, scores that are all alike, values that are not finite."""
        mean = self._columns[0] / max(self._rows, 1)
        of_want, of_got = self._columns @ mean
        offset = self._rows * float(mean @ mean)
        want, both, got = self._products - [2 * of_want, of_want + of_got, 2 * of_got] + offset
        if not np.isfinite([want, both, got]).all() or want <= 1e-12 * self._products[0]:
            return None
        if both <= 0:
            return LARGEST_TANGENT
        across = max(want * got - both * both, 0.0)
        return float(min(np.sqrt(across) / both, LARGEST_TANGENT))
