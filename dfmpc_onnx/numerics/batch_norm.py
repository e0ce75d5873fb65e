"""The parameters of a BatchNormalization as numbers."""

from __future__ import annotations

import dataclasses

from dfmpc_onnx.numerics.arrays import Float


@dataclasses.dataclass(frozen=True)
class BatchNormParameters:
    """Of one BatchNormalization: float64 ``[channels]`` each; std includes epsilon."""

    gamma: Float
    beta: Float
    mean: Float
    std: Float

    @property
    def factor(self) -> Float:
        """``gamma / std``: what the normalization multiplies its input by."""
        return self.gamma / self.std

    @property
    def offset(self) -> Float:
        """``beta - gamma mean / std``: what it adds."""
        return self.beta - self.factor * self.mean

    def channels(self, first: int, count: int) -> BatchNormParameters:
        """Those of a run of channels alone."""
        run = slice(first, first + count)
        return BatchNormParameters(self.gamma[run], self.beta[run], self.mean[run], self.std[run])
