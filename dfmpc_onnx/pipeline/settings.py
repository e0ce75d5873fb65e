"""What the user asked for, parsed once: weights, activations, overrides, preprocess, seed."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.pipeline.measured_noise import NOT_MEASURED, MeasuredNoise
from dfmpc_onnx.pipeline.target_rules import Activations, Target, with_few_bits
from dfmpc_onnx.pipeline.targets import CPU_TARGET

TERNARY: Literal["ternary"] = "ternary"
FLOAT: Literal["float"] = "float"
ASKED = "as asked with --layer"  # why a layer has a width that the user gave it
BitWidth = float | Literal["ternary"]  # 2 to 8, and what blocks of 5 and of 3 codes to a byte take
WEIGHT_WIDTHS = ("1.6", "2", "2.67", "3", "4", "5", "6", "7", "8")  # as a user writes them
ACTIVATION_WIDTHS: tuple[Activations, ...] = get_args(Activations)  # as a user writes them
NUMBER = "|".join(re.escape(width) for width in sorted(WEIGHT_WIDTHS, reverse=True))
LARGEST_BOUND = 1e8  # of an input: statistics measure nothing larger
OPSET_OF_8_BITS, OPSET_OF_OTHERS = 13, 21  # whose Q/DQ take an axis; whose codes may have 4 or 16 bits
WIDE_ACTIVATION_BITS = 16
FEW_ACTIVATION_BITS = 4  # of activations where 8 bits may be too many
REDUCED_BITS = 7  # 2 * 255 * 64 fits into 16 bits, 2 * 255 * 128 does not


def bit_number(text: str) -> float:
    """One of `WEIGHT_WIDTHS` as a number, whole ones as integers."""
    return float(text) if "." in text else int(text)


@dataclasses.dataclass(frozen=True)
class WeightBits:
    """``LOW/HIGH``, ``ternary/HIGH`` or ``BITS``: the widths of low and of all other layers.

    A number is how many bits a weight may take in the file, in whichever form loses least; ternary is -1, 0 and 1.
    auto: each layer gets the fewest bits that keep its error under a threshold; low and high are then the most.
    """

    low: BitWidth
    high: float
    auto: bool = False

    @classmethod
    def parse(cls, text: str) -> WeightBits:
        word = text.strip().lower()
        if word == "auto":
            return cls(8, 8, auto=True)
        match = re.fullmatch(rf"(?:(ternary|{NUMBER})/)?({NUMBER})", word)
        if not match:
            raise OptionError(
                f"weights '{text}': not understood; give LOW/HIGH such as 2/6, BITS such as 8, or ternary/HIGH, "
                "with 2 to 8 bits, 1.6 or 2.67, or auto"
            )
        high = bit_number(match[2])
        low = match[1] or match[2]
        if low != TERNARY and bit_number(low) > high:
            raise OptionError(f"weights '{text}': LOW is more than HIGH; give {high}/{low}, or {low} for all")
        return cls(TERNARY if low == TERNARY else bit_number(low), high)

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
    """``GLOB=BITS``, ``GLOB=ternary`` or ``GLOB=float``: the width of the layers whose name matches.

    ``GLOB=BITS/ACTIVATIONS`` states the bits of what they read as well: those of the other layers, such as 4, or 8.
    """

    pattern: str
    bits: BitWidth | Literal["float"]
    reads: int | None = None

    @classmethod
    def parse(cls, text: str) -> LayerOverride:
        pattern, sign, bits = text.rpartition("=")
        match = re.fullmatch(rf"(float)|(ternary|{NUMBER})(?:/([2-8]))?", bits.lower())
        if not sign or not pattern or match is None:
            raise OptionError(
                f"layer '{text}': not understood; give GLOB=BITS (1.6, 2, 2.67, 3 to 8), GLOB=ternary or GLOB=float, "
                "and for what it reads GLOB=BITS/4 or GLOB=BITS/8"
            )
        reads = int(match[3]) if match[3] else None
        if match[1]:
            return cls(pattern, FLOAT)
        return cls(pattern, TERNARY if match[2] == TERNARY else bit_number(match[2]), reads)

    def matches(self, name: str) -> bool:
        return fnmatch.fnmatchcase(name, self.pattern)

    def __str__(self) -> str:
        return f"{self.pattern}={self.bits}" + (f"/{self.reads}" if self.reads else "")


@dataclasses.dataclass(frozen=True)
class WeightBudget:
    """What the user asks of all weights together; the recipe's own budget holds where nothing is stated.

    size: bytes of the file, at most. share: the same as a share of the float file, 0 to 1, until that is known.
    mean_bits: of all weights, at most. min_sqnr: in dB, predicted. most_float: how many weights may stay in float.
    other_bytes: what a file that was built before takes beside the weights whose width is free. noise: what it showed.
    stated_size: the size as the user wrote it. float_bytes: of the float file; 0 until that is known.
    """

    size: int | None = None
    share: float | None = None
    mean_bits: float | None = None
    min_sqnr: float | None = None
    most_float: int = 0
    other_bytes: int | None = None
    noise: MeasuredNoise = NOT_MEASURED
    stated_size: str = ""
    float_bytes: int = 0

    @classmethod
    def parse(
        cls,
        max_size: str | int | None = None,
        mean_bits: float | None = None,
        min_sqnr: float | None = None,
        max_float_layers: int = 0,
    ) -> WeightBudget:
        """From options of the user; raises OptionError."""
        if max_size is not None and mean_bits is not None:
            raise OptionError("max-size and mean-bits: both limit the size; give one of them")
        if mean_bits is not None and not 0 < mean_bits <= 32:
            raise OptionError(f"mean-bits {mean_bits:g}: give a number above 0 and up to 32")
        if min_sqnr is not None and not 0 < min_sqnr < 200:
            raise OptionError(f"min-sqnr {min_sqnr:g}: give decibels between 0 and 200")
        if max_float_layers < 0:
            raise OptionError(f"max-float-layers {max_float_layers}: give 0 or more")
        if isinstance(max_size, int) and abs(max_size) > MOST_SIZE:  # of more digits than Python may write
            raise OptionError("max-size: no file takes so many bytes; give bytes such as 2MB, or 25%")
        size, share = (None, None) if max_size is None else _size(str(max_size))
        stated = "" if max_size is None else str(max_size).strip()
        return cls(size, share, mean_bits, min_sqnr, max_float_layers, stated_size=stated)

    @property
    def asked(self) -> bool:
        """Whether anything but the recipe's own budget counts."""
        return dataclasses.replace(self, other_bytes=None, noise=NOT_MEASURED, float_bytes=0) != WeightBudget()

    @property
    def only_sqnr(self) -> bool:
        """Whether a least SQNR is all that was asked for."""
        return self.min_sqnr is not None and not dataclasses.replace(self, min_sqnr=None).asked

    def of_file(self, float_bytes: int) -> WeightBudget:
        """With the share in bytes. float_bytes: of the float file."""
        size = self.size if self.share is None else int(self.share * float_bytes)
        return dataclasses.replace(self, size=size, share=None, float_bytes=float_bytes)

    def __str__(self) -> str:
        return self._said(str(self.size))

    @property
    def as_stated(self) -> str:
        """The same with the size as the user wrote it."""
        return self._said(self.stated_size or str(self.size))

    def _said(self, size: str) -> str:
        parts = [
            f"max-size {size}" if self.size is not None else "",
            f"max-size {100 * self.share:g}%" if self.share is not None else "",
            f"mean-bits {self.mean_bits:g}" if self.mean_bits is not None else "",
            f"min-sqnr {self.min_sqnr:g}" if self.min_sqnr is not None else "",
            f"max-float-layers {self.most_float}" if self.most_float else "",
        ]
        return ", ".join(filter(None, parts))


