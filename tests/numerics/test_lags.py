"""Covariance functions against what their definitions say: loops over lags, taps and pixels."""

import itertools

import numpy as np
import pytest

from dfmpc_onnx.numerics import lags as lg

SMALL, LARGE = [(1, 1), (4, 4), (5, 7), (6, 5), (3, 8)], [(17, 16), (16, 17), (20, 24)]


def covariance(seed, size, channels):
    """Of a process on a torus, ``R[-d] = R[d]'``: that of a random filter on white noise."""
    rng = np.random.default_rng(seed)
    root = np.fft.fft2(rng.standard_normal((*size, channels, channels + 1)), axes=(0, 1))
    lags = np.fft.ifft2(root.conj() @ root.swapaxes(2, 3), axes=(0, 1)).real / channels
    return lags.astype(np.float32)


def loop_both(lags, weights, origin, dilations=(1, 1)):
    """``sum_kl W_k R[d + l - k] W_l'`` on a torus; weights: ``[out, in, ky, kx]``."""
    taps = list(np.ndindex(weights.shape[2:]))
    steps = [((y - origin[0]) * dilations[0], (x - origin[1]) * dilations[1]) for y, x in taps]
    size, out = lags.shape[:2], len(weights)
    result = np.zeros((*size, out, out))
    for (i, k), (j, other) in itertools.product(enumerate(steps), repeat=2):
        left, right = (weights[:, :, *taps[n]].astype(np.float64) for n in (i, j))
        for d in np.ndindex(size):
            result[d] += left @ lags[tuple((d + np.subtract(other, k)) % size)] @ right.T
    return result


def joint(weights):
    """Two weights ``[2, out, in, ...]`` as one on the channels of both networks."""
    _, out, inputs, *rest = weights.shape
    result = np.zeros((2 * out, 2 * inputs, *rest), np.float32)
    result[:out, :inputs], result[out:, inputs:] = weights
    return result


@pytest.mark.parametrize("size", SMALL + LARGE)
def test_to_lags_undoes_to_spectrum(size):
    lags = np.random.default_rng(1).standard_normal((*size, 2, 3)).astype(np.float32)
    np.testing.assert_allclose(lg.to_lags(lg.to_spectrum(lags), size), lags, atol=1e-5)


@pytest.mark.parametrize("size", SMALL + LARGE)
def test_to_spectrum_is_the_transform_over_the_lags(size):
    lags = np.random.default_rng(2).standard_normal((*size, 2, 3)).astype(np.float32)
    want = np.fft.rfft2(lags.astype(np.float64), axes=(0, 1)).reshape(-1, 2, 3)
    got = lg.to_spectrum(lags)
    assert got.dtype == np.complex64
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_small_and_large_windows_are_transformed_alike(monkeypatch):
    lags = covariance(3, (6, 9), 2)
    spectrum = lg.to_spectrum(lags)
    monkeypatch.setattr(lg, "SMALL_WINDOW", 0)
    np.testing.assert_allclose(lg.to_spectrum(lags), spectrum, atol=1e-4)
    np.testing.assert_allclose(lg.to_lags(spectrum, (6, 9)), lags, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 3), (2, 6)])
def test_mirrored_names_each_pair_of_lags_once(size):
    half, images = lg.mirrored(size)
    own = [tuple(int(v) for v in np.unravel_index(i, size)) for i in half]
    other = [tuple(int(v) for v in np.unravel_index(i, size)) for i in images]
    assert other == [(-y % size[0], -x % size[1]) for y, x in own]
    assert set(own) | set(other) == set(np.ndindex(size))
    assert len(set(own)) == len(own) and all(a == b for a, b in zip(own, other, strict=True) if b in own)


@pytest.mark.parametrize("size", [(1, 1), (4, 5), (6, 6)])
def test_pointwise_is_a_loop_over_the_lags(size):
    lags = covariance(4, size, 6)
    weights = np.random.default_rng(5).standard_normal((2, 4, 3)).astype(np.float32)
    w = joint(weights)
    got = lg.pointwise_both(lags, weights)
    for d in np.ndindex(size):
        np.testing.assert_allclose(got[d], w @ lags[d] @ w.T, atol=2e-4)


def through(lags, weights, dilations=(1, 1)):
    size = lags.shape[:2]
    kernel = lg.kernel_spectrum(weights, size, dilations)
    return lg.to_lags(lg.apply_both(lg.to_spectrum(lags), kernel), size)


