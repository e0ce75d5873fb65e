"""What the user asked for, parsed once: weights, activations, overrides, preprocess, seed."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.pipeline.targets import CPU_TARGET, Activations, Target

TERNARY: Literal["ternary"] = "ternary"
FLOAT: Literal["float"] = "float"
BitWidth = int | Literal["ternary"]
LARGEST_BOUND = 1e8  # of an input: statistics measure nothing larger
REDUCED_BITS = 7  # 2 * 255 * 64 fits into 16 bits, 2 * 255 * 128 does not


@dataclasses.dataclass(frozen=True)
class WeightBits:
    """``LOW/HIGH``, ``ternary/HIGH`` or ``BITS``: the widths of low and of all other layers.

    auto: each layer gets the fewest bits that keep its error under a threshold; low and high are then the most.
    """

    low: BitWidth
    high: int
    auto: bool = False

    @classmethod
    def parse(cls, text: str) -> WeightBits:
        if text.strip() == "auto":
            return cls(8, 8, auto=True)
        match = re.fullmatch(r"(?:(ternary|[2-8])/)?([2-8])", text.strip())
        if not match:
            raise OptionError(
                f"weights '{text}': not understood; give LOW/HIGH such as 2/6, BITS such as 8, or ternary/HIGH, "
                "with 2 to 8 bits, or auto"
            )
        high = int(match[2])
        low = match[1] or match[2]
        return cls(TERNARY if low == TERNARY else int(low), high)

    @property
    def paired(self) -> bool:
        """Whether low layers differ from the others."""
        return self.low != self.high

    def __str__(self) -> str:
        if self.auto:
            return "auto"
        return f"{self.low}/{self.high}" if self.paired else str(self.high)


@dataclasses.dataclass(frozen=True)
class LayerOverride:
    """``GLOB=BITS``, ``GLOB=ternary`` or ``GLOB=float``: the width of the layers whose name matches."""

    pattern: str
    bits: BitWidth | Literal["float"]

    @classmethod
    def parse(cls, text: str) -> LayerOverride:
        pattern, sign, bits = text.rpartition("=")
        if not sign or not pattern or not re.fullmatch(r"ternary|float|[2-8]", bits):
            raise OptionError(f"layer '{text}': not understood; give GLOB=BITS (2 to 8), GLOB=ternary or GLOB=float")
        if bits == "ternary":
            return cls(pattern, TERNARY)
        return cls(pattern, FLOAT) if bits == "float" else cls(pattern, int(bits))

    def matches(self, name: str) -> bool:
        return fnmatch.fnmatchcase(name, self.pattern)

    def __str__(self) -> str:
        return f"{self.pattern}={self.bits}"


def parse_activations(text: str | int) -> Activations:
    """Bits of the activations, 8 or "none"; raises OptionError for anything else."""
    if str(text) == "8":
        return "8"
    if str(text) == "none":
        return "none"
    raise OptionError(f"activations '{text}': not understood; give 8 or none")


def parse_input_shapes(items: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """``NAME:1x3x224x224`` items as a mapping; raises OptionError."""
    shapes = {}
    for item in items:
        name, sign, dims = item.rpartition(":")
        if not sign or not name or not re.fullmatch(r"[1-9][0-9]{0,17}(x[1-9][0-9]{0,17})*", dims):
            raise OptionError(f"input shape '{item}': not understood; give NAME:1x3x224x224")
        shapes[name] = tuple(int(d) for d in dims.split("x"))
    return shapes


def parse_input_ranges(items: Sequence[str]) -> dict[str, tuple[float, float]]:
    """``NAME=LOW:HIGH`` items as a mapping; raises OptionError."""
    ranges = {}
    for item in items:
        name, sign, bounds = item.rpartition("=")
        try:
            low, high = map(float, bounds.split(":"))
        except ValueError:
            name = ""
        if not sign or not name:
            raise OptionError(f"input range '{item}': not understood; give NAME=LOW:HIGH such as x=0:255")
        if not (low < high and abs(low) <= LARGEST_BOUND and abs(high) <= LARGEST_BOUND):
            raise OptionError(
                f"input range '{item}': LOW must be below HIGH, and both at most {LARGEST_BOUND:g} away from 0"
            )
        if name in ranges:
            raise OptionError(f"input range '{item}': a second one for that input")
        ranges[name] = low, high
    return ranges


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options of one run that passes read.

    preprocess, input_shapes, input_ranges and images are what was asked for; what came of them is in
    `Workspace.inputs`. by_hand: whether the user, and not the recipe, chose the weights or a layer's;
    activations_given: the same of the activations. reduce_range: whether 8-bit weights take 7 bits between quantized
    activations, whose products processors without VNNI add up in 16 bits, two by two.
    """

    weights: WeightBits
    activations: Activations
    layers: tuple[LayerOverride, ...] = ()
    preprocess: Preprocess = dataclasses.field(default_factory=lambda: Preprocess.parse("imagenet"))
    input_shapes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    input_ranges: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    seed: int = 0
    images: str | None = None
    by_hand: bool = False
    activations_given: bool = False
    reduce_range: bool = False
    target: Target = CPU_TARGET

    def rounded_at(self, bits: BitWidth) -> BitWidth:
        """The width that a weight planned at `bits` is rounded to."""
        return REDUCED_BITS if bits == 8 and self.reduce_range and self.activations == "8" else bits
