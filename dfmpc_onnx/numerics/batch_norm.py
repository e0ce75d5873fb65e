"""The parameters of a BatchNormalization as numbers."""

from __future__ import annotations

import dataclasses

import numpy as np

from dfmpc_onnx.numerics.arrays import Float

SMALLEST = 1e-12  # of a variance that is divided by


@dataclasses.dataclass(frozen=True)
class BatchNormParameters:
    """Of one BatchNormalization: float64 ``[channels]`` each; std is ``sqrt(variance + epsilon)``."""

    gamma: Float
    beta: Float
    mean: Float
    std: Float
    epsilon: float

    @property
    def factor(self) -> Float:
        """``gamma / std``: what the normalization multiplies its input by."""
        return self.gamma / self.std

    @property
    def offset(self) -> Float:
        """``beta - gamma mean / std``: what it adds."""
        return self.beta - self.factor * self.mean

    @property
    def variance(self) -> Float:
        """``std^2 - epsilon``: what it measured in training, at least 0."""
        return np.maximum(np.square(self.std) - self.epsilon, 0.0)

    @property
    def output_variance(self) -> Float:
        """``gamma^2 v / (v + epsilon)``: what its output varied by in training.

        Next to gamma^2 mostly, but a channel that never varied stays constant.
        """
        return np.square(self.gamma) * (self.variance / np.square(self.std))

    def batch_std(self, variance: Float) -> Float:
        """What it divides by in batch-statistics mode, where its input has a variance ``[channels]``.

        Never 0, which an epsilon of 0 would allow.
        """
        result: Float = np.sqrt(np.maximum(variance + self.epsilon, SMALLEST))
        return result

    def channels(self, first: int, count: int) -> BatchNormParameters:
        """Those of a run of channels alone."""
        run = slice(first, first + count)
        return BatchNormParameters(self.gamma[run], self.beta[run], self.mean[run], self.std[run], self.epsilon)

    def without_bias(self, bias: Float) -> BatchNormParameters:
        """As its input's mean is seen without the bias of the layer in front, ``[channels]``."""
        return dataclasses.replace(self, mean=self.mean - bias)
