import numpy as np
import pytest

from dfmpc_onnx.inputs import procedural
from dfmpc_onnx.inputs.procedural import dead_leaves, noise_fields, pictures


def test_fields_of_one_pixel_vary():
    assert 0.8 < noise_fields(200, 2, (1, 1), 0).std() < 1.2


def test_fields_have_the_amplitude_of_photographs_and_share_their_brightness():
    fields = noise_fields(32, 3, (64, 64), 0)
    spectrum = np.abs(np.fft.fft2(fields)).mean(axis=(0, 1))
    assert 3.5 < spectrum[0, 2] / spectrum[0, 8] < 4.5
    assert abs(fields.mean()) < 0.3 and 0.8 < fields.std() < 1.2
    assert 0.1 < fields.mean(axis=(2, 3)).std() < 0.8
    assert abs(np.corrcoef(fields[:, 0].ravel(), fields[:, 1].ravel())[0, 1] - 0.8) < 0.1


def test_pictures_are_bytes_with_the_brightness_and_contrast_of_photographs():
    pictures = dead_leaves(16, 32, 48, 0)
    assert pictures.shape == (16, 32, 48, 3) and pictures.dtype == np.uint8
    assert np.all(np.abs(pictures.mean(axis=(0, 1, 2)) - [123, 116, 104]) < 25)
    assert 35 < pictures.std() < 85


def test_neighbours_are_alike_and_edges_sharp():
    """Differences of neighbours are mostly small, some large: heavy tails, unlike those of Gaussian noise."""
    pictures = dead_leaves(8, 64, 64, 0).astype(float)
    difference = np.diff(pictures.mean(axis=3), axis=2).ravel()
    assert np.corrcoef(pictures[:, :, 1:].ravel(), pictures[:, :, :-1].ravel())[0, 1] > 0.8
    assert np.mean(difference**4) / np.mean(difference**2) ** 2 > 6


def test_a_longer_series_begins_with_a_shorter_one_and_another_seed_is_another():
    assert np.array_equal(dead_leaves(3, 16, 16, 5)[:2], dead_leaves(2, 16, 16, 5))
    assert not np.array_equal(dead_leaves(1, 16, 16, 5), dead_leaves(1, 16, 16, 6))


def test_every_second_picture_carries_writing_in_a_colour_of_its_own():
    plain, written = dead_leaves(4, 64, 96, 3), pictures(4, 64, 96, 3)
    assert np.array_equal(plain[::2], written[::2])
    changed = (plain[1::2] != written[1::2]).any(axis=3).mean(axis=(1, 2))
    assert np.all((changed > 0.02) & (changed < 0.6))
    assert np.array_equal(pictures(2, 64, 96, 3), written[:2])


def test_the_smallest_pictures_can_be_written_on():
    assert pictures(4, 1, 1, 0).shape == (4, 1, 1, 3)
    assert pictures(4, 2, 40, 0).shape == (4, 2, 40, 3)


def test_small_pictures_are_painted_once(monkeypatch):
    """A network of 32 x 32 reads some hundred, each for statistics, ranges and checks."""
    first = pictures(64, 7, 9, 11)
    monkeypatch.setattr(procedural, "_picture", lambda *arguments: pytest.fail("painted again"))
    assert np.array_equal(pictures(64, 7, 9, 11), first)


def slow_noise_fields(count, channels, shape, seed, standardize):
    """By the whole complex spectrum."""
    generator, axes = np.random.default_rng(seed), tuple(range(2, 2 + len(shape)))
    frequency = np.sqrt(sum(np.square(f) for f in np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")))
    amplitude = 1.0 / np.maximum(frequency, 1.0 / max(shape))
    if standardize:
        amplitude.reshape(-1)[0] = 0.0
    white = generator.standard_normal((count, channels + 1, *shape))
    fields = np.fft.ifftn(np.fft.fftn(white, axes=axes) * amplitude, axes=axes).real
    fields /= fields.std(axis=axes, keepdims=True) if standardize else np.sqrt(np.square(amplitude).mean())
    return np.sqrt(0.8) * fields[:, :1] + np.sqrt(0.2) * fields[:, 1:]


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("shape", [(12,), (7, 9), (8, 10), (6, 5, 4)])
def test_half_a_spectrum_makes_the_fields_of_a_whole_one(shape, standardize):
    got = noise_fields(2, 3, shape, 5, standardize=standardize)
    np.testing.assert_allclose(got, slow_noise_fields(2, 3, shape, 5, standardize), atol=1e-9)
