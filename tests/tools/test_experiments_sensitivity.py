"""The experiments on sensitivity: their pure parts."""

import numpy as np
import pytest

from dfmpc_onnx.pipeline.weight_plan import bits_of
from tools.experiments.agreement import held, spread_interval
from tools.experiments.plans import Outcome, cells, mean_of
from tools.experiments.sensitivity import (
    EQUAL_BITS,
    at_equal_bytes,
    correlations,
    drop_of,
    random_widths,
    relative_error,
)
from tools.experiments.trials import divergences


def test_an_estimate_in_the_order_of_the_truth_has_ranks_of_one():
    assert correlations([1, 2, 3, 9], [0.1, 0.2, 0.4, 0.5], [4, 3, 2, 1]) == pytest.approx([1, 1, -1])


def test_the_divergence_of_equal_scores_is_zero_whatever_is_added_to_them():
    scores = np.random.default_rng(0).normal(size=(5, 10)).astype(np.float32)
    assert divergences(scores, scores + 3) == pytest.approx(np.zeros(5), abs=1e-6)


def test_the_divergence_of_two_classes_is_that_of_their_probabilities():
    plain, hat = (np.log(np.array([p], np.float32)) for p in ([0.5, 0.5], [0.75, 0.25]))
    assert divergences(plain, hat)[0] == pytest.approx(0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25), rel=1e-5)


def test_a_drop_is_in_points():
    plain, hat = np.eye(4, dtype=np.float32), np.roll(np.eye(4, dtype=np.float32), 1, axis=0)
    assert drop_of(plain, hat, np.arange(4)) == 100


def test_random_settings_give_each_weight_a_width_and_come_from_the_seed():
    found = random_widths(["a", "b"], 5, 0)
    assert len(found) == 5 and all(set(setting) == {"a", "b"} for setting in found)
    assert found == random_widths(["a", "b"], 5, 0) != random_widths(["a", "b"], 5, 1)


def test_outcomes_are_averaged_figure_by_figure():
    assert mean_of([Outcome(10, 1.0, 2.0, 0.0), Outcome(20, 3.0, 4.0, 1.0)]) == Outcome(15, 2.0, 3.0, 0.5)


def test_a_plan_stands_beside_the_rule_that_it_took_the_place_of():
    outcome = Outcome(400_000, 20.0, 21.63, -0.2)
    assert cells("ResNet-56", "0.8", outcome) == ("ResNet-56", "0.8", "400000", "20.0", "21.6", "-0.2", "17.3")
    assert cells("ResNet-56", "0.8, greedy", outcome)[-1] == ""


def test_settings_at_equal_bytes_have_four_bits_a_weight():
    sizes = {f"conv{i}": 100 for i in range(60)}
    settings = at_equal_bytes(random_widths(list(sizes), 5, 0), sizes, 0)
    for setting in settings:
        bits = sum(sizes[name] * bits_of(width) for name, width in setting.items())
        assert bits / sum(sizes.values()) == pytest.approx(EQUAL_BITS, rel=0.01)
    assert settings == at_equal_bytes(random_widths(list(sizes), 5, 0), sizes, 0)


def test_a_relative_error_is_that_of_what_differs_between_images():
    plain = np.array([[1.0, 10.0], [3.0, 10.0]], np.float32)
    assert relative_error(plain, plain + np.float32(1)) == pytest.approx(2.0)


def test_intervals_of_32_images_hold_about_as_often_as_they_say():
    generator = np.random.default_rng(1)
    inside, above = held(generator.random(1000) < 0.9, 32, 400, 0)
    assert inside >= 90 and above <= 5


def test_an_interval_of_spread_images_stands_beside_the_others():
    same = np.ones(100, bool)
    same[[0, 1, 2]] = False  # of which the first is one of the ten
    (low, high), others = spread_interval(same, 10)
    assert low < 90 < high and others == pytest.approx(100 * 88 / 90)


def test_where_all_images_agree_each_interval_holds():
    assert held(np.ones(100, bool), 32, 20, 0) == (100.0, 0.0)