NO_BUDGET = WeightBudget()
SIZE_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
LEAST_SIZE = 1000  # bytes: what is less lacks its unit, or its %
MOST_SIZE = 10**15  # bytes of a file, or percent


def _size(text: str) -> tuple[int | None, float | None]:
    """``2MB``, ``512KiB`` or ``1500000`` as bytes, ``25%`` as a share."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*(%|[kKmMgG]?[iI]?[bB]?)\s*", text)
    unit = match[2].upper() if match else None
    if match is None or (unit != "%" and unit not in SIZE_UNITS) or float(match[1]) <= 0:
        raise OptionError(f"max-size '{shown(text)}': not understood; give bytes such as 2MB or 512KiB, or 25%")
    amount = float(match[1]) * SIZE_UNITS.get(str(unit), 1)
    if unit == "%" and 100 < amount <= MOST_SIZE:
        raise OptionError(f"max-size '{shown(text)}': that is more than the float file; give at most 100%")
    if amount > MOST_SIZE:
        raise OptionError(f"max-size '{shown(text)}': more than any file takes; give bytes such as 2MB, or 25%")
    if unit == "%":
        return None, amount / 100
    if amount < LEAST_SIZE:
        raise OptionError(
            f"max-size {shown(text)}: that is {amount:g} bytes, less than any network takes; give a share such as 25% "
            "or bytes such as 25KB"
        )
    return int(amount), None


def parse_activations(text: str | int) -> Activations:
    """Bits of the activations, 2 to 8, 16, "auto" or "none"; raises OptionError for anything else."""
    word = str(text).lower()
    for known in ACTIVATION_WIDTHS:
        if word == known:
            return known
    raise OptionError(
        f"activations '{shown(str(text))}': not understood; give 4, 8, 16, auto or none, or for qonnx 2 to 8"
    )


def parse_input_shapes(items: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """``NAME:1x3x224x224`` items as a mapping, one without a name under ""; raises OptionError."""
    shapes = {}
    for item in items:
        name, sign, dims = item.rpartition(":")
        if bool(sign) != bool(name) or not re.fullmatch(r"[1-9][0-9]{0,17}(x[1-9][0-9]{0,17})*", dims):
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
    activations, whose products processors without VNNI add up in 16 bits, two by two. float16: whether what is not
    quantized is written in float16, where it fits. target: its rules, those `with_few_bits` where that is so.
    budget: what all weights together may take or cost.
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
    float16: bool = False
    target: Target = CPU_TARGET
    budget: WeightBudget = NO_BUDGET

    def __post_init__(self) -> None:
        if self.few_bits is not None:
            object.__setattr__(self, "target", with_few_bits(self.target))

    @property
    def activation_bits(self) -> Literal[8, 16]:
        """The bits of activations where they are quantized, but for those that have other bits by what they cost."""
        return 16 if self.activations == "16" else 8

    @property
    def mixes_widths(self) -> bool:
        """Whether activations have 8 bits, or 16 where 8 would cost too much."""
        return self.activations == "auto" and WIDE_ACTIVATION_BITS in self.target.activation_bits

    @property
    def float_rules(self) -> Target:
        """The target whose rules say which activations are to stay in float; where widths are mixed, those have 16 bits
        in the file, and the rules are those of `cpu`."""
        return CPU_TARGET if self.mixes_widths else self.target

    @property
    def few_bits(self) -> int | None:
        """The bits, below 8, of what layers may read; None where none have fewer."""
        if self.activations == "auto":
            return None if self.mixes_widths else FEW_ACTIVATION_BITS
        return int(self.activations) if self.activations not in ("8", "16", "none") else None

    @property
    def lowest_opset(self) -> int:
        """The first opset whose QuantizeLinear gives such codes."""
        return OPSET_OF_8_BITS if self.activations in ("5", "6", "7", "8", "none") else OPSET_OF_OTHERS

    @property
    def limits_pairs(self) -> bool:
        """Whether two neighbouring 8-bit codes must not reach so far that kernels cut the sum of their products."""
        concerned = self.target.pairs_in_16_bits and self.target.scales == "free"
        return concerned and self.activations == "8" and not self.reduce_range

    def rounded_at(self, bits: BitWidth) -> BitWidth:
        """The width that a weight planned at `bits` is rounded to."""
        reads_8_bits = self.activations == "8" or self.mixes_widths
        return REDUCED_BITS if bits == 8 and self.reduce_range and reads_8_bits else bits
