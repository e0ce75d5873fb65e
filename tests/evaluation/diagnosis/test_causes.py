"""The rules that name a cause, each on evidence that holds for it alone."""

from __future__ import annotations

import dataclasses

import numpy as np

from dfmpc_onnx.evaluation.diagnosis.causes import rounding_cause, weight_cause
from dfmpc_onnx.evaluation.diagnosis.evidence import RoundingEvidence, WeightEvidence
from dfmpc_onnx.evaluation.diagnosis.roundings import Rounding

WEIGHTS = WeightEvidence(
    error=0.01, channel=2, share=0.2, gain=1.0, channels=8, levels=255, scales=8, reaches=np.ones(8)
)
ROUNDING = Rounding("relu", "relu.q", ("relu.dq",), low=0.0, high=2.55, step=0.01, codes=256)
VALUES = RoundingEvidence(low=0.0, high=2.5, beyond=0.0, clipped=0.0, error=0.005, reaches=np.ones(8))


def of_weights(**changed: object) -> str:
    return weight_cause(dataclasses.replace(WEIGHTS, **changed)).code  # type: ignore[arg-type]


def of_rounding(rounding: Rounding = ROUNDING, *, is_input: bool = False, **changed: object) -> str:
    found = dataclasses.replace(VALUES, **changed)  # type: ignore[arg-type]
    return rounding_cause(found, rounding, is_input=is_input).code


def test_healthy_weights_and_activations_have_no_single_cause() -> None:
    assert of_weights() == "no-single-cause"
    assert of_rounding() == "no-single-cause"
    assert of_rounding(is_input=True) == "no-single-cause"


def test_a_channel_is_named_only_where_it_makes_most_of_the_error() -> None:
    assert of_weights(share=0.9, gain=-1.0) == "channel-negated"
    assert of_weights(share=0.9, gain=100.0) == "channel-scaled"
    assert of_weights(share=0.9, gain=0.01) == "channel-scaled"
    assert of_weights(share=0.3, gain=100.0) == "no-single-cause"
    assert of_weights(share=1.0, gain=1.02) == "no-single-cause"
    assert of_weights(share=1.0, gain=3.0, channels=1) == "no-single-cause"


def test_channels_that_changed_places_are_named_and_unlike_ones_are_no_multiple() -> None:
    assert of_weights(share=0.5, gain=0.1, alike=0.1, swapped=5) == "channels-swapped"
    assert of_weights(share=0.1, gain=0.1, alike=0.1, swapped=5) == "no-single-cause"
    assert of_weights(share=0.9, gain=-0.2, alike=0.2) == "no-single-cause"


def test_few_levels_explain_a_channel_that_is_a_little_off_but_no_factor() -> None:
    assert of_weights(levels=4) == "too-few-bits"
    assert of_weights(levels=4, share=0.9, gain=0.6) == "too-few-bits"
    assert of_weights(levels=4, share=0.9, gain=50.0) == "channel-scaled"
    assert of_weights(levels=None) == "no-single-cause"


def test_unlike_channels_matter_where_they_share_a_scale() -> None:
    reaches = np.array([1.0, 1.0, 1.0, 40.0])
    assert of_weights(scales=1, reaches=reaches) == "unlike-channels"
    assert of_weights(scales=4, reaches=reaches) == "no-single-cause"
    assert of_weights(scales=1, reaches=np.array([1.0, 1.0, 3.0])) == "no-single-cause"
    assert of_rounding(reaches=reaches) == "unlike-channels"
    assert of_rounding(reaches=reaches / np.array([1, 1, 1, 5])) == "no-single-cause"


def test_ranges_are_clipped_or_too_wide_and_at_the_input_the_preprocess_is_wrong() -> None:
    clipped = {"high": 9.0, "clipped": 0.99, "beyond": 0.2}
    assert of_rounding(**clipped) == "clipped-range"
    assert of_rounding(high=0.1) == "range-too-wide"
    assert of_rounding(is_input=True, **clipped) == "wrong-preprocess"
    assert of_rounding(is_input=True, high=0.1) == "wrong-preprocess"


def test_a_concat_of_unequal_ranges_is_named_with_how_unequal_they_are() -> None:
    assert of_rounding(parts=(1.0, 20.0)) == "unequal-concat"
    assert of_rounding(parts=(1.0, 3.0)) == "no-single-cause"
    found = rounding_cause(dataclasses.replace(VALUES, parts=(0.5, 20.0)), ROUNDING, is_input=False)
    assert found.figures == {"times": 40.0, "error": VALUES.error} and "40 times the smallest" in found.text


def test_a_negative_range_is_named_where_what_reads_it_cuts_it_off() -> None:
    wide = dataclasses.replace(ROUNDING, low=-10.0, high=1.0)
    assert of_rounding(wide, low=-9.5, high=0.9, cut=True) == "cut-negative-range"
    assert of_rounding(wide, low=-9.5, high=0.9, cut=False) == "no-single-cause"


def test_an_activation_of_few_codes_has_too_few_bits() -> None:
    assert of_rounding(dataclasses.replace(ROUNDING, step=0.17, codes=16)) == "too-few-bits"
