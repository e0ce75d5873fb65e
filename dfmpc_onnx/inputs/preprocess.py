"""From images as bytes to what a network takes: the usual input normalizations."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.errors import OptionError, did_you_mean
from dfmpc_onnx.numerics.arrays import Float, Float32

# The mean and deviation of a pixel of natural photographs on the 0..255 scale, from the normalization that
# ImageNet classifiers are trained with.
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
PIXEL_MEAN = tuple(255 * m for m in _IMAGENET_MEAN)
PIXEL_STD = tuple(255 * s for s in _IMAGENET_STD)
NAMES = ("imagenet", "lite", "keras", "unit", "raw", "caffe", "half")
AUTO = "auto"  # chosen by what a network's first BatchNormalizations measured: `inputs.normalization`
ORDERS = ("rgb", "bgr")


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """``(x / divisor - mean) / std`` for x uint8 RGB, with mean and std on the divided scale: one, or one a channel.

    reverse: whether the channels are then put into the opposite order, RGB to BGR, each with its own normalization.
    The names know colours, and give an image of one channel their average. Lists of the user's own must fit.
    """

    name: str
    divisor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    reverse: bool = False

    @classmethod
    def parse(cls, text: str) -> Preprocess:
        """imagenet, lite, keras, unit, raw, caffe, half, or ``MEAN/STD`` as comma lists on the 0..255 scale.

        ``:rgb`` or ``:bgr`` behind it gives the order of the channels; without it, BGR for caffe and RGB for others.
        """
        text = text.strip().lower()
        body, sign, order = text.rpartition(":")
        if sign and order in ORDERS:
            plain = cls.parse(body)
            usual = "bgr" if plain.reverse else "rgb"
            name = plain.name if order == usual else f"{plain.name.partition(':')[0]}:{order}"
            return dataclasses.replace(plain, name=name, reverse=order == "bgr")
        match text:
            case "imagenet":
                return cls("imagenet", 255.0, _IMAGENET_MEAN, _IMAGENET_STD)
            case "lite":
                return cls("lite", 1.0, (127.0,), (128.0,))
            case "keras":
                return cls("keras", 127.5, (1.0,), (1.0,))
            case "unit":
                return cls("unit", 255.0, (0.0,), (1.0,))
            case "raw":
                return cls("raw", 1.0, (0.0,), (1.0,))
            case "caffe":
                return cls("caffe", 1.0, PIXEL_MEAN, (1.0,), reverse=True)
            case "half":
                return cls("half", 255.0, (0.5,), (1.0,))
        head, sign, tail = text.partition("/")
        try:
            mean = tuple(float(v) for v in head.split(","))
            std = tuple(float(v) for v in tail.split(","))
        except ValueError:
            mean = std = ()
        sizes = {len(mean), len(std)}
        if (
            not (sign and mean)
            or len(sizes - {1}) > 1
            or not all(np.isfinite((*mean, *std)))
            or not all(s > 0 for s in std)
        ):
            near = did_you_mean(body or text, (AUTO, *NAMES))
            raise OptionError(
                f"preprocess '{text}': not understood{near}; give {AUTO}, one of {', '.join(NAMES)}, or MEAN/STD on "
                "the 0..255 scale such as 123.7,116.3,103.5/58.4,57.1,57.4; :rgb or :bgr behind it is the channel order"
            )
        return cls(text, 1.0, mean, std)

    @property
    def own_channels(self) -> int | None:
        """How many channels lists of the user's own are made for; None for a name and for single numbers."""
        size = max(len(self.mean), len(self.std))
        return None if self.name.partition(":")[0] in NAMES or size == 1 else size

    def __call__(self, pixels: npt.NDArray[np.generic]) -> Float32:
        """``[..., channels]`` uint8 or float on the 0..255 scale to float32 of the same shape."""
        x: Float32 = pixels.astype(np.float32)
        if self.divisor != 1.0:
            x = x / np.float32(self.divisor)
        mean, std = self._channels(x.shape[-1])
        if np.any(mean):
            x = x - mean
        if np.any(std != 1):
            x = x / std
        return np.ascontiguousarray(x[..., ::-1]) if self.reverse else x

    def moments(self, channels: int) -> tuple[Float, Float]:
        """Mean and variance of photographs after this normalization: two ``[channels]``."""
        pixel_mean = _spread(PIXEL_MEAN, channels)
        pixel_std = _spread(PIXEL_STD, channels)
        mean, std = (v.astype(np.float64) for v in self._channels(channels))
        return self._in_channel_order(
            (pixel_mean / self.divisor - mean) / std, np.square(pixel_std / self.divisor / std)
        )

    def bounds(self, channels: int) -> tuple[Float, Float]:
        """What the byte values 0 and 255 become: two ``[channels]``."""
        mean, std = (v.astype(np.float64) for v in self._channels(channels))
        return self._in_channel_order((0.0 - mean) / std, (255.0 / self.divisor - mean) / std)

    def _in_channel_order(self, a: Float, b: Float) -> tuple[Float, Float]:
        return (a[::-1], b[::-1]) if self.reverse else (a, b)

    def _channels(self, channels: int) -> tuple[Float32, Float32]:
        return _spread(self.mean, channels).astype(np.float32), _spread(self.std, channels).astype(np.float32)


def _spread(values: tuple[float, ...], channels: int) -> Float:
    """One value a channel; the mean of a list of another length, which are a name's colours where there are none."""
    if len(values) == channels:
        return np.array(values)
    return np.full(channels, np.mean(values))
