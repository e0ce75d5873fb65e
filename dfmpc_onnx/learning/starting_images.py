"""What learning begins with: procedural images or noise, noise to measure slack on, and how far a value may go.

No PyTorch here.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dfmpc_onnx.errors import OptionError, did_you_mean
from dfmpc_onnx.inputs.generated import generate
from dfmpc_onnx.inputs.spec import InputSpec
from dfmpc_onnx.numerics.arrays import Float, Float32

PROCEDURAL_START, NOISE_START = "procedural", "noise"
STARTS = (PROCEDURAL_START, NOISE_START)


@dataclasses.dataclass(frozen=True)
class Starting:
    """Images as the network takes them, ``[n, ...]``, and what goes with them.

    x: what is moved. gaussian: one batch of independent Gaussian pixels, of the mean and deviation that the images
    have. low, high: what a value may be, to broadcast over ``x``; None where nothing bounds it.
    """

    x: Float32
    gaussian: Float32
    low: Float32 | None
    high: Float32 | None

    @property
    def deviation(self) -> float:
        """What the values of the images vary by: the unit of a learning rate."""
        return float(np.std(self.x))


def find_start(name: str) -> str:
    """The name of what learning begins with, in any case; raises OptionError."""
    found = name.strip().lower()
    if found not in STARTS:
        raise OptionError(f"start '{name}': no such start{did_you_mean(name, STARTS)}; give {' or '.join(STARTS)}")
    return found


def starting_images(spec: InputSpec, count: int, at_once: int, seed: int, start: str = PROCEDURAL_START) -> Starting:
    """Images of an input of floats. at_once: how many Gaussian ones to measure slack on. start: one of STARTS.

    Noise is of independent Gaussian pixels with the mean and deviation of photographs, within what bytes become.
    Cai et al. 2020 (ZeroQ) and Zhang et al. 2021 (DSG) begin with it.
    """
    shape = spec.shape
    x = generate(spec, (count, *shape[1:]), seed).x
    generator = np.random.default_rng(seed)
    mean, deviation = _channel_moments(spec, x)

    def noise(images: int) -> Float32:
        return (mean + deviation * generator.standard_normal((images, *shape[1:]))).astype(np.float32)

    gaussian = noise(at_once)
    low, high = _bounds(spec)
    if start == NOISE_START:
        x = noise(count) if low is None or high is None else np.clip(noise(count), low, high)
    return Starting(x, gaussian, low, high)


def _channel_moments(spec: InputSpec, x: Float32) -> tuple[Float, Float]:
    """Of photographs where the input takes pictures, else of the images that were made."""
    if spec.is_normalized:
        mean, variance = spec.preprocess.moments(spec.channels)
        return _along_channels(spec, mean), _along_channels(spec, np.sqrt(variance))
    axes = tuple(axis for axis in range(x.ndim) if axis != (spec.channel_axis if x.ndim > 1 else 0))
    return x.mean(axis=axes, keepdims=True, dtype=np.float64), x.std(axis=axes, keepdims=True, dtype=np.float64)


def _bounds(spec: InputSpec) -> tuple[Float32 | None, Float32 | None]:
    """What bytes become, or what the user says."""
    if spec.is_picture:
        low, high = spec.preprocess.bounds(spec.channels)
        return _along_channels(spec, low).astype(np.float32), _along_channels(spec, high).astype(np.float32)
    if spec.range is not None:
        return np.float32(spec.range[0]).reshape(1), np.float32(spec.range[1]).reshape(1)
    return None, None


def _along_channels(spec: InputSpec, values: Float) -> Float:
    shape = [1] * len(spec.shape)
    shape[spec.channel_axis] = -1
    return values.reshape(shape)
