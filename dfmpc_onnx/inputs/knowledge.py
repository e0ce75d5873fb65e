"""What is known of each input before anything is measured, and why it is not where it is not.

A picture under a preprocess is known: as the user wrote it, as the first BatchNormalizations speak for it, or as the
arithmetic at the model's head shows it, which makes a usual normalized picture of bytes or of 0 to 1 only. Any other
input is known by the range that the user gave, by the moments that the first BatchNormalizations hold, by arithmetic
that takes a mean away and divides by a deviation, or by the bounds of a Clip that alone reads it; where moments lie
about 0, as those of sound, they say nothing of its tails. What is left is fed values of unit variance. Both are named:
no range or figure that comes of them may be trusted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import onnx

from dfmpc_onnx.errors import shown
from dfmpc_onnx.inputs.feeds import InputMoments, check_names, preprocess_of
from dfmpc_onnx.inputs.normalization import (
    ASSUMED,
    NOTHING_FITS,
    Prediction,
    PreprocessChoice,
    UnknownInput,
    resolve_preprocess,
)
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.inputs.spec import InputSpec, InputSpecs
from dfmpc_onnx.model.head_bounds import clipped_range
from dfmpc_onnx.model.linear_head import Head, linear_head
from dfmpc_onnx.model.linear_maps import Arithmetic, Filters
from dfmpc_onnx.model.protos import WEIGHTED_OPERATORS, every_node, names_read, op_of
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.input_moments import FilterBank, Observation, solve_inputs
from dfmpc_onnx.numerics.moment_match import mismatch
from dfmpc_onnx.numerics.ranges import Range

# What pixels are in front of the arithmetic, and what they are behind it, where both are usual.
RAW_SCALES = ("raw", "unit", "keras")
USUAL_SCALES = ("imagenet", "keras", "unit", "half", "raw", "caffe")
ALIKE = 0.5  # of a deviation, and of a natural logarithm of it, within which two scales of pictures are one
NO_CHANGE = 0.01  # of factor and offset, below which arithmetic leaves a picture as it is
LEAST_OFFSET = 0.05  # of a normalized value: a smaller one is an epsilon, no mean
MOST_FOLLOWED = 64  # inputs of which nothing is known that are followed to the layers that they reach
NOT_GUESSED = ("assumed", "no image")  # how a preprocess came about that says nothing of the input
FAR_FROM_ZERO = 1.0  # deviations, from which on an input is a level that varies and no signal about 0
DARK_WITH_BRIGHT_PARTS = 2.0  # the same, of one channel above 0: gamma distributions of shape 4 are still skewed
NOTHING_TELLS = "no BatchNormalization and no arithmetic tells it"
MAY_REACH_FAR = "what lies about 0, as sound does, or little above, as radiographs do, may reach far"
MAY_BE_NO_PICTURE = (
    "one channel about 0, in the scale of {} pictures, may be a spectrogram or a scan that reaches further"
)
BY_HEAD, BY_NORMS = "head", "norms"
BY_JUDGEMENT = ("images", "covariances")  # the first BatchNormalizations fit pictures under a usual preprocess


def with_ranges(inputs: InputSpecs, ranges: Mapping[str, Range]) -> InputSpecs:
    """The inputs with the ranges that the user gave. Raises OptionError where one names no input of numbers."""
    check_names(ranges, {spec.name: spec.kind for spec in inputs})
    specs = tuple(_with_range(spec, ranges[spec.name]) if spec.name in ranges else spec for spec in inputs)
    return dataclasses.replace(inputs, specs=specs)


def _with_range(spec: InputSpec, bounds: Range) -> InputSpec:
    preprocess = preprocess_of(bounds) if spec.is_picture else spec.preprocess
    return dataclasses.replace(spec, range=bounds, preprocess=preprocess)


def find_out(
    model: onnx.ModelProto,
    inputs: InputSpecs,
    text: str,
    prediction: Prediction,
    *,
    doubt: bool = True,
    recorded_by: str | None = None,
) -> tuple[InputSpecs, PreprocessChoice]:
    """The inputs under all that is known of them, and how that came about; `choice.unknown` names the others.

    Images that the user gives are not looked at: see `unknown_inputs.told_by_images`.

    text, doubt: as for `resolve_preprocess`. recorded_by: how the preprocess came about that a quantized file states.
    """
    inputs, choice = resolve_preprocess(model, inputs, text, prediction, doubt=doubt)
    with np.errstate(all="ignore"):  # what is damaged is reported by others
        head = linear_head(model, {s.name: s.shape for s in inputs if s.is_float and s.resolved and not s.is_sequence})
    guessed = (choice.by if recorded_by is None else recorded_by) in (*NOT_GUESSED, BY_HEAD, BY_NORMS)
    judged = (choice.by if recorded_by is None else recorded_by) in BY_JUDGEMENT
    found: dict[str, InputSpec] = {}
    how: dict[str, str] = {}
    if guessed:
        for spec in inputs:
            name = _scale_in_front(head.ends.get(spec.name, ()), spec) if spec.is_normalized else None
            if name is not None:
                found[spec.name] = dataclasses.replace(spec, preprocess=Preprocess.parse(name))
                how[spec.name] = f"{name}, by the arithmetic at its head"
    wanted = [
        spec
        for spec in inputs
        if spec.name not in found and spec.range is None and spec.is_float and (guessed or not spec.is_normalized)
    ]
    for spec, moments, by in _moments(head, wanted):
        found[spec.name] = dataclasses.replace(spec, moments=moments)
        how[spec.name] = f"{_moments_in_words(moments)}, by {by}"
    for spec in wanted:
        bounds = clipped_range(model.graph, head.constants, spec.name) if spec.name not in found else None
        if bounds is not None:
            found[spec.name] = _with_range(spec, bounds)
            how[spec.name] = f"{bounds[0]:g} to {bounds[1]:g}, by the Clip at its head"
    unknown = tuple(
        msgspec.structs.replace(entry, images_tell=len(inputs) == 1)
        for entry in _unknown(model, inputs, choice, wanted, found, judged=judged)
    )
    if found:
        scaled = [spec.preprocess for spec in found.values() if spec.moments is None and spec.range is None]
        pictures = {preprocess.name for preprocess in scaled}
        if pictures and recorded_by == BY_HEAD:  # what the file states is theirs; the others got what was assumed
            inputs = inputs.with_preprocess(Preprocess.parse(ASSUMED))
        specs = tuple(found.get(spec.name, spec) for spec in inputs)
        inputs = dataclasses.replace(inputs, specs=specs)
        if len(pictures) == 1:
            inputs = dataclasses.replace(inputs, preprocess=scaled[0])
        by = BY_NORMS if any(spec.moments is not None for spec in found.values()) and not pictures else BY_HEAD
        choice = _in_words(choice, pictures, how, by)
    inputs = dataclasses.replace(inputs, unknown=frozenset(entry.name for entry in unknown))
    return inputs, msgspec.structs.replace(choice, unknown=unknown)


def _unknown(
    model: onnx.ModelProto,
    inputs: InputSpecs,
    choice: PreprocessChoice,
    wanted: Sequence[InputSpec],
    found: Mapping[str, InputSpec],
    *,
    judged: bool,
) -> tuple[UnknownInput, ...]:
    """The inputs whose scale nothing tells, or nothing for certain, each with the reason.

    wanted: those that something was looked for of. found: what was found of some, by name. judged: whether the
    preprocess is what BatchNormalizations fit.
    """
    reaching = _reach_layers(model, [spec.name for spec in wanted if spec.name not in found])
    why = choice.reason.partition(": ")[2] if choice.by == "assumed" else ""
    unknown = tuple(
        UnknownInput(name, *((why, True) if why and inputs[name].is_normalized else (NOTHING_TELLS, False)))
        for name in reaching
    ) + tuple(
        UnknownInput(spec.name, f"{_moments_in_words(spec.moments)}, but {MAY_REACH_FAR}")
        for spec in found.values()
        if spec.moments is not None and _may_reach_far(spec.moments)
    )
    return unknown + tuple(
        UnknownInput(spec.name, MAY_BE_NO_PICTURE.format(spec.preprocess.name), preprocess_tells=True)
        for spec in inputs
        if judged and spec.range is None and _may_be_no_picture(spec)
    )


def _in_words(choice: PreprocessChoice, pictures: set[str], how: Mapping[str, str], by: str) -> PreprocessChoice:
    """The choice where inputs were found out without a usual preprocess."""
    words = "; ".join(f"'{shown(name)}': {text}" for name, text in how.items())
    if choice.by not in NOT_GUESSED:
        return msgspec.structs.replace(choice, reason=f"{choice.reason}; {words}")
    name = min(pictures) if pictures else ASSUMED
    return msgspec.structs.replace(choice, name=name, by=by, reason=words, warning=None)


def _reach_layers(model: onnx.ModelProto, names: Sequence[str]) -> list[str]:
    """Which inputs a layer depends on: of the others no activation is quantized."""
    if len(names) > MOST_FOLLOWED:
        return list(names)
    sources: dict[str, set[str]] = {name: {name} for name in names}
    reached: set[str] = set()
    for node in model.graph.node:
        read = set().union(*(sources.get(name, set()) for name in names_read(node)))
        if not read:
            continue
        if any(op_of(inner) in WEIGHTED_OPERATORS or inner.domain for inner in every_node([node])):
            reached |= read
        for name in node.output:
            sources[name] = sources.get(name, set()) | read
    return [name for name in names if name in reached]


# -- pictures


def _scale_in_front(ends: Sequence[Arithmetic], spec: InputSpec) -> str | None:
    """What a picture is in front of the arithmetic at its head; None where that does not tell."""
    names = {name for end in ends if (name := _raw_scale(end, spec)) != ""}
    only = names.pop() if len(names) == 1 else None
    return only or None


def _raw_scale(end: Arithmetic, spec: InputSpec) -> str | None:
    """The one scale that becomes a usual one; None where there is none or several, "" where nothing is changed."""
    if spec.channel_axis not in end.axes:
        return None
    factor, offset = end.along(end.axes.index(spec.channel_axis))
    if np.all(np.abs(factor - 1) < NO_CHANGE) and np.all(np.abs(offset) < NO_CHANGE):
        return ""
    if not np.all(factor > 0):
        return None
    channels = max(len(factor), len(offset))
    fitting = []
    for name in RAW_SCALES:
        if name == "keras" and not np.all(np.abs(offset) > NO_CHANGE):
            continue  # to double what lies about 0 is no step of a normalization
        mean, variance = Preprocess.parse(name).moments(channels)
        made = factor * mean + offset, factor * np.sqrt(variance)
        if any(_alike(made, Preprocess.parse(usual), channels) for usual in USUAL_SCALES):
            fitting.append(name)
    return fitting[0] if len(fitting) == 1 else None


def _alike(made: tuple[Float, Float], usual: Preprocess, channels: int) -> bool:
    mean, variance = usual.moments(channels)
    std = np.sqrt(variance)
    return bool(np.all(np.abs(made[0] - mean) < ALIKE * std) and np.all(np.abs(np.log(made[1] / std)) < ALIKE))


# -- other inputs


def _moments(head: Head, wanted: Sequence[InputSpec]) -> list[tuple[InputSpec, InputMoments, str]]:
    """Moments of the inputs for which BatchNormalizations or a standardization at the head tell them."""
    by_norms = _moments_by_norms(head, wanted)
    result: list[tuple[InputSpec, InputMoments, str]] = []
    for spec in wanted:
        if spec.name in by_norms:
            result.append((spec, *by_norms[spec.name]))
            continue
        each = [_standardized(end) for end in head.ends.get(spec.name, ())]
        first = each[0] if each else None
        if first is not None and all(moments == first for moments in each):
            result.append((spec, first, "the arithmetic at its head"))
    return result


def _standardized(end: Arithmetic) -> InputMoments | None:
    """``(x - mean) / deviation`` at the head tells both."""
    shape = np.broadcast_shapes(end.factor.shape, end.offset.shape)
    along = [i for i, size in enumerate(shape) if size > 1]
    if len(along) > 1:
        return None
    dimension = along[0] if along else 1
    if dimension >= len(end.axes) or end.axes[dimension] is None or end.picked[dimension] is not None:
        return None
    factor, offset = (np.broadcast_to(v, max(shape, default=1)) for v in end.along(dimension))
    if np.any(factor == 0) or np.all(np.abs(factor - 1) < NO_CHANGE) or np.all(np.abs(offset) < LEAST_OFFSET):
        return None
    mean, deviation = -offset / factor, 1 / np.abs(factor)
    axis = end.axes[dimension] if along or len(end.axes) > 2 else None  # a rank of 2 may well be sound, of one channel
    return InputMoments(axis, tuple(map(float, mean)), tuple(map(float, deviation)))


def _moments_by_norms(head: Head, wanted: Sequence[InputSpec]) -> dict[str, tuple[InputMoments, str]]:
    specs = {spec.name: spec for spec in wanted}
    observations, names = [], []
    axes: dict[str, int | None] = {}
    for node, filters in head.norms:
        mean, variance = (head.constants.get(name) for name in node.input[3:5])
        if mean is None or variance is None or not specs.keys() >= filters.parts.keys():
            continue
        with np.errstate(all="ignore"):  # of a damaged file: what is no number is passed over below
            measured = [np.asarray(v, np.float64).reshape(-1) for v in (mean, variance)]
        if any(len(v) != len(filters.offset) or not np.isfinite(v).all() for v in measured) or np.any(measured[1] < 0):
            continue
        if any(axes.setdefault(name, part.axis) != part.axis for name, part in filters.parts.items()):
            continue
        observations.append(Observation(_banks(filters, specs), filters.offset, measured[0], measured[1]))
        names.append(shown(node.name or node.output[0]))
    try:
        with np.errstate(all="ignore"):
            solved = solve_inputs(observations) if observations else None
    except np.linalg.LinAlgError:  # of numbers that are none
        solved = None
    if solved is None or not all(np.isfinite([*i.mean, *i.variance]).all() for i in solved.inputs.values()):
        return {}
    apart = np.concatenate(
        [mismatch(o.mean, o.variance, *p) for o, p in zip(observations, solved.predicted, strict=True)]
    )
    if not apart.size or apart.mean() > NOTHING_FITS:
        return {}
    by = f"BatchNormalization '{names[0]}'" if len(names) == 1 else f"{len(names)} BatchNormalizations"
    return {
        name: (
            InputMoments(
                axes[name],
                tuple(map(float, found.mean)),
                tuple(map(float, np.sqrt(found.variance))),
                found.exponent,
                found.correlation,
            ),
            by,
        )
        for name, found in solved.inputs.items()
    }


def _banks(filters: Filters, specs: Mapping[str, InputSpec]) -> dict[str, FilterBank]:
    banks = {}
    for name, part in filters.parts.items():
        kernel = part.weight.shape[2:]
        size = [n for i, n in enumerate(specs[name].shape) if i not in (0, part.axis)]
        size += [1] * (len(kernel) - len(size))
        weight = part.weight.reshape(*part.weight.shape[:2], -1)
        places = tuple((share, mask.reshape(-1)) for share, mask in part.places)
        banks[name] = FilterBank(weight, kernel, tuple(size[: len(kernel)]), places)
    return banks


def _may_reach_far(moments: InputMoments) -> bool:
    """Whether an input lies about 0, as what is loud and quiet does, and magnitudes do: its tails are then anything.

    One channel above 0, as of a radiograph, counts so further up: dark with a few bright parts.
    """
    far = float(np.median(np.abs(moments.mean) / np.maximum(moments.deviation, 1e-30)))
    return far < (DARK_WITH_BRIGHT_PARTS if len(moments.mean) == 1 and moments.mean[0] > 0 else FAR_FROM_ZERO)


def _may_be_no_picture(spec: InputSpec) -> bool:
    """Whether an input that fits pictures in mean and variance may be something else: without colours, and about 0.

    Between 0 and 1, or 0 and 255, it ends where pictures do.
    """
    if not spec.is_normalized or spec.channels != 1:
        return False
    mean, variance = spec.preprocess.moments(1)
    return bool(np.all(np.abs(mean) < FAR_FROM_ZERO * np.sqrt(variance)))


def _moments_in_words(moments: InputMoments) -> str:
    def span(values: Sequence[float]) -> str:
        low, high = min(values), max(values)
        return f"{low:.3g}" if high - low <= 0.01 * abs(high) else f"{low:.3g} to {high:.3g}"

    count = len(moments.mean)
    channels = f"{count} channels of " if count > 1 else ""
    return f"{channels}mean {span(moments.mean)}, deviation {span(moments.deviation)}"
