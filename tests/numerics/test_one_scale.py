import numpy as np
import pytest

from dfmpc_onnx.numerics.one_scale import Cut, Held, common_factor, least_noise
from dfmpc_onnx.numerics.ranges import SIGNED_LEVELS

random = np.random.default_rng(0)


def noise(held, factors, cuts=()):
    """12 times the variance, by definition: the step of each tensor that just holds its largest number."""
    total = 0.0
    for one in held:
        size = factors**-1.0 if one.divided else factors
        total += ((one.reach * size).max() / SIGNED_LEVELS) ** 2 * (one.gain / size**2).sum()
    return total + sum(cut.noise(factors).sum() for cut in cuts)


def tensors(channels=32):
    reach = random.lognormal(0, 1.5, (3, channels))
    gains = random.lognormal(0, 1, (3, channels))
    return [Held(r, g, divided) for r, g, divided in zip(reach, gains, (True, True, False), strict=True)]


def test_no_change_of_one_factor_makes_much_less_noise():
    held = tensors()
    factors = least_noise(held)
    least = noise(held, factors)
    assert least < 0.95 * noise(held, np.ones(32))
    for channel in range(32):
        for change in (0.5, 0.8, 1.25, 2.0):
            changed = factors * np.where(np.arange(32) == channel, change, 1.0)
            assert noise(held, changed) > 0.97 * least


def test_of_two_weights_alone_it_is_no_worse_than_the_root_of_their_reaches():
    made, read = (
        Held(random.lognormal(0, 1, 16), np.ones(16), True),
        Held(random.lognormal(0, 1, 16), np.ones(16), False),
    )
    root = np.sqrt(made.reach / read.reach)
    assert noise([made, read], least_noise([made, read])) <= noise([made, read], root) * (1 + 1e-9)


def test_what_a_bound_cuts_is_what_samples_say():
    cut = Cut(np.array([4.0, 5.0, 1.0]), np.array([1.0, 2.0, 0.5]), np.ones(3), 6.0)
    x = cut.mean + cut.std * random.standard_normal((400_000, 3))
    for factors in (np.array([0.7, 0.9, 0.4]), np.array([1.2, 1.5, 3.0])):
        want = np.square(np.minimum(x, 6.0) - np.minimum(x, 6.0 * factors)).mean(axis=0)
        np.testing.assert_allclose(cut.noise(factors) / 12, want, rtol=0.03, atol=1e-6)
        step = 1e-5
        rise = (cut.noise(factors * np.exp(step)) - cut.noise(factors * np.exp(-step))) / (2 * step)
        np.testing.assert_allclose(cut.slope(factors), rise, rtol=1e-3, atol=1e-9)
    assert not cut.noise(np.ones(3)).any()


def test_a_channel_that_reaches_its_bound_keeps_it():
    held = [Held(np.array([1.0, 50.0]), np.ones(2), True)]
    cuts = [Cut(np.array([6.0, 6.0]), np.array([3.0, 3.0]), np.full(2, 1e6), 6.0)]
    np.testing.assert_allclose(least_noise(held, cuts), [1.0, 1.0], rtol=0.01)
    assert least_noise(held)[1] / least_noise(held)[0] > 10


@pytest.mark.parametrize("peak", [1.0, 1.3, 1.9])
def test_a_common_factor_leaves_the_range_nearly_full(peak):
    one = Held(np.array([peak, 0.1]), np.ones(2), True)
    fill = np.log2(peak / common_factor([one]) / SIGNED_LEVELS)
    assert np.ceil(fill) - fill < 1 / 8
    assert common_factor([Held(np.zeros(2), np.ones(2), True)]) == 1.0


def test_a_bound_is_covered_whole_by_the_power_of_two_that_is_taken():
    room, reach = 1.5, np.array([6.0])
    for cover in (1.0, 1.2):
        factor = common_factor([Held(reach, np.ones(1), True, room, cover)])
        step = np.exp2(np.ceil(np.log2(6.0 / factor / room / SIGNED_LEVELS)))
        assert SIGNED_LEVELS * step >= 6.0 / factor / cover * 0.99
