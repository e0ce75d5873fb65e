"""Which layers have pairs, and codes without a pair that saturates."""

import numpy as np
import pytest

from dfmpc_onnx.numerics.granularity import PerAxis, PerTensor
from dfmpc_onnx.numerics.saturation import neighbours, saturating
from dfmpc_onnx.numerics.uniform import dorefa, symmetric
from dfmpc_onnx.pipeline.facts import Layer
from dfmpc_onnx.qdq.decoder import integer_scale
from dfmpc_onnx.qdq.kernel_pairs import neighbours_of, without_saturation

CONV = Layer("conv", "Conv", "w", (6, 4, 3, 3), 0)
GEMM = Layer("gemm", "Gemm", "w", (6, 36), 0)
MATMUL = Layer("matmul", "MatMul", "w", (36, 6), 1)


def weight_of(layer, tail=6):
    return np.random.default_rng(3).standard_t(tail, layer.shape).astype(np.float32)


def steps_of(layer, quantized):
    """Codes as the integer kernel gets them, ``[out, k]``."""
    whole = quantized.dequantize() / integer_scale(quantized).reshape(quantized.scale.shape)
    return np.rint(PerAxis(layer.axis).rows(whole))


@pytest.mark.parametrize(
    ("layer", "pairs"),
    [
        (CONV, 18),
        (Layer("grouped", "Conv", "w", (6, 2, 3, 3), 0, groups=3), 9),
        (Layer("one channel a group, two outputs", "Conv", "w", (8, 1, 3, 3), 0, groups=4), 4),
        (GEMM, 18),
        (MATMUL, 18),
        (Layer("depthwise", "Conv", "w", (8, 1, 3, 3), 0, groups=8), None),
        (Layer("no integer kernel", "ConvTranspose", "w", (4, 6, 3, 3), 1), None),
        (Layer("computed", "MatMul", "w", (), 0), None),
    ],
    ids=lambda value: value.name if isinstance(value, Layer) else "",
)
def test_layers_whose_products_are_added_two_by_two(layer, pairs):
    beside = neighbours_of(layer)
    assert (None if beside is None else int((beside >= 0).sum()) // 2) == pairs


def test_neighbours_of_a_conv_are_channels_at_one_tap():
    channel, tap = np.divmod(neighbours_of(CONV), 9)
    assert channel.reshape(4, 9)[:, 0].tolist() == [1, 0, 3, 2]
    assert np.array_equal(tap.reshape(4, 9), np.tile(np.arange(9), (4, 1)))


@pytest.mark.parametrize("layer", [CONV, GEMM, MATMUL], ids=lambda layer: layer.op)
def test_only_outputs_with_such_a_pair_change(layer):
    weight = weight_of(layer)
    before = symmetric(weight, 8, PerAxis(layer.axis))
    hit = saturating(steps_of(layer, before), neighbours_of(layer))
    assert hit.any()
    after, count = without_saturation(layer, weight, before)
    assert count == hit.sum() and after.bits == 8
    assert not saturating(steps_of(layer, after), neighbours_of(layer)).any()
    assert np.array_equal(after.scale.reshape(-1)[~hit], before.scale.reshape(-1)[~hit])
    rows = (PerAxis(layer.axis).rows(q.codes) for q in (before, after))
    first, second = (r[~hit] for r in rows)
    assert np.array_equal(first, second)
    assert np.abs(after.dequantize() - weight).max() < 0.35 * np.abs(weight).max()
    assert without_saturation(layer, weight, after) == (after, 0)


def test_one_scale_for_the_weight_stays_one():
    weight = weight_of(CONV)
    before = symmetric(weight, 8, PerTensor())
    after, count = without_saturation(CONV, weight, before)
    assert count and after.scale.shape == before.scale.shape and after.scale >= before.scale
    assert not saturating(steps_of(CONV, after), neighbours_of(CONV)).any()


@pytest.mark.parametrize("granularity", [PerTensor(), PerAxis(0)], ids=["per tensor", "per channel"])
def test_half_steps_of_7_bits_take_8(granularity):
    """Their odd multiples of half a step reach 127."""
    weight = weight_of(CONV, tail=30)
    before = dorefa(weight, 7, granularity)
    after, count = without_saturation(CONV, weight, before)
    assert count and after.bits == 8 and not after.zero_point.any()
    assert not saturating(steps_of(CONV, after), neighbours(4, 9)).any()
    assert np.abs(after.dequantize() - weight).max() < 0.35 * np.abs(weight).max()


@pytest.mark.parametrize("bits", [2, 4, 7])
def test_narrower_codes_stay(bits):
    before = symmetric(weight_of(CONV), bits, PerAxis(0))
    assert without_saturation(CONV, weight_of(CONV), before) == (before, 0)
