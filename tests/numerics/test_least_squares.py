import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from dfmpc_onnx.numerics.least_squares import (
    GivenMoments,
    SampledMoments,
    diagonal_factors,
    least_squares,
    ledoit_wolf,
    pooled_moments,
    rounding_error,
)
from tests.numerics.strategies import seeds

GROUPS, OUT, CHANNELS, TAPS, N = 2, 3, 2, 3, 50
K = CHANNELS * TAPS


def random_streams(seed, n=N, k=K):
    """A weight, correlated patches, and the patches of a network whose channels were damaged."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((GROUPS, OUT, k))
    patches = rng.standard_normal((GROUPS, n, k)) @ rng.standard_normal((GROUPS, k, k)) + rng.standard_normal(k)
    damaged = patches * rng.uniform(0.5, 1.5, k) + 0.3 * rng.standard_normal(patches.shape)
    return tuple(a.astype(np.float32) for a in (weight, patches, damaged))


def test_the_moments_are_the_loop():
    _, x, y = random_streams(21, n=7)
    got = SampledMoments.of(x, y)
    for g in range(GROUPS):
        for i in range(K):
            assert got.mean[g, i] == pytest.approx(np.mean(x[g, :, i]), rel=1e-4)
            assert got.mean_hat[g, i] == pytest.approx(np.mean(y[g, :, i]), rel=1e-4)
            assert got.diagonal[g, i] == pytest.approx(np.mean(y[g, :, i] ** 2), rel=1e-5)
            for j in range(K):
                want = sum(float(y[g, n, i]) * float(y[g, n, j]) for n in range(7)) / 7
                assert got.hat[g, i, j] == pytest.approx(want, rel=1e-4, abs=1e-5)
    assert got.count == 7


def test_one_stream_has_one_moment():
    _, x, _ = random_streams(22)
    same, copied = SampledMoments.of(x, x), SampledMoments.of(x, x.copy())
    assert same.same and not copied.same
    for name in ("hat", "mean", "mean_hat", "shrinkage"):
        np.testing.assert_allclose(getattr(same, name), getattr(copied, name))


@given(seeds)
def test_a_sample_answers_as_the_matrices_of_its_moments_do(seed):
    weight, x, y = random_streams(seed)
    sampled = SampledMoments.of(x, y)
    cross, original = (np.einsum("gni,gnj->gij", x, z, dtype=np.float64) / N for z in (y, x))
    hat = np.einsum("gni,gnj->gij", y, y, dtype=np.float64) / N
    given_ = GivenMoments(hat, sampled.mean, sampled.mean_hat, sampled.shrinkage, N, cross, original)
    scale = np.abs(hat).max()
    np.testing.assert_allclose(sampled.cross_product(weight), given_.cross_product(weight), atol=1e-4 * scale)
    np.testing.assert_allclose(sampled.cross_blocks(TAPS), given_.cross_blocks(TAPS), atol=1e-5 * scale)
    np.testing.assert_allclose(sampled.shrunk().hat, given_.shrunk().hat, atol=1e-5 * scale)
    errors, expected = sampled.output_errors(weight), given_.output_errors(weight)
    power = np.einsum("goi,gij,goj->go", weight, hat + original, weight)
    assert (np.abs(errors.variance - expected.variance) <= 1e-4 * power).all()
    rounded = np.round(weight)
    assert (np.abs(errors.of(rounded) - expected.of(rounded)) <= 1e-4 * (power + scale * K * OUT)).all()


def slow_ledoit_wolf(x):
    """The variance of every covariance off the diagonal, over its square."""
    centred = x - x.mean(axis=0)
    n, k = centred.shape
    noise = energy = 0.0
    for i in range(k):
        for j in range(k):
            if i != j:
                products = centred[:, i] * centred[:, j]
                noise += products.var() / n
                energy += products.mean() ** 2
    return min(noise / energy, 1.0)


@given(seeds, st.integers(3, 40))
def test_the_shrinkage_is_the_loop(seed, n):
    _, x, _ = random_streams(seed, n=n)
    moments = SampledMoments.of(x, x)
    got = ledoit_wolf(x, moments.hat, moments.mean)
    want = [slow_ledoit_wolf(x[g].astype(np.float64)) for g in range(GROUPS)]
    np.testing.assert_allclose(got, want, rtol=1e-3)


def test_the_shrinkage_of_huge_activations_is_that_of_small_ones():
    _, x, _ = random_streams(3)
    usual, huge = (
        ledoit_wolf(y, m.hat, m.mean) for y in (x, x * np.float32(2.0**33)) for m in [SampledMoments.of(y, y)]
    )
    assert np.isfinite(huge).all()
    np.testing.assert_allclose(huge, usual, rtol=1e-5)


def test_independent_entries_are_shrunk_most_and_the_diagonal_is_kept():
    x, y = np.random.default_rng(23).standard_normal((2, 1, 20, 8)).astype(np.float32) + 3
    moments = SampledMoments.of(x, y - 5)
    shrunk = moments.shrunk()
    assert moments.shrinkage[0] > 0.5
    np.testing.assert_allclose(shrunk.diagonal, moments.diagonal)
    centred = [m.hat - m.mean_hat[:, :, None] * m.mean_hat[:, None, :] for m in (moments, shrunk)]
    off = ~np.eye(8, dtype=bool)
    np.testing.assert_allclose(centred[1][:, off], (1 - moments.shrinkage[0]) * centred[0][:, off], atol=1e-5)


@given(seeds, st.sampled_from([0.01, 0.1, 1.0]))
def test_least_squares_is_the_ridge_regression_on_the_patches(seed, ridge):
    """``|W x - W' x^|^2 / n + r |W' - W|^2`` as one stacked system, solved without forming a moment."""
    weight, x, y = random_streams(seed)
    got = least_squares(weight, SampledMoments.of(x, y), ridge)
    for g in range(GROUPS):
        w, a, b = (part[g].astype(np.float64) for part in (weight, x, y))
        root = np.sqrt(ridge * np.square(b).mean())
        left = np.vstack([b / np.sqrt(N), root * np.eye(K)])
        right = np.vstack([a @ w.T / np.sqrt(N), root * w.T])
        want = np.linalg.lstsq(left, right, rcond=None)[0].T
        np.testing.assert_allclose(got[g], want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("n", [1, 7, 20, 21, 400])
def test_with_few_patches_it_is_the_same_fit_solved_in_patches(n):
    """Of 40 entries: from 20 patches on in entries, below in patches, block by block where they are many."""
    weight, x, y = random_streams(n, n=n, k=800 if n == 400 else 40)
    sampled = SampledMoments.of(x, y)
    count = np.float32(n)
    hat, cross = (a.transpose(0, 2, 1).astype(np.float64) @ y / count for a in (y, x))
    given_moments = GivenMoments(hat, sampled.mean, sampled.mean_hat, sampled.shrinkage, n, cross, hat)
    found, wanted = (least_squares(weight, moments) for moments in (sampled, given_moments))
    np.testing.assert_allclose(found, wanted, atol=2e-4 * np.abs(wanted - weight).max())


@given(seeds)
def test_least_squares_repairs_what_it_can(seed):
    weight, x, y = random_streams(seed)
    moments = SampledMoments.of(x, y)
    fitted = least_squares(weight, moments, 1e-6)
    errors = moments.output_errors(weight)
    assert (errors.of(fitted) <= errors.of(weight) + 1e-4).all()


def test_nothing_broken_needs_no_repair():
    weight, x, _ = random_streams(24)
    assert least_squares(weight, SampledMoments.of(x, x)) is weight
    np.testing.assert_allclose(least_squares(weight, SampledMoments.of(x, x.copy())), weight, atol=1e-4)


def test_with_fewer_patches_than_entries_the_ridge_grows():
    weight, x, y = random_streams(25, n=4)
    moments = SampledMoments.of(x, y)
    many = dataclasses.replace(moments, count=10 * K)
    few, plain = least_squares(weight, moments, 0.1), least_squares(weight, many, 0.1 * K / 4)
    np.testing.assert_allclose(few, plain, rtol=1e-6)
    assert np.linalg.norm(few - weight) < np.linalg.norm(least_squares(weight, many, 0.1) - weight)


@given(seeds)
def test_the_factors_are_the_best_of_each_channel(seed):
    weight, x, y = random_streams(seed)
    moments = SampledMoments.of(x, y)
    got = diagonal_factors(weight, moments, TAPS, ridge=0.3)
    assert got.shape == (GROUPS, CHANNELS)
    r = 0.3 * max(1.0, K / moments.count) * moments.diagonal.mean(axis=1)
    for g in range(GROUPS):
        for j in range(CHANNELS):
            part = slice(j * TAPS, (j + 1) * TAPS)
            clean, broken = ((a[g, :, part] @ weight[g, :, part].T).astype(np.float64) for a in (x, y))

            held = r[g] * np.square(weight[g, :, part]).sum()

            def misfit(c, clean=clean, broken=broken, held=held):
                return np.square(clean - c * broken).mean(axis=0).sum() + held * (c - 1) ** 2

            found = minimize_scalar(misfit, bounds=(0, 5), method="bounded", options={"xatol": 1e-9})
            assert got[g, j] == pytest.approx(found.x, rel=1e-4, abs=1e-4)


def test_factors_of_a_channel_that_vanished_or_turned_round():
    weight, x, _ = random_streams(26)
    y = x.copy()
    y[:, :, :TAPS] = 0
    y[:, :, TAPS:] *= -1
    got = diagonal_factors(weight, SampledMoments.of(x, y), TAPS, ridge=0.0)
    assert got.tolist() == [[1, 0]] * GROUPS


@given(seeds)
def test_the_errors_are_those_of_the_outputs(seed):
    weight, x, y = random_streams(seed)
    rounded = np.round(weight)
    moments = SampledMoments.of(x, y)
    errors = moments.output_errors(weight)
    error, variance = errors.of(rounded), errors.variance
    clean, broken = x @ weight.transpose(0, 2, 1), y @ rounded.transpose(0, 2, 1)
    power = np.square(clean).mean(axis=1) + np.square(broken).mean(axis=1)
    assert (np.abs(error - np.square(clean - broken).mean(axis=1)) <= 1e-4 * power).all()
    assert (np.abs(variance - clean.var(axis=1)) <= 1e-4 * power).all()
    own = y @ (weight - rounded).transpose(0, 2, 1)
    tolerance = 1e-4 * np.square(own).mean(axis=1)
    assert (np.abs(rounding_error(weight, rounded, moments) - np.square(own).mean(axis=1)) <= tolerance).all()


def test_the_power_of_outputs_is_that_of_samples_and_of_moments():
    random = np.random.default_rng(3)
    x, w = (random.standard_normal(shape).astype(np.float32) for shape in ((2, 50, 6), (2, 4, 6)))
    y = x @ w.transpose(0, 2, 1)
    sampled = SampledMoments.of(x, x)
    np.testing.assert_allclose(sampled.power(w), np.square(y).mean(axis=1), rtol=1e-5)
    second = sampled.hat.astype(np.float64)
    given = GivenMoments(second, sampled.mean, sampled.mean_hat, sampled.shrinkage, 50, second, second)
    np.testing.assert_allclose(given.power(w), np.square(y).mean(axis=1), rtol=1e-5)


@given(seeds)
def test_pooled_moments_are_the_mean_of_the_scaled_moments_of_each(seed):
    uses = [random_streams(seed + i)[1] for i in range(3)]
    factors = [0.5, 2.0, 3.0]
    pooled = None
    for count, (patches, factor) in enumerate(zip(uses, factors, strict=True)):
        pooled = pooled_moments(pooled, count, SampledMoments.of(patches, patches), factor)
    want = sum(f * np.einsum("gni,gnj->gij", x, x) / N for x, f in zip(uses, factors, strict=True)) / 3
    assert np.allclose(pooled.hat, want, rtol=1e-4, atol=1e-4)
    mean = sum(np.sqrt(f) * x.mean(axis=1) for x, f in zip(uses, factors, strict=True)) / 3
    assert np.allclose(pooled.mean, mean, atol=1e-5)
    assert pooled.count == 3 * N and pooled.same
