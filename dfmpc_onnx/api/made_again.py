"""With what options a quantized file is made again as it was made, for calls and for command lines."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import NotRequired, TypedDict

import msgspec

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.inputs.preprocess import AUTO
from dfmpc_onnx.pipeline.deadline import Deadline
from dfmpc_onnx.pipeline.settings import LayerOverride
from dfmpc_onnx.pipeline.targets import targets

RECORDED = "IMAGES"  # in a command, for images of the user's of which only a digest is known
# The parameters of quantize() that are found elsewhere: in the recipe that a file records, or as overrides of layers.
IN_THE_RECIPE = frozenset({"recipe", "weights", "reduce_range", "max_latency"})
AS_OVERRIDES = frozenset({"layers"})


class OptionsAgain(TypedDict):
    """Options by the names that quantize() has for them; without those that are as usual for the target."""

    activations: NotRequired[str]
    target: NotRequired[str]
    fp16: NotRequired[bool]
    preprocess: NotRequired[str]
    input_shapes: NotRequired[Mapping[str, Sequence[int]]]
    input_ranges: NotRequired[Mapping[str, tuple[float, float]]]
    images: NotRequired[str]
    seed: NotRequired[int]
    max_seconds: NotRequired[float]


def options_again(
    stated: Mapping[str, str], shapes: Mapping[str, Sequence[int]], images: str | None = None, preprocess: str = ""
) -> OptionsAgain:
    """What a file says of its making (`provenance`), as options. shapes: of inputs, where others than the usual ones
    were given; images: where the user's are; preprocess: another one than the file states, "" for that one."""
    found: OptionsAgain = {}
    target = targets().get(stated.get("target", "cpu"))
    if target is None or target.name != "cpu":
        found["target"] = stated["target"]
    if (activations := stated.get("activations")) and (target is None or activations != str(target.activations)):
        found["activations"] = activations
    if target is not None and target.float_type == "float16" and "float_type" not in stated:
        found["fp16"] = False
    if preprocess or not stated.get("preprocess_choice", "").startswith("no image"):
        found["preprocess"] = preprocess or stated.get("preprocess", AUTO)
    if shapes:
        found["input_shapes"] = shapes
    if ranges := recorded_ranges(stated):
        found["input_ranges"] = ranges
    if images is not None and "images_sha256" in stated:
        found["images"] = images
    if (seed := stated.get("seed", "0")) != "0":
        found["seed"] = int(seed)
    if (seconds := recorded_seconds(stated)) is not None:
        found["max_seconds"] = seconds
    return found


def as_arguments(options: OptionsAgain) -> list[str]:
    """The same as a command takes it."""
    found = [
        part
        for name in ("target", "activations", "seed", "preprocess")
        if name in options
        for part in (f"--{name}", str(options[name]))
    ]
    if not options.get("fp16", True):
        found.append("--no-fp16")
    for name, shape in options.get("input_shapes", {}).items():
        sizes = "x".join(map(str, shape))
        found += ["--input-shape", f"{name}:{sizes}" if name else sizes]
    for name, (low, high) in options.get("input_ranges", {}).items():
        found += ["--input-range", f"{name}={_number(low)}:{_number(high)}"]
    if "images" in options:
        found += ["--images", options["images"]]
    if "max_seconds" in options:
        found += ["--max-seconds", _number(options["max_seconds"])]
    return found


def _number(value: float) -> str:
    """A number in as few digits as give it again."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def plan_commands(stated: Mapping[str, str], shapes: Mapping[str, Sequence[int]]) -> tuple[str, str]:
    """The options of `plan` that give the bits of a file again, and those of `quantize` that make it by this plan, as a
    shell takes them. Arguments are those of `options_again`."""
    options = options_again(stated, shapes, RECORDED)
    if not stated.get("preprocess_choice", "").startswith("given:"):
        options.pop("preprocess", None)  # it is found out again
    reduced = ["--reduce-range"] if stated.get("reduce_range") == "yes" else []
    making = [*as_arguments(options), *reduced]
    options.pop("fp16", None)  # no bits depend on it
    layers = [part for override in recorded_layers(stated) for part in ("--layer", override)]
    planning = ["--recipe", stated.get("recipe", "mixed"), *as_arguments(options), *reduced, *layers]
    return shlex.join(planning), shlex.join(making)


def recorded_layers(stated: Mapping[str, str]) -> list[str]:
    """The overrides that a file says it was made with; none where what it says is not to be understood."""
    try:
        return list(_parsed(msgspec.json.decode(stated.get("layers", "[]"), type=list[str])))
    except (msgspec.DecodeError, OptionError):
        return []


def _parsed(overrides: Sequence[str]) -> Iterator[str]:
    return (str(LayerOverride.parse(text)) for text in overrides)


def recorded_ranges(stated: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    """The ranges of inputs that a file says it was made with; none where what it says is not to be understood."""
    try:
        return msgspec.json.decode(stated.get("input_ranges", "{}"), type=dict[str, tuple[float, float]])
    except msgspec.DecodeError:
        return {}


def recorded_seconds(stated: Mapping[str, str]) -> float | None:
    """The limit on the time that a file says it was cut short by; None where it says none that can be given."""
    try:
        return Deadline(float(stated["max_seconds"])).seconds
    except (KeyError, ValueError, OptionError):
        return None


def recorded_shapes(stated: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """Likewise the shapes of inputs, of all of them."""
    try:
        return msgspec.json.decode(stated.get("input_shapes", "{}"), type=dict[str, tuple[int, ...]])
    except msgspec.DecodeError:
        return {}
