"""How many scales a weight has: one for the tensor, or one for each slice along an axis.

Vocabulary as in the field: *per tensor* and *per axis* ("per channel" where the axis is that of the output
channels). A scale array always keeps the rank of its weight, with length 1 where it is shared, so that it
broadcasts against the weight without further thought.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass(frozen=True)
class PerTensor:
    """One scale for the whole weight: shape ``[1] * rank``."""

    def rows(self, weight: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """The weight as ``[1, size]``, a row for each scale."""
        return weight.reshape(1, -1)

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (1,) * len(shape)


@dataclasses.dataclass(frozen=True)
class PerAxis:
    """One scale for each index along `axis`: ``[out, in, kh, kw]`` and axis 0 give ``[out, 1, 1, 1]``."""

    axis: int

    def rows(self, weight: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """The weight as ``[n, rest]``, a row for each index along the axis."""
        return np.moveaxis(weight, self.axis, 0).reshape(weight.shape[self.axis], -1)

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(size if i == self.axis else 1 for i, size in enumerate(shape))


Granularity = PerTensor | PerAxis


def unrows(rows: npt.NDArray[np.generic], shape: tuple[int, ...], granularity: Granularity) -> npt.NDArray[np.generic]:
    """The inverse of ``granularity.rows``: rows back to a weight of `shape`."""
    if isinstance(granularity, PerTensor):
        return rows.reshape(shape)
    axis = granularity.axis
    moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
    return np.moveaxis(rows.reshape(moved), 0, axis)
