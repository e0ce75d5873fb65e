"""A quantized weight: integer codes, and the affine map that turns them back into numbers."""

from __future__ import annotations

import dataclasses

import numpy as np

from dfmpc_onnx.numerics.arrays import CodeArray, Float32
from dfmpc_onnx.numerics.codebook import Codebook


@dataclasses.dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """``weight = scale * (codes - zero_point)``. Equal to itself alone; layers that share a weight may share its codes.

    codes: the weight's shape, int8, between ``-2**(bits-1)`` and ``2**(bits-1) - 1``.
    scale: float32, the weight's rank, length 1 where shared. Positive, unless a fold has given it a sign.
    zero_point: float32, broadcastable like scale. 0 for symmetric grids; an integer for asymmetric ones; -0.5
        for the mid-rise grid of DoReFa, whose levels are odd multiples of half a step.
    bits: width of a code, 2 to 8. Ternary codes are -1, 0, 1 in 2 bits.
    ternary: whether the codes are -1, 0 and 1 alone.
    book: the table whose vectors the codes of each output channel are, block by block; the channels are then the
        weight's first axis and zero points are 0. None where each code is free.
    """

    codes: CodeArray
    scale: Float32
    zero_point: Float32
    bits: int
    ternary: bool = False
    book: Codebook | None = None

    @property
    def width(self) -> float:
        """Bits that a code takes where it is packed: of a codebook those of an index over its codes, else `bits`."""
        if self.book is None:
            return self.bits
        whole, left = divmod(self.book.blocks.index_bits, self.book.length)
        return whole if not left else round(self.book.bits, 2)

    def dequantize(self) -> Float32:
        """The weight that the codes stand for, float32, in the shape of the codes."""
        return dequantize(self.codes, self.scale, self.zero_point)

    def widened(self, least: Float32) -> QuantizedWeight:
        """With scales of at least `least`, shaped like scale: finer slices are rounded to that step, ties to even.

        A whole zero point stays, so a new code lies between the old one and the zero point, and fits as they do.
        Half-step grids, which have no zero, are rounded around 0: little is left of what is far finer than a step.
        """
        coarse = np.broadcast_to(self.scale < least, np.broadcast_shapes(self.scale.shape, least.shape))
        if not coarse.any():
            return self
        scale = np.where(coarse, least, self.scale).astype(np.float32)
        whole = self.zero_point == np.rint(self.zero_point)
        zero_point = np.where(coarse & ~whole, np.float32(0), self.zero_point).astype(np.float32)
        if self.book is not None:
            steps = (self.dequantize() / scale).reshape(len(self.codes), -1)
            fresh = self.book.nearest(steps).reshape(self.codes.shape)
        else:
            fresh = quantize(self.dequantize(), scale, zero_point, self.bits)
        return dataclasses.replace(self, codes=np.where(coarse, fresh, self.codes), scale=scale, zero_point=zero_point)

    def scaled(self, factor: Float32) -> QuantizedWeight:
        """The same codes under ``scale * factor``, factor broadcastable like scale, made safe to emit.

        A negative scale is refused by some runtimes, so a sign moves into the codes. A zero scale is computed
        wrongly by onnxruntime 1.31 in integer kernels, so it becomes codes at the zero point and scale 1.
        """
        scale = (self.scale * factor).astype(np.float32)
        codes, zero_point = self.codes, np.broadcast_to(self.zero_point, scale.shape).astype(np.float32)
        negative = scale < 0
        if negative.any():
            # -(q - z) = (m - q) - (m - z): m = 0 keeps symmetric codes symmetric, m = -1 mirrors a full range.
            mirror = np.where((zero_point == 0) & (codes > -(2 ** (self.bits - 1))).all(), 0, -1).astype(np.int8)
            codes = np.where(negative, mirror - codes, codes).astype(np.int8)
            zero_point = np.where(negative, mirror - zero_point, zero_point).astype(np.float32)
            scale = np.abs(scale)
        dead = (scale == 0) | ~np.isfinite(scale)
        if dead.any():
            codes = np.where(dead, np.int8(0), codes).astype(np.int8)
            zero_point = np.where(dead, np.float32(0), zero_point).astype(np.float32)
            scale = np.where(dead, np.float32(1), scale).astype(np.float32)
        return dataclasses.replace(self, codes=codes, scale=scale, zero_point=zero_point)


def quantize(weight: Float32, scale: Float32, zero_point: Float32, bits: int) -> CodeArray:
    """Codes of the grid points nearest to a weight, ties to the even code, clipped to `bits`.

    weight, scale, zero_point: float32, broadcastable. Returns int8 in the weight's shape.
    """
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    codes = weight / scale
    codes += zero_point
    np.rint(codes, out=codes)
    np.clip(codes, lowest, highest, out=codes)
    return codes.astype(np.int8)


def dequantize(codes: CodeArray, scale: Float32, zero_point: Float32) -> Float32:
    """``scale * (codes - zero_point)`` in float32, as DequantizeLinear and Cast-Sub-Mul compute it."""
    values = codes.astype(np.float32)
    if np.any(zero_point):
        values -= zero_point
    values *= scale
    return values
