"""What learning begins with: procedural images, Gaussian ones to measure slack on, and how far a value may go.

No PyTorch here.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dfmpc_onnx.inputs.generated import generate
from dfmpc_onnx.inputs.spec import InputSpec
from dfmpc_onnx.numerics.arrays import Float, Float32


@dataclasses.dataclass(frozen=True)
class Starting:
    """Images as the network takes them, ``[n, ...]``, and what goes with them.

    gaussian: one batch of independent Gaussian pixels, of the mean and deviation that the images have. low, high: what
    a value may be, to broadcast over ``x``; None where nothing bounds it.
    """

    x: Float32
    gaussian: Float32
    low: Float32 | None
    high: Float32 | None

    @property
    def deviation(self) -> float:
        """What the values of the images vary by: the unit of a learning rate."""
        return float(np.std(self.x))


def starting_images(spec: InputSpec, count: int, at_once: int, seed: int) -> Starting:
    """Procedural images of an input of floats. at_once: how many Gaussian ones to make."""
    shape = spec.shape
    x = generate(spec, (count, *shape[1:]), seed).x
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((at_once, *shape[1:]))
    mean, deviation = _channel_moments(spec, x)
    low, high = _bounds(spec)
    return Starting(x, (mean + deviation * noise).astype(np.float32), low, high)


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
