"""Channels of two networks beside each other: which have changed places."""

from __future__ import annotations

import numpy as np
import pytest

from dfmpc_onnx.evaluation.diagnosis.channel_likeness import ChannelLikeness

Y = np.random.default_rng(0).standard_normal((4, 6, 5, 5))


def likeness(order: list[int], noise: float = 0.1) -> ChannelLikeness:
    found = ChannelLikeness()
    made = 3 * Y[:, order] + 1 + noise * np.random.default_rng(1).standard_normal(Y.shape)
    found.add(Y[:2], made[:2], 2)
    found.add(Y[2:], made[2:], 2)
    return found


def test_channels_that_changed_places_are_found_behind_factors_and_shifts() -> None:
    found = likeness([0, 4, 2, 3, 1, 5])
    assert found.of(1)[1] == 4 and found.of(4)[1] == 1
    alike, other = found.of(2)
    assert alike == pytest.approx(1, abs=0.01) and other is None


def test_a_copy_of_another_channel_and_noise_are_no_change_of_places() -> None:
    assert likeness([0, 4, 2, 3, 4, 5]).of(1)[1] is None
    assert likeness([0, 1, 2, 3, 4, 5], noise=30.0).of(1)[1] is None


def test_a_negated_channel_is_as_alike_as_its_negative() -> None:
    found = ChannelLikeness()
    found.add(Y, -Y, 4)
    assert found.of(3) == (pytest.approx(1), None)


def test_rows_that_fill_a_batch_do_not_count_and_other_shapes_are_left_out() -> None:
    found = ChannelLikeness()
    filled = Y.copy()
    filled[3] = 1e6
    found.add(Y, filled, 3)
    found.add(Y, Y[:, :2], 4)
    assert found.of(0)[0] == pytest.approx(1)
