"""Sensitivity: what gains are expected to be on other inputs than those they were measured on."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfmpc_onnx.quantization.sensitivity import DERIVED_SCATTER, FOLDED_SCATTER, SCATTER, expected_gains


def test_gains_that_differ_by_no_more_than_they_scatter_are_taken_to_be_equal():
    found = expected_gains({"a": 0.1, "b": -0.1, "c": 0.3})
    assert list(found.values()) == pytest.approx([math.exp(0.1)] * 3)


def test_gains_that_differ_by_decades_stay_as_measured():
    logs = {"a": 0.0, "b": 12.0, "c": -12.0}
    found = expected_gains(logs)
    assert all(found[name] == pytest.approx(math.exp(log), rel=0.03) for name, log in logs.items())


def test_a_quarter_of_the_variance_takes_gains_a_quarter_of_the_way_to_their_mean():
    deviation = math.sqrt(4 * SCATTER)
    found = expected_gains({"a": 1 + deviation, "b": 1 - deviation})
    assert found == pytest.approx({"a": math.exp(1 + 0.75 * deviation), "b": math.exp(1 - 0.75 * deviation)})


def test_no_gains_are_expected_where_none_were_measured():
    assert expected_gains({}) == {}


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=8))
def test_the_order_of_gains_is_kept(logs):
    found = expected_gains(dict(enumerate(logs)))
    ordered = [found[index] for index in sorted(range(len(logs)), key=logs.__getitem__)]
    assert all(a <= b * (1 + 1e-9) for a, b in itertools.pairwise(ordered))


@pytest.mark.parametrize("scatter", [DERIVED_SCATTER, FOLDED_SCATTER])
def test_gains_in_closed_form_tell_nothing_where_layers_differ_by_less_than_they_scatter(scatter):
    far = {"a": 0.0, "b": 30.0, "c": 10.0}
    near = {name: math.sqrt(scatter) * log / 15 for name, log in far.items()}  # a variance of 0.7 of the scatter
    assert len({round(gain, 9) for gain in expected_gains(near, scatter).values()}) == 1
    found = expected_gains(far, scatter)
    assert found["b"] > 1000 * found["c"] > found["a"]
