"""Rules that name a cause, each with its evidence; the first that holds counts."""

from __future__ import annotations

import numpy as np

from dfmpc_onnx.evaluation.diagnosis.evidence import LEVELS_OF_4_BITS, RoundingEvidence, WeightEvidence
from dfmpc_onnx.evaluation.diagnosis.roundings import Rounding
from dfmpc_onnx.evaluation.diagnosis.schema import Cause
from dfmpc_onnx.numerics.arrays import Float

MOST_OF_ERROR = 0.5  # of an error that one thing makes before it is named as the cause
PART_OF_ERROR = 0.2  # the same of one of two channels
IS_A_MULTIPLE = 0.7  # correlation of a channel with the float network's, from which it is a multiple of that
OFF_GAIN = 0.3  # of a channel, from 1, that rounding to many levels does not explain
UNLIKE = 16.0  # times further than the usual part of an activation the furthest reaches, which leaves it four bits
PARTLY_USED = 0.25  # of the codes, below which two bits are lost: by values, or by the usual channel of a weight
NEGATIVE_TIMES = 3.0  # further below 0 than above, where what is below is cut off


def weight_cause(found: WeightEvidence) -> Cause:
    """What is wrong with a layer's weights."""
    if found.swapped is not None and found.share >= PART_OF_ERROR:
        return Cause(
            "channels-swapped",
            f"output channels {found.channel} and {found.swapped} have changed places; they change its output by "
            f"{_percent(found.error)}",
            {"channel": found.channel, "other": found.swapped, "share": found.share, "error": found.error},
        )
    one_channel = found.channels > 1 and found.share >= MOST_OF_ERROR and found.alike >= IS_A_MULTIPLE
    if one_channel and found.gain < 0:
        return Cause(
            "channel-negated",
            f"output channel {found.channel} has the opposite sign of the float network's ({_times(found.gain)}); it "
            f"makes {_percent(found.share)} of the layer's error",
            {"channel": found.channel, "gain": found.gain, "share": found.share, "error": found.error},
        )
    few = found.levels is not None and found.levels <= LEVELS_OF_4_BITS
    if one_channel and abs(found.gain - 1) >= OFF_GAIN and (found.gain > 2 or not few):
        return Cause(
            "channel-scaled",
            f"output channel {found.channel} is {_times(found.gain)} the float network's; it makes "
            f"{_percent(found.share)} of the layer's error",
            {"channel": found.channel, "gain": found.gain, "share": found.share, "error": found.error},
        )
    if found.levels is not None and few:
        bits = max(int(np.ceil(np.log2(max(found.levels, 2)))), 1)
        return Cause(
            "too-few-bits",
            f"its weights have {bits} bits, too few: they alone change its output by {_percent(found.error)}",
            {"levels": found.levels, "bits": bits, "error": found.error},
        )
    unlike = _unlike(found.reaches)
    if found.levels is not None and found.scales == 1 and unlike >= 1 / PARTLY_USED:
        return Cause(
            "unlike-channels",
            f"one scale for all its channels, of which the largest reaches {unlike:.0f} times as far as the usual one: "
            "give each channel a scale",
            {"times": unlike, "error": found.error},
        )
    return Cause(
        "no-single-cause",
        f"no single cause: its weights change its output by {_percent(found.error, 1)}",
        {"error": found.error},
    )


def rounding_cause(found: RoundingEvidence, rounding: Rounding, *, is_input: bool) -> Cause:
    """What is wrong with the rounding of an activation. is_input: whether it is an input of the network."""
    codes = f"its codes reach from {rounding.low:.3g} to {rounding.high:.3g}"
    values = f"its values from {found.low:.3g} to {found.high:.3g}"
    used = (found.high - found.low) / max(rounding.high - rounding.low, 1e-30)
    figures = {
        "codes_low": rounding.low,
        "codes_high": rounding.high,
        "values_low": found.low,
        "values_high": found.high,
        "error": found.error,
    }
    clipped = found.clipped >= MOST_OF_ERROR
    if is_input and (clipped or used < PARTLY_USED):
        return Cause("wrong-preprocess", f"{codes}, {values}: it was made for inputs of another preprocess", figures)
    if clipped:
        share = (
            f"{_share(found.beyond)} of them are clipped, which makes {_percent(found.clipped)} of its rounding error"
        )
        figures |= {"beyond": found.beyond, "clipped": found.clipped}
        return Cause("clipped-range", f"{codes}, {values}: {share}", figures)
    if used < PARTLY_USED:
        text = f"{codes}, {values}: of {rounding.codes} codes about {max(used * rounding.codes, 1):.0f} are used"
        return Cause("range-too-wide", text, figures)
    return _shape_cause(found, rounding) or Cause(
        "no-single-cause", f"no single cause: rounding changes it by {_percent(found.error, 1)}", {"error": found.error}
    )


def _shape_cause(found: RoundingEvidence, rounding: Rounding) -> Cause | None:
    """What makes the values of a tensor fit one scale badly, if anything does."""
    parts = [part for part in found.parts if part > 0]
    if len(parts) > 1 and max(parts) / min(parts) >= UNLIKE:
        times = max(parts) / min(parts)
        text = f"it joins tensors of unequal ranges, the largest {times:.0f} times the smallest, in one scale"
        return Cause("unequal-concat", text, {"times": times, "error": found.error})
    if found.cut and found.low < 0 and -found.low >= NEGATIVE_TIMES * max(found.high, 0.0):
        text = (
            f"its values reach from {found.low:.3g} to {found.high:.3g}, and what reads it cuts off what is below 0: "
            "most codes are spent on that"
        )
        return Cause(
            "cut-negative-range", text, {"values_low": found.low, "values_high": found.high, "error": found.error}
        )
    unlike = _unlike(found.reaches)
    if unlike >= UNLIKE:
        text = f"one scale for channels of which the largest reaches {unlike:.0f} times as far as the usual one"
        return Cause("unlike-channels", text, {"times": unlike, "error": found.error})
    if rounding.codes <= LEVELS_OF_4_BITS:
        bits = int(np.log2(rounding.codes))
        changes = _percent(found.error)
        text = f"it is rounded to {rounding.codes} codes ({bits} bits), too few: that changes it by {changes}"
        return Cause("too-few-bits", text, {"levels": rounding.codes, "bits": bits, "error": found.error})
    return None


def _unlike(reaches: Float) -> float:
    """How many times as far as the usual channel the furthest reaches; channels that hold nothing do not count."""
    live = reaches[reaches > 1e-6 * reaches.max(initial=0.0)]
    return float(live.max() / np.median(live)) if live.size > 1 else 1.0


def _times(gain: float) -> str:
    return f"{gain:.3g} times"


def _share(part: float) -> str:
    return "less than 0.1 %" if part < 1e-3 else f"{_percent(part, 1)}"


def _percent(part: float, digits: int = 0) -> str:
    return f"{100 * part:.{digits}f} %"
