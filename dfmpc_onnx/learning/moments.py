"""Mean and variance of a tensor, with the gradient of both in one pass.

`torch.var_mean` gives the same values. On a processor it takes several times as long, and learning is mostly that.
"""

from __future__ import annotations

from typing import Any

import torch

from dfmpc_onnx.learning.torch_import import Tensor


class Moments(torch.autograd.Function):  # type: ignore[misc]  # PyTorch is not seen by the type checker
    """Of x over some axes: ``mean`` and ``variance = mean((x - mean)^2)``. All axes are kept, of extent 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        mean = x.mean(dim=axes, keepdim=True)
        variance = (x - mean).square_().mean(dim=axes, keepdim=True)
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, of_mean: Tensor, of_variance: Tensor) -> tuple[Tensor, None]:
        """``d mean / d x = 1 / count`` and ``d variance / d x = 2 (x - mean) / count``."""
        x, mean = ctx.saved_tensors
        count = x.numel() / mean.numel()
        slope = of_variance * (2 / count)
        return torch.addcmul(of_mean / count - slope * mean, x, slope), None


def moments(x: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and variance over axes that are dropped, both float32. axes: at least one."""
    mean, variance = Moments.apply(x, axes)
    kept = tuple(extent for axis, extent in enumerate(x.shape) if axis not in axes)
    return mean.reshape(kept), variance.reshape(kept)
