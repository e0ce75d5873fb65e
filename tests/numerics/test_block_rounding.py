"""Rounding to blocks of a codebook with error feedback, against a slow loop over rows and blocks."""

import numpy as np
import pytest

from dfmpc_onnx.numerics import block_rounding
from dfmpc_onnx.numerics.block_rounding import BlockRounder, block_order
from dfmpc_onnx.numerics.codebook import Blocks, learn
from dfmpc_onnx.numerics.grids import uniform_grid
from dfmpc_onnx.numerics.rounding import DAMPING, FeedbackRounder


def problem(groups=1, out=6, k=14, seed=0):
    random = np.random.default_rng(seed)
    weight = random.standard_normal((groups, out, k)).astype(np.float32)
    patches = random.standard_normal((groups, 4 * k, k)) @ (np.eye(k) + 0.4 * random.standard_normal((k, k)))
    return weight, patches.transpose(0, 2, 1) @ patches / (4 * k)


def slow(weight, hat, table, scale, order):
    """One group: each row, block by block, takes the vector of least error that any choice behind could leave."""
    damped = hat + DAMPING * np.trace(hat) / len(hat) * np.eye(len(hat))
    found = np.zeros(weight.shape)
    for row, (w, s) in enumerate(zip(weight.astype(np.float64), scale, strict=True)):
        error = np.zeros(len(w))
        decided: list[int] = []
        for block in order:
            later = [i for i in range(len(w)) if i not in decided and i not in block]
            best = None
            for vector in table[:, : len(block)].astype(np.float64):
                trial = error.copy()
                trial[block] = w[block] - s * vector
                known = [*decided, *block]
                # Errors still to be made may be anything: those that leave least.
                seen = damped[np.ix_(known, known)]
                if later:
                    cross = damped[np.ix_(known, later)]
                    seen = seen - cross @ np.linalg.solve(damped[np.ix_(later, later)], cross.T)
                left = trial[known] @ seen @ trial[known]
                if best is None or left < best[0] - 1e-9:
                    best = left, vector, trial
            decided += list(block)
            error, found[row, block] = best[2], best[1]
    return found


@pytest.mark.parametrize("length", [2, 3, 4, 5])
def test_each_block_is_the_vector_that_leaves_the_least_error_for_what_follows(length, monkeypatch):
    monkeypatch.setattr(block_rounding, "FIRST_SCALES", (1.1,))
    weight, hat = problem(out=3)
    table = learn([weight[0]], Blocks(length))
    rounded = BlockRounder(weight, hat).estimate(table)
    order, cuts = block_order(np.diagonal(hat[0]), length)
    blocks = [order[start:stop] for start, stop in cuts]
    start = np.sqrt(np.mean(np.square(weight[0]), axis=1)) * table.unit * 1.1
    assert np.array_equal(rounded.codes, slow(weight[0], hat[0], table.book.table, start, blocks))


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("thorough", [False, True])
def test_the_error_is_that_of_the_codes_and_their_scale(groups, thorough):
    weight, hat = problem(groups)
    rounder, table = BlockRounder(weight, hat), learn(list(weight), Blocks(4))
    rounded = rounder.on(table) if thorough else rounder.estimate(table)
    error = weight - rounded.grid.values(rounded.codes).reshape(weight.shape)
    assert rounded.error == pytest.approx(np.einsum("goi,gij,goj->go", error, hat, error), rel=1e-3)


def test_channels_are_rounded_each_for_itself():
    weight, hat = problem(groups=2, out=7)
    rounder, table = BlockRounder(weight, hat), learn(list(weight), Blocks(3))
    some = np.array([1, 4, 6])
    all_of_them, few = rounder.estimate(table), rounder.estimate(table, some)
    assert np.array_equal(few.codes.reshape(2, 3, -1), all_of_them.codes.reshape(2, 7, -1)[:, some])
    assert few.error == pytest.approx(all_of_them.error[:, some], rel=1e-5)


def test_every_block_is_in_the_table_and_no_scale_near_it_leaves_less():
    weight, hat = problem(k=22)
    rounded = BlockRounder(weight, hat).on(learn(list(weight), Blocks(4)))
    book = rounded.grid.book
    assert np.array_equal(book.unpack(book.pack(rounded.codes.astype(np.int8), 22), (6, 22), 22), rounded.codes)
    for factor in (0.99, 1.01):
        error = weight[0] - rounded.codes * rounded.grid.scale * np.float32(factor)
        assert (np.einsum("oi,ij,oj->o", error, hat[0], error) >= rounded.error[0] * (1 - 1e-3)).all()


@pytest.mark.parametrize(("length", "bits", "share"), [(4, 2, 0.85), (2, 4, 0.9)])
def test_blocks_lose_less_than_levels_of_as_many_bits(length, bits, share):
    weight, hat = problem(out=48, k=72)
    grid = uniform_grid(weight[0], np.diagonal(hat[0]).astype(np.float32), bits)
    levels = FeedbackRounder(weight, hat).on_best_grid(grid)
    blocks = BlockRounder(weight, hat).on(learn(list(weight), Blocks(length)))
    assert blocks.error.sum() < share * levels.error.sum()


def test_a_channel_of_zeros_stays_zero():
    weight, hat = problem()
    weight[0, 2] = 0
    rounded = BlockRounder(weight, hat).on(learn(list(weight), Blocks(3)))
    assert not rounded.codes[2].any() and rounded.grid.scale[2] > 0 and np.isfinite(rounded.grid.scale).all()


def test_blocks_stay_together_in_falling_order_of_their_mean():
    order, cuts = block_order(np.array([1.0, 1, 1, 5, 5, 0, 9]), 3)
    assert order.tolist() == [6, 3, 4, 5, 0, 1, 2] and cuts == [(0, 1), (1, 4), (4, 7)]
