"""Sums of two products in 16 bits: which pairs kernels form, what they cut, and codes that no kernel cuts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfmpc_onnx.numerics.grids import uniform_grid
from dfmpc_onnx.numerics.rounding import FeedbackRounder
from dfmpc_onnx.numerics.saturation import (
    MOST_PAIR,
    NO_NEIGHBOUR,
    PairLimits,
    nearest_within_pairs,
    neighbours,
    pair_sums,
    saturating,
    saturating_products,
    within_pairs,
)
from tests.numerics.strategies import seeds


def packed_order(channels, taps):
    """The entries of a patch as a kernel meets them: tap by tap, all channels of each."""
    return [channel * taps + tap for tap in range(taps) for channel in range(channels)]


def slow_products(activations, codes, channels, taps):
    """vpmaddubsw over the packed order: two products, clipped to int16, then added in 32 bits."""
    order = packed_order(channels, taps)
    total = np.zeros((len(activations), len(codes)), np.int64)
    for n, patch in enumerate(activations.astype(int)):
        for row, weight in enumerate(codes.astype(int)):
            for i in range(0, len(order), 2):
                pair = sum(patch[j] * weight[j] for j in order[i : i + 2])
                total[n, row] += min(max(pair, -32768), 32767)
    return total


def random_weight(seed, rows, k):
    """Heavy tails, so that codes spread over all their range."""
    return np.random.default_rng(seed).standard_t(6, (rows, k)).astype(np.float32)


shapes = st.tuples(st.integers(1, 5), st.sampled_from([1, 4, 9]))


@given(shapes)
def test_neighbours_are_two_by_two_in_packed_order(shape):
    order, found = packed_order(*shape), neighbours(*shape)
    for i, entry in enumerate(order):
        other = i + 1 if i % 2 == 0 else i - 1
        assert found[entry] == (order[other] if other < len(order) else NO_NEIGHBOUR)


@given(seeds, shapes)
def test_products_as_the_kernels_make_them(seed, shape):
    rng, k = np.random.default_rng(seed), shape[0] * shape[1]
    activations = rng.integers(0, 256, (3, k), np.uint8) | rng.choice([0, 255], (3, 1)).astype(np.uint8)
    codes = rng.integers(-128, 128, (2, k)).astype(np.int8)
    found = saturating_products(activations, codes, neighbours(*shape))
    assert np.array_equal(found, slow_products(activations, codes, *shape))


@pytest.mark.parametrize(
    ("pair", "cut"), [((64, 64), False), ((1, 127), False), ((2, 127), True), ((-64, -65), True), ((127, -127), False)]
)
def test_two_codes_of_one_sign_may_reach_128_together(pair, cut):
    codes, beside = np.array([pair], np.int8), neighbours(2, 1)
    assert saturating(codes, beside).item() is cut
    every = np.array([[255, 255], [255, 0], [0, 255], [254, 255]], np.uint8)
    exact = every.astype(int) @ codes[0].astype(int)
    assert np.array_equal(saturating_products(every, codes, beside)[:, 0], exact) is not cut


def test_an_odd_last_entry_is_alone():
    codes = np.array([[127, 1, 127]], np.int8)
    assert pair_sums(codes, neighbours(3, 1)).tolist() == [[128, 128, 127]]


@given(seeds, shapes)
def test_no_pair_is_cut_whatever_the_activations(seed, shape):
    """The guarantee, for the worst activations there are: 255 at all codes of one sign."""
    beside, weight = neighbours(*shape), random_weight(seed, 4, shape[0] * shape[1])
    scale = np.abs(weight).max(axis=1, keepdims=True) / np.float32(127)
    codes, wider = within_pairs(weight, scale, beside, np.ones(weight.shape[1]))
    assert not saturating(codes, beside).any()
    for sign in (1, -1):
        worst = np.where(np.sign(codes) == sign, 255, 0).astype(np.uint8)
        exact = worst.astype(np.int64) @ codes.T.astype(np.int64)
        assert np.array_equal(saturating_products(worst, codes, beside), exact)
    free = ~saturating(np.rint(weight / scale), beside)
    assert np.array_equal(wider[free], scale[free])
    assert np.array_equal(codes[free], np.rint(weight / scale)[free])
    assert (wider >= scale).all() and (wider <= 2.001 * scale).all()


@given(seeds)
def test_moved_codes_are_the_nearest_that_fit(seed):
    """Of all pairs of codes that fit, none is nearer to the two weights."""
    steps = np.random.default_rng(seed).uniform(-127, 127, (1, 2)).astype(np.float32)
    found = nearest_within_pairs(steps, np.ones((1, 1), np.float32), neighbours(2, 1))
    a, b = np.meshgrid(np.arange(-127, 128), np.arange(-127, 128))
    fits = np.maximum(np.maximum(a, 0) + np.maximum(b, 0), np.maximum(-a, 0) + np.maximum(-b, 0)) <= MOST_PAIR
    distance = np.where(fits, np.square(a - steps[0, 0]) + np.square(b - steps[0, 1]), np.inf)
    assert np.square(found - steps.astype(np.float64)).sum() <= distance.min() + 0.25


@given(seeds)
def test_a_wider_scale_is_taken_only_where_it_loses_less(seed):
    beside, weight = neighbours(8, 4), random_weight(seed, 6, 32)
    scale = np.abs(weight).max(axis=1, keepdims=True) / np.float32(127)
    codes, wider = within_pairs(weight, scale, beside, np.ones(32))
    error = np.square(weight - codes * wider).sum(axis=1)
    same = nearest_within_pairs(weight, scale, beside)
    assert not saturating(same, beside).any()
    assert (error <= np.square(weight - same * scale).sum(axis=1) * 1.0001).all()
    seven = np.rint(weight / (2 * scale)) * 2 * scale
    assert (error <= np.square(weight - seven).sum(axis=1) * 1.5).all()


@given(seeds)
def test_one_scale_for_all_rows_stays_one(seed):
    beside, weight = neighbours(8, 4), random_weight(seed, 6, 32)
    scale = np.full((6, 1), np.abs(weight).max() / np.float32(127), np.float32)
    codes, wider = within_pairs(weight, scale, beside, np.ones(32), one_scale=True)
    assert len(np.unique(wider)) == 1 and not saturating(codes, beside).any()
    moved = nearest_within_pairs(weight, scale, beside)
    assert np.square(weight - codes * wider).sum() <= np.square(weight - moved * scale).sum() * 1.0001


# With feedback


def correlated(seed, groups, k):
    root = np.random.default_rng(seed).standard_normal((groups, k, k + 2)) + 0.5
    return root @ root.transpose(0, 2, 1) / k


def lost(weight, found, hat):
    values = found.grid.values(found.codes).reshape(weight.shape)
    wrong = (weight - values).astype(np.float64)
    return np.einsum("gok,gkj,goj->go", wrong, hat, wrong)


@given(seeds, st.sampled_from([(1, 5, 24), (3, 2, 9), (1, 3, 140)]))
def test_rounding_with_feedback_stays_within_pairs(seed, sizes):
    groups, out, k = sizes
    beside, hat = neighbours(k, 1), correlated(seed, groups, k)
    weight = random_weight(seed, groups * out, k).reshape(groups, out, k)
    flat = weight.reshape(-1, k)
    grid = uniform_grid(flat, np.ones(1), 8)
    free, limited = (FeedbackRounder(weight, hat, given).on_best_grid(grid) for given in (None, beside))
    assert not saturating(limited.codes, beside).any()
    same = ~saturating(free.codes, beside)
    assert np.array_equal(limited.codes[same], free.codes[same])
    np.testing.assert_allclose(limited.error, lost(weight, limited, hat), rtol=2e-2, atol=1e-3)
    # One bit less always fits; what is taken loses hardly more, and far less than pairs cut without feedback.
    seven = FeedbackRounder(weight, hat).on_best_grid(uniform_grid(flat, np.ones(1), 7))
    assert lost(weight, limited, hat).sum() <= 1.3 * lost(weight, seven, hat).sum()


@given(seeds, st.integers(2, 9), st.integers(1, 2))
def test_one_group_is_cut_as_each_of_several_is(seed, k, trials):
    random = np.random.default_rng(seed)
    beside, order = np.full(k, NO_NEIGHBOUR), random.permutation(k)
    firsts, seconds = order[0 : k - k % 2 : 2], order[1::2]
    beside[firsts], beside[seconds] = seconds, firsts
    weight, share = random.normal(0, 100, (k, 1, 3)).astype(np.float32), random.random((k, 1)).astype(np.float32)
    scale = random.uniform(0.3, 2, (1, 3 * trials)).astype(np.float32)
    codes = random.integers(-127, 128, (k, 1, 3 * trials)).astype(np.int8)
    one = PairLimits(beside[None], weight, share)
    two = PairLimits(np.stack([beside] * 2), np.repeat(weight, 2, axis=1), np.repeat(share, 2, axis=1))
    for column in range(k):
        steps = np.clip(random.normal(0, 120, scale.shape), -127, 127).astype(np.float32)
        apart = two.cut(column, *(np.repeat(a, 2, axis=0) for a in (steps, scale)), np.repeat(codes, 2, axis=1))
        assert np.array_equal(np.repeat(one.cut(column, steps, scale, codes), 2, axis=0), apart)


def test_narrower_codes_are_left_alone():
    weight, hat = random_weight(0, 4, 24)[None], correlated(0, 1, 24)
    grid = uniform_grid(weight[0], np.ones(1), 7)
    free, limited = (FeedbackRounder(weight, hat, given).on_best_grid(grid) for given in (None, neighbours(24, 1)))
    assert np.array_equal(free.codes, limited.codes)
