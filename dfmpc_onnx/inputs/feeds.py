"""What an input is made of where it is no picture under a normalization: moments that were found out, or a range."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.inputs.procedural import noise_fields
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.ranges import Range

HALF_RANGE = 3.0  # from the middle of a range to its ends
SHORTEST_SERIES = 64  # values of a vector, from which on it may be a signal over time
ROUGHNESS = (1.0, 0.5, 1.5)  # exponents of the spectra of inputs that fill a range
USUAL_PART, LEAST_PART = 1 / 8, 1 / 32  # of the contrast that a stated range allows, and a scene has
FEWEST_TO_MATCH = 1024  # of a channel, from which on it gets exactly the moments that it is to have


@dataclasses.dataclass(frozen=True)
class InputMoments:
    """Moments of an input's channels, which stand in dimension `axis`; None where all of it is one channel.

    mean, deviation: one a channel. exponent: a of the spectrum's amplitude 1/f^a. correlation: between channels.
    """

    axis: int | None
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    exponent: float = 1.0
    correlation: float = 0.8

    def make(self, shape: tuple[int, ...], seed: int) -> Float:
        """Seeded inputs of a shape, batch first."""
        others = [n for i, n in enumerate(shape) if i not in (0, self.axis)]
        channels = 1 if self.axis is None else shape[self.axis]
        fields = noise_fields(
            shape[0], channels, tuple(others) or (1,), seed, exponent=self.exponent, correlation=self.correlation
        )
        axes = tuple(i for i in range(fields.ndim) if i != 1)
        if math.prod(shape) // max(channels, 1) >= FEWEST_TO_MATCH:
            fields -= fields.mean(axis=axes, keepdims=True)
            fields /= np.maximum(fields.std(axis=axes, keepdims=True), 1e-12)
        fields = fields.reshape(shape[0], channels, *others)
        per_channel = (1, channels, *(1,) * len(others))
        mean, deviation = (np.resize(v, channels).reshape(per_channel) for v in (self.mean, self.deviation))
        x: Float = fields * deviation + mean
        return x[:, 0] if self.axis is None else np.moveaxis(x, 1, self.axis)


def in_range(shape: tuple[int, ...], bounds: Range, seed: int) -> Float:
    """Seeded inputs of a shape between bounds: fields from rank 3 on, independent values below."""
    low, high = bounds
    if len(shape) >= 3:
        x = noise_fields(shape[0], shape[1], shape[2:], seed)
    else:
        generator = np.random.default_rng(seed)
        x = np.asarray(generator.standard_normal(shape))
    result: Float = np.asarray(np.clip((low + high) / 2 + x * ((high - low) / 2 / HALF_RANGE), low, high))
    return result


def filling(shape: tuple[int, ...], bounds: Range, seed: int) -> Float:
    """Seeded inputs that fill a range: half of its width for two deviations, one after the other rough and smooth."""
    low, high = bounds
    if len(shape) < 2 or math.prod(shape[1:]) < SHORTEST_SERIES:
        generator = np.random.default_rng(seed)
        x = np.asarray(generator.standard_normal(shape))
    else:
        channels, size = (shape[1], shape[2:]) if len(shape) > 2 else (1, shape[1:])
        each = [
            noise_fields(1, channels, size, seed + run, exponent=ROUGHNESS[run % len(ROUGHNESS)])
            for run in range(shape[0])
        ]
        x = np.concatenate(each).reshape(shape)
    result: Float = np.asarray(np.clip((low + high) / 2 + x * (high - low) / 4, low, high))
    return result


def filled_in_part(x: Float, part: float) -> Float:
    """Inputs ``[n, ...]``, each shrunk around its own mean to a part of its contrast; short vectors as they are.

    A range says how far an input reaches, not how much of it a scene fills: of 16-bit pixels that may be a hundredth.
    """
    if math.prod(x.shape[1:]) < SHORTEST_SERIES:
        return x
    mean = x.mean(axis=tuple(range(1, x.ndim)), keepdims=True)
    result: Float = mean + part * (x - mean)
    return result


def whole_in_range(shape: tuple[int, ...], bounds: Range, generator: np.random.Generator) -> np.ndarray:
    """Whole numbers from LOW to HIGH, both included."""
    return np.asarray(generator.integers(math.ceil(bounds[0]), math.floor(bounds[1]), shape, endpoint=True))


def preprocess_of(bounds: Range) -> Preprocess:
    """What makes LOW to HIGH of the bytes 0 to 255."""
    low, high = bounds
    scale = 255.0 / (high - low)
    return Preprocess(f"{low:g}..{high:g}", 1.0, (-low * scale,), (scale,))


def check_names(ranges: Mapping[str, Range], kinds: Mapping[str, str]) -> None:
    """Raise OptionError where a range names no input, or one that holds no numbers. kinds: as numpy names them."""
    for name, bounds in ranges.items():
        if name not in kinds:
            listed = ", ".join(map(shown, kinds))
            raise OptionError(f"input range for '{shown(name)}': no such input; the model has {listed}")
        if kinds[name] not in "fiu":
            raise OptionError(f"input range for '{shown(name)}': that input holds no numbers with a range")
        if kinds[name] in "iu" and math.ceil(bounds[0]) > math.floor(bounds[1]):
            raise OptionError(f"input range for '{shown(name)}': no whole number lies between, and it holds such")
