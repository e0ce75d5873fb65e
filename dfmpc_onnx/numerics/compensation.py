"""DF-MPC's closed form: the factor per channel by which the next layer undoes a low-bit layer's error.

Chen et al., "Data-free quantization via mixed-precision compensation without fine-tuning", Pattern Recognition 143
(2023) 109780, arXiv 2307.00498; equation numbers are theirs. j is an output channel of the low-bit layer and the
same input channel of the layer behind it. Quantities with a hat belong to the quantized network.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.batch_norm import BatchNormParameters


@dataclasses.dataclass(frozen=True)
class Products:
    """``<W^, W>``, ``|W^|^2`` and ``|W|^2`` of each output channel: ``[out]`` float64 each."""

    cross: Float
    square: Float
    original: Float

    @classmethod
    def of(cls, weight: npt.NDArray[np.float32], quantized: npt.NDArray[np.float32]) -> Products:
        """weight: the low-bit layer's float weight; quantized: its dequantized codes; ``[out, ...]`` float32 both."""
        w, q = weight.reshape(len(weight), -1), quantized.reshape(len(quantized), -1)
        pairs = ((q, w), (q, q), (w, w))
        return cls(*(np.einsum("oi,oi->o", a, b, dtype=np.float64) for a, b in pairs))

    def minimizer(
        self, norm: BatchNormParameters, norm_hat: BatchNormParameters, lambda1: float, lambda2: float
    ) -> Float:
        """The c of equation 27, ``[out]`` float64: what minimizes the loss of equation 23 over c >= 0.

        ``c = (<x^, x> + lambda1 y^ y) / (|x^|^2 + lambda1 y^^2 + lambda2)`` with ``x = gamma W / std`` and
        ``y = beta - gamma mean / std``, then ``max(c, 0)``, and 1 where the denominator vanishes.

        norm, norm_hat: the BatchNormalization behind the low-bit layer, of the float and of the quantized network;
        a layer's own bias must already be taken off their means.
        """
        numerator = norm_hat.factor * norm.factor * self.cross + lambda1 * norm_hat.offset * norm.offset
        denominator = norm_hat.factor**2 * self.square + lambda1 * norm_hat.offset**2 + lambda2
        live = denominator > np.finfo(np.float64).tiny
        c = np.divide(numerator, denominator, out=np.ones_like(numerator), where=live)
        return np.maximum(c, 0.0)

    def loss(
        self, c: Float, norm: BatchNormParameters, norm_hat: BatchNormParameters, lambda1: float, lambda2: float
    ) -> Float:
        """Equation 23, ``|Gamma|^2 + lambda1 Theta^2 + lambda2 c^2``, per channel: ``[out]`` float64."""
        f, f_hat = norm.factor, c * norm_hat.factor
        gamma = f_hat**2 * self.square - 2 * f_hat * f * self.cross + f**2 * self.original
        theta = np.square(c * norm_hat.offset - norm.offset)
        result: Float = np.maximum(gamma, 0.0) + lambda1 * theta + lambda2 * np.square(c)
        return result
