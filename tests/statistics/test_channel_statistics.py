import numpy as np
import pytest

from dfmpc_onnx.statistics import channel_statistics
from dfmpc_onnx.statistics.channel_statistics import ChannelStatistics, channel_mean, channel_moments, exact_moments


@pytest.mark.parametrize("moments", [channel_moments, exact_moments])
@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (4, 3), (2, 3, 7)])
def test_the_channels_are_the_second_dimension(moments, shape):
    x = np.random.default_rng(0).normal(2, 3, shape).astype(np.float32)
    mean, variance = moments(x)
    for channel in range(3):
        values = x[:, channel].astype(np.float64)
        assert mean[channel] == pytest.approx(values.mean(), rel=1e-5)
        assert variance[channel] == pytest.approx(values.var(), rel=1e-5)
    np.testing.assert_allclose(channel_mean(x), mean, rtol=1e-5)


def test_of_one_network_what_holds_for_the_other_is_the_same():
    x = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
    found, copied = ChannelStatistics.of(x, x), ChannelStatistics.of(x, x.copy())
    for name in ("mean", "variance", "mean_hat", "variance_hat"):
        np.testing.assert_array_equal(getattr(found, name), getattr(copied, name))


def test_a_constant_that_is_added_moves_the_means_alone():
    x = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
    before = ChannelStatistics.of(x, 2 * x)
    after = before.shifted(np.ones(3), np.full(3, 2.0))
    np.testing.assert_array_equal(after.mean, before.mean + 1)
    np.testing.assert_array_equal(after.mean_hat, before.mean_hat + 2)
    np.testing.assert_array_equal(after.variance_hat, before.variance_hat)


def test_where_a_value_is_not_finite_exact_moments_are_not():
    x = np.ones((2, 3, 4), np.float32)
    x[0, 1, 2] = np.inf
    mean, variance = exact_moments(x)
    assert np.isfinite(mean).tolist() == [True, False, True] and np.isnan(variance[1])


@pytest.mark.parametrize("cached", [1, 7, 2**16])
@pytest.mark.parametrize("shape", [(3, 5), (1, 5, 1), (4, 5, 6, 7), (3, 2, 400)])
def test_moments_by_pieces_are_those_of_the_whole(cached, shape, monkeypatch):
    monkeypatch.setattr(channel_statistics, "CACHED_VALUES", cached)
    x = (1e3 + np.random.default_rng(2).standard_normal(shape)).astype(np.float32)
    mean, variance = channel_moments(x)
    want_mean, want = exact_moments(x)
    np.testing.assert_allclose(mean, want_mean, rtol=1e-6)
    np.testing.assert_allclose(variance, want, rtol=1e-3, atol=1e-6)
