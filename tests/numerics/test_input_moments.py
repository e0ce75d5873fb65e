"""Inputs are found again from what filters of them measured."""

from __future__ import annotations

import numpy as np
import pytest

from dfmpc_onnx.inputs.procedural import noise_fields
from dfmpc_onnx.numerics.input_moments import FilterBank, Observation, solve_inputs


def measured(
    channels: int, outputs: int, kernel: int, exponent: float, correlation: float
) -> tuple[Observation, np.ndarray, np.ndarray]:
    """What filters measure of fields of 64 points, by running them: with the mean and deviation of the channels."""
    random = np.random.default_rng(0)
    mean, deviation = random.uniform(-50, 50, channels), random.uniform(4, 9, channels)
    x = noise_fields(256, channels, (64,), 1, exponent=exponent, correlation=correlation)
    x = (x - x.mean(axis=(0, 2), keepdims=True)) / x.std(axis=(0, 2), keepdims=True)
    x = mean[:, None] + deviation[:, None] * x
    weight = random.standard_normal((outputs, channels, kernel))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=2)
    y = np.einsum("nctk,ock->not", windows, weight) + 3
    bank = FilterBank(weight, (kernel,), (64,))
    observed = Observation({"x": bank}, np.full(outputs, 3.0), y.mean(axis=(0, 2)), y.var(axis=(0, 2)))
    return observed, mean, deviation


@pytest.mark.parametrize("exponent", [0.0, 1.0])
@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_mean_deviation_and_spectrum_are_found_again(exponent: float, correlation: float) -> None:
    observation, mean, deviation = measured(6, 32, 5, exponent, correlation)
    solution = solve_inputs([observation])
    assert solution is not None
    found = solution.inputs["x"]
    assert (found.exponent, found.correlation) == (exponent, correlation)
    np.testing.assert_allclose(found.mean, mean, atol=1.5)
    np.testing.assert_allclose(np.sqrt(found.variance), deviation, rtol=0.3)
    ((predicted_mean, predicted_variance),) = solution.predicted
    np.testing.assert_allclose(predicted_variance, observation.variance, rtol=0.3)
    np.testing.assert_allclose(predicted_mean, observation.mean, atol=0.2 * np.sqrt(observation.variance.max()))


def test_scale_passes_through() -> None:
    observation, _, _ = measured(4, 24, 3, 1.0, 0.0)
    far = Observation(observation.banks, 1e6 * observation.offset, 1e6 * observation.mean, 1e12 * observation.variance)
    small, large = (solve_inputs([o]) for o in (observation, far))
    assert small is not None and large is not None
    np.testing.assert_allclose(large.inputs["x"].mean, 1e6 * small.inputs["x"].mean, rtol=1e-3)
    np.testing.assert_allclose(large.inputs["x"].variance, 1e12 * small.inputs["x"].variance, rtol=1e-2)


def test_with_more_channels_than_filters_they_are_alike() -> None:
    observation, _, _ = measured(12, 3, 1, 1.0, 0.0)
    solution = solve_inputs([observation])
    assert solution is not None
    spread = solution.inputs["x"].variance
    assert spread.max() < 1e3 * spread.min() and np.isfinite(solution.inputs["x"].mean).all()


def test_nothing_that_varies_tells_nothing() -> None:
    bank = FilterBank(np.ones((4, 2, 1)), (1,), (8,))
    assert solve_inputs([Observation({"x": bank}, np.zeros(4), np.zeros(4), np.zeros(4))]) is None
