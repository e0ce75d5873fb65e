import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfmpc_onnx.numerics.equalization import ChannelReader, gate_codes, quietest


def test_codes_are_255ths_of_the_widest_rounded_up_and_no_channel_is_enlarged_more_than_8_times():
    assert gate_codes(np.array([10.0, 5.0, 1.0, 0.01, 0.0])).tolist() == [255, 128, 32, 32, 32]
    assert gate_codes(np.zeros(3)).tolist() == [255, 255, 255]


@given(st.lists(st.floats(0, 1e30), min_size=1))
def test_no_channel_reaches_beyond_the_widest(reach):
    codes = gate_codes(np.array(reach))
    assert ((codes >= 32) & (codes <= 255) & (codes == np.rint(codes))).all() and codes.max() == 255
    assert (np.array(reach) / codes <= max(reach) / 255 * (1 + 1e-12)).all()


@given(st.integers(0, 2**32 - 1), st.integers(2, 8))
def test_noise_is_that_of_rounding_what_is_scaled(seed, bits):
    random = np.random.default_rng(seed)
    rows, squares = random.standard_normal((2, 3, 6)).astype(np.float32), random.exponential(size=(2, 6))
    factors, reach = random.uniform(0.1, 1.0, 4), random.exponential(size=4)  # each channel has three taps
    step = max(r / f for r, f in zip(reach, factors, strict=True)) / 255
    shares = []
    for seen in (squares, np.maximum(squares, squares.mean())):  # what is faint on a sample other inputs may excite
        noise = signal = 0.0
        for group in range(2):
            f = np.repeat(factors, 3).reshape(2, 6)[group]
            for row in rows[group].astype(np.float64):
                coarse = np.abs(row * f).max() / (2 ** (bits - 1) - 1)
                noise += sum(coarse**2 / 12 * seen[group] / f**2) + sum(step**2 / 12 * (row * f) ** 2)
                signal += sum(row**2 * seen[group])
        shares.append(noise / signal)
    assert ChannelReader(rows, squares).noise(factors, reach, bits) == pytest.approx(max(shares), rel=1e-4)


def test_factors_are_taken_whole_by_a_depthwise_reader_and_barely_by_one_that_adds_an_outlier_to_many():
    reach = np.array([100.0] + [1.0] * 63)
    squares = np.square(reach / 8)
    depthwise = ChannelReader(np.ones((64, 1, 9), np.float32), np.repeat(squares, 9).reshape(64, 9))
    pointwise = ChannelReader(np.ones((1, 16, 64), np.float32), squares[None])
    whole = reach / reach.max()
    assert (quietest([depthwise], whole, reach, 8) == whole).all()
    assert quietest([pointwise], whole, reach, 4).min() > 0.3
    assert (quietest([], whole, reach, 8) == whole).all()
