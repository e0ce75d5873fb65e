"""Which codes of a layer integer kernels multiply and add two by two, and codes whose sums stay within 16 bits."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.arrays import Float32
from dfmpc_onnx.numerics.granularity import PerAxis, unrows
from dfmpc_onnx.numerics.quantized import QuantizedWeight
from dfmpc_onnx.numerics.saturation import (
    Neighbours,
    neighbours,
    neighbours_of_conv,
    row_blocks,
    saturating,
    within_pairs,
)
from dfmpc_onnx.pipeline.facts import Layer

PAIRED_OPERATORS = ("Conv", "Gemm", "MatMul")  # that integer kernels compute
LIMITED_OUTPUTS = "outputs_within_16_bits"  # the figure of a rewrite that counts outputs with other codes
WIDEST_CODE = 8  # bits; all pairs of narrower codes fit


def neighbours_of(layer: Layer) -> Neighbours | None:
    """The neighbours of the entries of a layer's patches; None where no kernel adds two products in 16 bits."""
    if layer.op not in PAIRED_OPERATORS or len(layer.shape) < 2:
        return None
    if layer.op == "Conv":
        return neighbours_of_conv(layer.shape, layer.groups)
    return neighbours(layer.size // layer.shape[layer.axis], 1)


def without_saturation(layer: Layer, weight: Float32, quantized: QuantizedWeight) -> tuple[QuantizedWeight, int]:
    """Codes for a weight of which no pair saturates, and for how many outputs they are other ones.

    weight: float32, in the layer's shape. quantized: codes for it; returned as it is where nothing saturates, and where
    codes less their zero points do not fit int8, since such layers compute in float. The scales of the outputs
    concerned may grow, or the one scale of all; codes on half steps of 7 bits take 8.
    """
    beside, half = neighbours_of(layer), _half_steps(quantized)
    if beside is None or not quantized.codes.size or (quantized.bits < WIDEST_CODE and not half):
        return quantized, 0
    steps = _steps(layer, quantized)
    outs = saturating(steps, beside)
    if not outs.any() or steps.min() < -128 or steps.max() > 127:  # what int8 cannot hold has no integer kernel
        return quantized, 0
    scale = quantized.scale / np.float32(2) if half else quantized.scale.copy()
    granularity = PerAxis(layer.axis)
    rows = np.asarray(granularity.rows(weight), np.float32)
    even = np.ones(len(beside))
    if scale.size == 1:
        whole = np.broadcast_to(scale.reshape(1, 1), (len(rows), 1))
        steps[:], wider = within_pairs(rows, whole, beside, even, one_scale=True)
        scale[:] = wider[0, 0]
    else:
        each, hit = scale.reshape(-1, 1), np.flatnonzero(outs)
        for block in row_blocks(len(hit), len(beside)):
            part = hit[block]
            steps[part], each[part] = within_pairs(rows[part], each[part], beside, even)
        scale = each.reshape(scale.shape)
    codes = np.ascontiguousarray(unrows(steps.astype(np.int8), layer.shape, granularity))
    zero = np.zeros_like(quantized.zero_point)
    return dataclasses.replace(quantized, codes=codes, scale=scale, zero_point=zero, bits=WIDEST_CODE), int(outs.sum())


def _half_steps(quantized: QuantizedWeight) -> bool:
    return bool(np.any(quantized.zero_point != np.rint(quantized.zero_point)))


def _steps(layer: Layer, quantized: QuantizedWeight) -> npt.NDArray[np.int16]:
    """The codes as integer kernels have them, less their zero points, twice where those are halves: ``[out, k]``."""
    times = 2 if _half_steps(quantized) else 1
    steps = quantized.codes.astype(np.int16) * np.int16(times) - (quantized.zero_point * times).astype(np.int16)
    rows: npt.NDArray[np.int16] = np.array(PerAxis(layer.axis).rows(steps))
    return rows
