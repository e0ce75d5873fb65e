import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from dfmpc_onnx.numerics.batch_norm import BatchNormParameters
from dfmpc_onnx.numerics.compensation import Products
from dfmpc_onnx.numerics.granularity import PerTensor
from dfmpc_onnx.numerics.ternary import ternary
from tests.numerics.strategies import seeds

lambdas = st.sampled_from([0.0, 0.1, 0.5, 2.0])


def random_norm(rng, channels):
    """Every other gamma is negative."""
    gamma = rng.uniform(0.1, 2, channels) * np.where(np.arange(channels) % 2, -1, 1)
    beta, mean, std = rng.normal(size=channels), rng.normal(size=channels), rng.uniform(0.3, 3, channels)
    return BatchNormParameters(gamma, beta, mean, std, 1e-5)


def random_layer(seed, channels=4):
    """Weight, its ternary form, the normalization behind it and that of the quantized network."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((channels, 3, 3, 3)).astype(np.float32)
    norm = random_norm(rng, channels)
    moved = {"mean": norm.mean + rng.normal(0, 0.3, channels), "std": norm.std * rng.uniform(0.7, 1.4, channels)}
    return weight, ternary(weight, PerTensor()).dequantize(), norm, dataclasses.replace(norm, **moved)


def slow_loss(c, weight, quantized, norm, norm_hat, lambda1, lambda2, j):
    """Equation 23 of channel j."""
    g, b, m, s = (float(getattr(norm, f)[j]) for f in ("gamma", "beta", "mean", "std"))
    gh, bh, mh, sh = (float(getattr(norm_hat, f)[j]) for f in ("gamma", "beta", "mean", "std"))
    pairs = zip(weight[j].reshape(-1).tolist(), quantized[j].reshape(-1).tolist(), strict=True)
    total = sum((c * gh * q / sh - g * w / s) ** 2 for w, q in pairs)
    theta = c * (bh - gh * mh / sh) - (b - g * m / s)
    return total + lambda1 * theta**2 + lambda2 * c**2


def compensation(weight, quantized, *arguments):
    return Products.of(weight, quantized).minimizer(*arguments)


def loss(c, weight, quantized, *arguments):
    return Products.of(weight, quantized).loss(c, *arguments)


def assert_minimizes(layer, lambda1, lambda2):
    c = compensation(*layer, lambda1, lambda2)
    for j in range(len(c)):
        found = minimize_scalar(
            slow_loss, args=(*layer, lambda1, lambda2, j), bounds=(0, 20), method="bounded", options={"xatol": 1e-10}
        )
        assert c[j] == pytest.approx(found.x, abs=1e-6)
    return c


@given(seeds, lambdas, lambdas)
def test_c_minimizes_equation_23(seed, lambda1, lambda2):
    assert_minimizes(random_layer(seed), lambda1, lambda2)


@given(seeds, lambdas, lambdas)
def test_no_other_factor_has_a_smaller_loss(seed, lambda1, lambda2):
    layer = random_layer(seed)
    c = compensation(*layer, lambda1, lambda2)
    least = loss(c, *layer, lambda1, lambda2)
    for other in (0 * c, 0.9 * c, 1.1 * c, c + 0.01, np.ones_like(c)):
        assert (least <= loss(other, *layer, lambda1, lambda2) * (1 + 1e-9)).all()


@given(seeds, lambdas, lambdas)
def test_the_loss_is_the_loop(seed, lambda1, lambda2):
    layer = random_layer(seed)
    c = np.random.default_rng(seed).uniform(0, 2, 4)
    want = [slow_loss(c[j], *layer, lambda1, lambda2, j) for j in range(4)]
    np.testing.assert_allclose(loss(c, *layer, lambda1, lambda2), want, rtol=1e-6)


def test_the_products_are_the_loop():
    weight, quantized, _, _ = random_layer(8)
    got = Products.of(weight, quantized)
    for j in range(4):
        w, q = weight[j].reshape(-1).tolist(), quantized[j].reshape(-1).tolist()
        assert got.cross[j] == pytest.approx(sum(a * b for a, b in zip(q, w, strict=True)))
        assert got.square[j] == pytest.approx(sum(a * a for a in q))
        assert got.original[j] == pytest.approx(sum(a * a for a in w))


def test_factor_and_offset_are_the_normalization():
    norm = random_norm(np.random.default_rng(9), 4)
    for x in (-2.0, 0.0, 3.5):
        want = norm.gamma * (x - norm.mean) / norm.std + norm.beta
        np.testing.assert_allclose(norm.factor * x + norm.offset, want)


@given(seeds, lambdas)
def test_nothing_broken_needs_no_repair(seed, lambda1):
    weight, _, norm, _ = random_layer(seed)
    np.testing.assert_allclose(compensation(weight, weight, norm, norm, lambda1, 0.0), 1, rtol=1e-9)


@given(seeds, st.floats(0.05, 20), lambdas, lambdas)
def test_the_scale_of_the_codes_cancels_against_mean_and_deviation(seed, a, lambda1, lambda2):
    weight, quantized, norm, hat = random_layer(seed)
    scaled_hat = dataclasses.replace(hat, mean=a * hat.mean, std=a * hat.std)
    plain = compensation(weight, quantized, norm, hat, lambda1, lambda2)
    scaled = compensation(weight, quantized * np.float32(a), norm, scaled_hat, lambda1, lambda2)
    np.testing.assert_allclose(plain, scaled, rtol=1e-5, atol=1e-9)


@given(seeds, lambdas, lambdas)
def test_the_sign_of_a_channel_does_not_matter(seed, lambda1, lambda2):
    weight, quantized, norm, hat = random_layer(seed)
    flipped = [dataclasses.replace(n, gamma=-n.gamma, beta=-n.beta) for n in (norm, hat)]
    plain = compensation(weight, quantized, norm, hat, lambda1, lambda2)
    np.testing.assert_array_equal(plain, compensation(weight, quantized, *flipped, lambda1, lambda2))


@given(seeds, lambdas)
def test_lambda2_pulls_towards_zero(seed, lambda1):
    layer = random_layer(seed)
    factors = [compensation(*layer, lambda1, lambda2) for lambda2 in (0.0, 0.5, 5.0)]
    for more, less in itertools.pairwise(factors):
        assert ((less < more) | (more == 0)).all()


def test_a_dead_channel_has_its_minimum_too():
    """A variance near 0: the deviation is the root of epsilon, and the weight almost nothing."""
    weight, quantized, norm, hat = random_layer(10)
    weight[1] *= 1e-3
    norm.std[1] = hat.std[1] = np.sqrt(1e-5)
    c = assert_minimizes((weight, quantized, norm, hat), 0.5, 0.1)
    assert 0 < c[1] < 0.1  # W^ kept the layer's alpha, a thousand times too much for this channel


def test_a_negative_correlation_gives_zero():
    weight, quantized, norm, hat = random_layer(11)
    quantized[2] = -weight[2]
    c = assert_minimizes((weight, quantized, norm, hat), 0.0, 0.0)
    assert c[2] == 0 and (np.delete(c, 2) > 0).all()


@pytest.mark.parametrize("lambda1", [0.0, 0.5])
def test_a_vanishing_denominator_gives_one(lambda1):
    """No codes, and no offset where lambda1 would count one."""
    weight, quantized, norm, hat = random_layer(12)
    quantized[3] = 0
    if lambda1:
        hat.mean[3] = hat.beta[3] = 0
    c = compensation(weight, quantized, norm, hat, lambda1, 0.0)
    assert c[3] == 1 and (c[:3] != 1).all()


def test_a_channel_without_gamma_is_left_to_its_offset():
    weight, quantized, norm, hat = random_layer(13)
    norm.gamma[0] = 0
    c = assert_minimizes((weight, quantized, norm, dataclasses.replace(hat, gamma=norm.gamma)), 0.5, 0.0)
    assert c[0] == pytest.approx(1)  # the offset is beta in both networks