@pytest.mark.parametrize(("kernel", "origin"), [((1, 1), (0, 0)), ((3, 3), (1, 1)), ((2, 3), (0, 1)), ((1, 5), (0, 2))])
@pytest.mark.parametrize("dilations", [(1, 1), (2, 1)])
def test_a_kernel_over_space_is_a_sum_over_pairs_of_taps(kernel, origin, dilations):
    lags = covariance(6, (6, 7), 4)
    weights = np.random.default_rng(7).standard_normal((2, 3, 2, *kernel)).astype(np.float32)
    want = loop_both(lags, joint(weights), origin, dilations)
    np.testing.assert_allclose(through(lags, weights, dilations), want, atol=1e-4 * np.abs(want).max())


def test_a_kernel_over_a_large_window_is_the_same_sum():
    lags = covariance(8, (17, 18), 2)
    weights = np.random.default_rng(9).standard_normal((2, 2, 1, 3, 3)).astype(np.float32)
    want = loop_both(lags, joint(weights), (1, 1))
    np.testing.assert_allclose(through(lags, weights), want, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("chunk", [1, 2**22])
@pytest.mark.parametrize("dilations", [(1, 1), (1, 2)])
def test_a_depthwise_kernel_is_a_sum_over_pairs_of_taps(chunk, dilations, monkeypatch):
    monkeypatch.setattr(lg, "CHUNK", chunk)
    lags = covariance(10, (5, 6), 4)
    taps = np.random.default_rng(11).standard_normal((4, 3, 3)).astype(np.float32)
    dense = np.zeros((4, 4, 3, 3), np.float32)
    dense[range(4), range(4)] = taps
    want = loop_both(lags, dense, (1, 1), dilations)
    got = lg.depthwise_both(lags, lg.depthwise_spectrum(taps, (5, 6), dilations))
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


def sampled(filters, size, count, seed):
    """Maps ``[count, channels, *size]`` on a torus: white noise through ``[channels, noises, *size]``."""
    noise = np.fft.fft2(np.random.default_rng(seed).standard_normal((count, filters.shape[1], *size)))
    return np.fft.ifft2(np.einsum("cnyx,inyx->icyx", np.fft.fft2(filters), noise)).real


def empirical(maps):
    """``R[d] = mean of a(p) b(p + d)`` over images and pixels."""
    spectra = np.fft.fft2(maps)
    power = np.einsum("iayx,ibyx->yxab", spectra.conj(), spectra) / len(maps)
    return np.fft.ifft2(power, axes=(0, 1)).real / (maps.shape[2] * maps.shape[3])


def test_the_covariance_of_a_filtered_sample_is_that_of_the_sample_filtered():
    """Exact, sampling noise and all: a covariance over a torus is no more than a sum of products."""
    size, rng = (8, 6), np.random.default_rng(12)
    maps = sampled(rng.standard_normal((2, 3, *size)), size, 5, 13)
    weight = rng.standard_normal((3, 2, 3, 3)).astype(np.float32)
    out = np.zeros((5, 3, *size))
    for y, x in np.ndindex(3, 3):
        out += np.einsum(
            "oi,inyx->onyx", weight[:, :, y, x], np.roll(maps, (1 - y, 1 - x), axis=(2, 3)).swapaxes(0, 1)
        ).swapaxes(0, 1)
    lags = empirical(maps).astype(np.float32)
    got = through(np.tile(lags, (1, 1, 2, 2)), np.stack([weight, weight]))
    want = empirical(out)
    np.testing.assert_allclose(got[:, :, :3, :3], want, atol=1e-4 * np.abs(want).max())
    np.testing.assert_allclose(got[:, :, 3:, :3], want, atol=1e-4 * np.abs(want).max())


def test_one_side_is_the_covariance_of_the_output_with_the_input():
    size = (6, 5)
    lags = covariance(14, size, 2)
    weight = np.random.default_rng(15).standard_normal((1, 1, 3, 3)).astype(np.float32)
    kernel = lg.kernel_spectrum(np.stack([weight, weight]), size, (1, 1))
    got = lg.to_lags(lg.apply_left(lg.to_spectrum(lags), kernel), size)
    want = np.zeros_like(lags)
    for d in np.ndindex(size):
        for y, x in np.ndindex(3, 3):
            want[d] += weight[0, 0, y, x] * lags[tuple(np.subtract(d, (y - 1, x - 1)) % size)]
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("size", [(4, 4), (5, 6)])
def test_transposed_swaps_the_two_tensors(size):
    lags = np.random.default_rng(16).standard_normal((*size, 2, 3)).astype(np.float32)
    got = lg.transposed(lags)
    for y, x in np.ndindex(size):
        assert np.array_equal(got[y, x], lags[-y % size[0], -x % size[1]].T)
    assert np.array_equal(lg.transposed(got), lags)


def test_a_tensor_with_itself_is_its_own_transpose():
    lags = covariance(17, (6, 5), 3)
    np.testing.assert_allclose(lg.transposed(lags), lags, atol=1e-4)


def centred(size):
    return list(range((size + 1) // 2)) + list(range(-(size // 2), 0))


@pytest.mark.parametrize("steps", [(1, 1), (2, 2), (3, 1), (1, 4)])
@pytest.mark.parametrize("size", [(9, 12), (8, 7), (1, 5)])
def test_decimate_keeps_every_step_th_lag(size, steps):
    lags = np.random.default_rng(18).standard_normal((*size, 1, 2)).astype(np.float32)
    got = lg.decimate(lags, steps)
    kept = [[d for d in centred(n) if d % step == 0] for n, step in zip(size, steps, strict=True)]
    assert got.shape[:2] == tuple(map(len, kept))
    for y, x in itertools.product(*kept):
        assert np.array_equal(got[y // steps[0], x // steps[1]], lags[y, x])


def test_decimate_is_what_every_second_pixel_of_a_torus_has():
    lags = covariance(19, (8, 12), 2)
    assert np.array_equal(lg.decimate(lags, (2, 2)), lags[::2, ::2])


@pytest.mark.parametrize("size", [(3, 5), (7, 6), (1, 1)])
def test_a_window_cut_has_the_central_lags(size):
    lags = np.random.default_rng(20).standard_normal((7, 8, 2, 2)).astype(np.float32)
    got = lg.window(lags, *size)
    assert got.shape[:2] == size
    for y, x in itertools.product(*map(centred, size)):
        assert np.array_equal(got[y, x], lags[y, x])


@pytest.mark.parametrize("have", [(3, 4), (1, 5)])
def test_a_window_widened_repeats_its_edge(have):
    lags = np.random.default_rng(21).standard_normal((*have, 2, 2)).astype(np.float32)
    got = lg.window(lags, 9, 10)
    for y, x in itertools.product(centred(9), centred(10)):
        near = [int(np.clip(d, -(n // 2), n // 2)) % n for d, n in zip((y, x), have, strict=True)]
        assert np.array_equal(got[y, x], lags[*near])


def test_a_window_of_the_same_size_is_the_same():
    lags = covariance(22, (5, 4), 2)
    assert np.array_equal(lg.window(lags, 5, 4), lags)


def test_an_odd_window_cut_is_the_covariance_of_a_tensor_with_itself():
    cut = lg.window(covariance(23, (9, 9), 3), 5, 3)
    np.testing.assert_allclose(lg.transposed(cut), cut, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (4, 2)])
def test_the_spatial_mean_is_the_double_sum_over_pixels(size):
    lags = covariance(24, (2 * size[0] - 1, 2 * size[1]), 3)
    want = np.zeros((3, 3))
    for p, q in itertools.product(np.ndindex(size), repeat=2):
        want += lags[q[0] - p[0], q[1] - p[1]]
    got = lg.spatial_mean(lags, size)
    np.testing.assert_allclose(got, want / (size[0] * size[1]) ** 2, rtol=1e-4, atol=1e-5)


def test_the_spatial_mean_of_a_short_window_repeats_its_edge():
    lags = covariance(25, (3, 3), 2)
    np.testing.assert_allclose(
        lg.spatial_mean(lags, (5, 6)), lg.spatial_mean(lg.window(lags, 9, 11), (5, 6)), atol=1e-5
    )


def test_the_spatial_mean_of_equal_pixels_is_one_of_them():
    lags = np.broadcast_to(np.float32([[2, 1], [1, 3]]), (3, 3, 2, 2))
    np.testing.assert_allclose(lg.spatial_mean(lags, (4, 7)), lags[0, 0], rtol=1e-6)
