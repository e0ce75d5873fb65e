"""Mean, variance and spectrum of an input from what BatchNormalizations behind linear filters of it measured.

With filters w and an offset b, channels of mean mu, variance v and correlation r among each other, and pixels of
correlation rho at a distance, a BatchNormalization measures

    m_k = b_k + sum_c mu_c sum_d w_kcd
    v_k = (1 - r) sum_c v_c w_kc' rho w_kc + r f_k' rho f_k,    f_k = sum_c sqrt(v_c) w_kc

The first is solved by least squares in measured deviations, the second in logarithms, so that variances stay positive;
both are drawn towards what the channels of an input have in common, which decides where filters say little. Beyond the
map filters see zeros: a part of v_k is what the mean alone makes there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.moment_match import LIVE

EXPONENTS = (1.0, 0.0, 0.5, 1.5, 2.0)  # of the amplitude 1 / f^a; the first is that of photographs
CORRELATIONS = (0.8, 0.0)  # of channels; the first is that of photographs' colours
MEAN_RIDGE, VARIANCE_RIDGE = 1e-3, 1e-3
CLEARLY_BETTER = 0.02  # of the mean squared logarithm, by which another spectrum must fit better than an earlier one
NEWTON_STEPS = 30
LEAST_SHARE = 0.05  # of a measured variance that the input must have made
MOST_TAPS, MOST_CHANNELS, MOST_WORK = 1024, 256, 2**30
GRIDS = {1: 4096, 2: 128, 3: 32}  # points along each dimension, at most


@dataclasses.dataclass(frozen=True)
class FilterBank:
    """weight: ``[outputs, channels, taps]``; kernel: sizes whose product is `taps`; size: of the map, as far as known.

    places: the share of outputs that see the taps of a mask ``[taps]`` of 0 and 1; empty where all see all.
    """

    weight: Float
    kernel: tuple[int, ...]
    size: tuple[int, ...]
    places: tuple[tuple[float, Float], ...] = ()

    def responses(self) -> Float:
        """To a constant: ``[places, outputs, channels]``."""
        if not self.places:
            whole: Float = self.weight.sum(axis=2)
            return whole[None]
        found: Float = np.stack([self.weight @ mask for _, mask in self.places])
        return found

    def shares(self) -> Float:
        return np.array([share for share, _ in self.places]) if self.places else np.ones(1)


@dataclasses.dataclass(frozen=True)
class Observation:
    """What one BatchNormalization measured, mean and variance ``[outputs]``, of filters over inputs by name."""

    banks: Mapping[str, FilterBank]
    offset: Float
    mean: Float
    variance: Float


@dataclasses.dataclass(frozen=True)
class SolvedInput:
    """mean, variance: ``[channels]``. exponent: a of the amplitude 1/f^a. correlation: between channels."""

    mean: Float
    variance: Float
    exponent: float
    correlation: float


@dataclasses.dataclass(frozen=True)
class Solution:
    """The inputs by name, and the moments ``[outputs]`` that they give for each observation."""

    inputs: Mapping[str, SolvedInput]
    predicted: tuple[tuple[Float, Float], ...]


def solve_inputs(observations: Sequence[Observation]) -> Solution | None:
    """The inputs that explain what was measured; None where nothing varies, or filters are too large."""
    sizes: dict[str, int] = {}
    for observation in observations:
        for name, bank in observation.banks.items():
            sizes[name] = max(sizes.get(name, 0), bank.weight.shape[1])
            taps = bank.weight.shape[2]
            if taps > MOST_TAPS or bank.weight.size * taps > MOST_WORK or len(bank.kernel) not in (0, *GRIDS):
                return None
    alive = [o.variance > LIVE * max(float(np.quantile(o.variance, 0.75)), 0.0) for o in observations]
    if not sizes or sum(sizes.values()) > MOST_CHANNELS or not any(mask.any() for mask in alive):
        return None
    mean = _solve_means(observations, alive, sizes)
    between = [_between_places(o, mean) for o in observations]
    wanted = [
        np.maximum(o.variance - b, LEAST_SHARE * o.variance)[mask]
        for o, b, mask in zip(observations, between, alive, strict=True)
    ]
    best: tuple[float, Float, _Variances, float, float] | None = None
    filtered = any(bank.weight.shape[2] > 1 for o in observations for bank in o.banks.values())
    joined = any(size > 1 for size in sizes.values())
    for exponent in EXPONENTS if filtered else EXPONENTS[:1]:
        grams = [{n: _correlation(b, exponent) for n, b in o.banks.items()} for o in observations]
        for correlation in CORRELATIONS if joined else CORRELATIONS[:1]:
            predict = _Variances(observations, grams, sizes, correlation)
            loss, theta = _fit(predict, wanted, alive, sizes)
            if best is None or loss < best[0] - CLEARLY_BETTER:
                best = loss, theta, predict, exponent, correlation
    assert best is not None  # there is at least one spectrum
    _, theta, predict, exponent, correlation = best
    variances, _ = predict(theta)
    inputs: dict[str, SolvedInput] = {}
    begin = 0
    for name, size in sizes.items():
        variance = np.exp(theta[begin : begin + size])
        inputs[name] = SolvedInput(mean[name], variance, exponent, correlation)
        begin += size
    predicted = tuple(
        (_predicted_mean(o, mean), v + b) for o, v, b in zip(observations, variances, between, strict=True)
    )
    return Solution(inputs, predicted)


# -- means


def _predicted_mean(observation: Observation, mean: Mapping[str, Float]) -> Float:
    result = observation.offset.copy()
    for name, bank in observation.banks.items():
        response = np.tensordot(bank.shares(), bank.responses(), 1)
        result += response @ mean[name][: response.shape[1]]
    return result


def _between_places(observation: Observation, mean: Mapping[str, Float]) -> Float:
    """The variance that the mean alone makes where filters reach over the edge."""
    total = np.zeros(len(observation.offset))
    for name, bank in observation.banks.items():
        found = bank.responses() @ mean[name][: bank.weight.shape[1]]
        shares = bank.shares()[:, None]
        average = (shares * found).sum(axis=0)
        total += (shares * np.square(found - average)).sum(axis=0)
    return total


def _solve_means(
    observations: Sequence[Observation], alive: Sequence[np.ndarray], sizes: Mapping[str, int]
) -> dict[str, Float]:
    rows, targets = [], []
    for observation, mask in zip(observations, alive, strict=True):
        std = np.sqrt(observation.variance[mask])[:, None]
        columns = []
        for name, size in sizes.items():
            block = np.zeros((int(mask.sum()), size))
            if name in observation.banks:
                bank = observation.banks[name]
                block[:, : bank.weight.shape[1]] = np.tensordot(bank.shares(), bank.responses(), 1)[mask]
            columns.append(block)
        rows.append(np.concatenate(columns, axis=1) / std)
        targets.append((observation.mean - observation.offset)[mask] / std[:, 0])
    a, target = np.concatenate(rows), np.concatenate(targets)
    commons = np.zeros((a.shape[1], len(sizes)))
    begin = 0
    for index, size in enumerate(sizes.values()):
        commons[begin : begin + size, index] = 1.0
        begin += size
    scale = np.sqrt(np.square(a).mean()) or 1.0
    ridge = np.sqrt(MEAN_RIDGE * len(a)) * scale
    system = np.block([[a @ commons, a], [np.zeros((a.shape[1], len(sizes))), ridge * np.eye(a.shape[1])]])
    solved = np.linalg.lstsq(system, np.concatenate([target, np.zeros(a.shape[1])]), rcond=1e-10)[0]
    mean = commons @ solved[: len(sizes)] + solved[len(sizes) :]
    result, begin = {}, 0
    for name, size in sizes.items():
        result[name] = mean[begin : begin + size]
        begin += size
    return result


# -- variances


def _correlation(bank: FilterBank, exponent: float) -> Float:
    """Of pixels under a kernel, ``[taps, taps]``, for fields of amplitude 1/f^a as large as the map."""
    rank = len(bank.kernel)
    if rank == 0 or bank.weight.shape[2] == 1:
        return np.ones((1, 1))
    grid = [max(min(n, GRIDS[rank]), 2 * k, 2) for n, k in zip(bank.size, bank.kernel, strict=True)]
    frequency = np.sqrt(sum(np.square(f) for f in np.meshgrid(*(np.fft.fftfreq(n) for n in grid), indexing="ij")))
    power = np.maximum(frequency, 1.0 / max(grid)) ** (-2.0 * exponent)
    field = np.fft.ifftn(power).real
    field = field / field.reshape(-1)[0]
    at = np.stack([index.reshape(-1) for index in np.indices(bank.kernel)])
    apart = tuple((at[i][:, None] - at[i][None, :]) % grid[i] for i in range(rank))
    result: Float = field[apart]
    return result


class _Variances:
    """Predicts ``[outputs]`` for each observation from logarithms of variances, and the derivatives by these."""

    def __init__(
        self,
        observations: Sequence[Observation],
        correlations: Sequence[Mapping[str, Float]],
        sizes: Mapping[str, int],
        shared: float,
    ) -> None:
        self._shared = shared
        self._channels = sum(sizes.values())
        starts, begin = {}, 0
        for name, size in sizes.items():
            starts[name] = begin
            begin += size
        self._parts = [
            [
                (slice(starts[n], starts[n] + b.weight.shape[1]), b.weight, pairs[n], _gram(b.weight, pairs[n]))
                for n, b in o.banks.items()
            ]
            for o, pairs in zip(observations, correlations, strict=True)
        ]

    def __call__(self, theta: Float) -> tuple[list[Float], Float]:
        variance = np.exp(theta)
        values, slopes = [], []
        for parts in self._parts:
            value = np.zeros(len(parts[0][1]))
            slope = np.zeros((len(value), self._channels))
            for where, weight, pairs, gram in parts:
                v = variance[where]
                value += (1 - self._shared) * gram @ v
                slope[:, where] += (1 - self._shared) * gram * v
                if self._shared:
                    common = np.einsum("c,kct->kt", np.sqrt(v), weight)
                    turned = common @ pairs
                    value += self._shared * (common * turned).sum(axis=1)
                    slope[:, where] += self._shared * np.einsum("kct,kt->kc", weight, turned) * np.sqrt(v)
            values.append(value)
            slopes.append(slope)
        return values, np.concatenate(slopes)


def _gram(weight: Float, pairs: Float) -> Float:
    """``[outputs, channels]``: the variance that a channel of variance 1 makes alone."""
    result: Float = ((weight @ pairs) * weight).sum(axis=2)
    return np.maximum(result, 0.0)


def _fit(
    predict: _Variances, wanted: Sequence[Float], alive: Sequence[np.ndarray], sizes: Mapping[str, int]
) -> tuple[float, Float]:
    """Least squares in logarithms by damped Gauss-Newton steps: the mean squared logarithm, and what gives it."""
    mask, target = np.concatenate(alive), np.log(np.concatenate(wanted))
    centre = np.zeros((sum(sizes.values()),) * 2)
    begin = 0
    for size in sizes.values():
        centre[begin : begin + size, begin : begin + size] = np.eye(size) - 1 / size
        begin += size
    ridge = VARIANCE_RIDGE * len(target) * centre
    tiny = np.exp(target.min()) * 1e-12

    def residual(theta: Float) -> tuple[Float, Float]:
        values, slope = predict(theta)
        value = np.concatenate(values)[mask] + tiny
        return np.log(value) - target, slope[mask] / value[:, None]

    theta = np.zeros(len(centre))
    theta -= np.median(residual(theta)[0])
    error, slope = residual(theta)
    loss, damping = float(error @ error + theta @ ridge @ theta), 1e-3
    for _ in range(NEWTON_STEPS):
        system = (
            slope.T @ slope + ridge + damping * np.eye(len(theta)) * max(np.trace(slope.T @ slope) / len(theta), 1e-9)
        )
        step = np.clip(np.linalg.solve(system, slope.T @ error + ridge @ theta), -1.5, 1.5)
        new_error, new_slope = residual(theta - step)
        new_loss = float(new_error @ new_error + (theta - step) @ ridge @ (theta - step))
        if not new_loss < loss:
            damping *= 8
            if damping > 1e6:
                break
            continue
        done = loss - new_loss < 1e-6 * loss
        theta, error, slope, loss, damping = theta - step, new_error, new_slope, new_loss, damping / 4
        if done:
            break
    return float(np.square(error).mean()), theta
