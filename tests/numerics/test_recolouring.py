"""Inputs moved along the rows of a linear layer until its outputs have the moments that were measured."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfmpc_onnx.numerics.batch_norm import BatchNormParameters
from dfmpc_onnx.numerics.recolouring import Correction, Line, fit, mismatch, response_of_outputs


def norm_of(mean, std):
    ones = np.ones_like(mean)
    return BatchNormParameters(ones, 0 * ones, mean, std, 1e-5)


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 3.0))
def test_moments_along_a_step_are_those_of_the_moved_outputs(seed, length):
    y, dy = np.random.default_rng(seed).normal(1, 2, (2, 3, 4, 5, 5)).astype(np.float32)
    (mean,), (variance,) = Line.of(y, dy).at(np.array([length]))
    moved = y + length * dy
    np.testing.assert_allclose(mean, moved.mean((0, 2, 3)), atol=1e-4)
    np.testing.assert_allclose(variance, moved.var((0, 2, 3)), rtol=1e-3)


def test_a_correction_is_an_affine_map_of_each_output():
    y = np.array([[[1.0], [4.0]], [[3.0], [8.0]]], np.float32)
    found = Correction(np.array([10.0, 0.0]), np.array([2.0, -1.0]), np.array([2.0, 6.0])).of(y)
    assert found[:, :, 0].tolist() == [[8, 2], [12, -2]]


@pytest.mark.parametrize("groups", [1, 2])
def test_the_response_of_an_output_is_that_of_a_loop(groups):
    rng = np.random.default_rng(0)
    weight, variance = rng.normal(size=(4, 6 // groups, 3, 3)).astype(np.float32), rng.uniform(1, 2, 6)
    want = [
        sum(variance[o // (4 // groups) * (6 // groups) + i] * (weight[o, i] ** 2).sum() for i in range(6 // groups))
        for o in range(4)
    ]
    np.testing.assert_allclose(response_of_outputs(weight, variance), want, rtol=1e-6)


@given(st.integers(0, 2**32 - 1))
def test_a_fit_brings_outputs_nearer_and_leaves_right_ones_alone(seed):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(8, 5)).astype(np.float32)
    x = rng.normal(size=(400, 5)).astype(np.float32) @ rng.normal(size=(5, 5)).astype(np.float32)
    metric = x.var(axis=0)
    y = x @ weight.T

    def response(g):
        return (g @ weight * metric) @ weight.T

    # What the same layer gives on other inputs: there is an answer.
    other = (x @ np.diag(rng.uniform(0.7, 1.4, 5)).astype(np.float32) + 0.3) @ weight.T
    norm = norm_of(other.mean(0).astype(np.float64), np.sqrt(other.var(0).astype(np.float64) + 1e-5))
    found = fit(y, response, response_of_outputs(weight, metric), norm)
    moved = y + response(found.of(y))
    before, after = (mismatch(v.mean(0), v.var(0), norm) for v in (y, moved))
    assert after < before
    right = norm_of(y.mean(0).astype(np.float64), np.sqrt(y.var(0).astype(np.float64) + 1e-5))
    assert np.abs(response(fit(y, response, response_of_outputs(weight, metric), right).of(y))).max() < 1e-2 * y.std()
