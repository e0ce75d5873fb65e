"""Generated inputs of a given shape: procedural pictures, 1/f fields, Gaussian vectors."""

from __future__ import annotations

import math

import numpy as np

from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.inputs.feeds import in_range
from dfmpc_onnx.inputs.files import Images
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.inputs.procedural import noise_fields, pictures
from dfmpc_onnx.inputs.spec import InputSpec, channels_last, is_picture
from dfmpc_onnx.memory import machine_memory

BYTES_TO_MAKE = 24  # for each value of an input: a spectrum and the field, in double precision


def generate(spec: InputSpec, shape: tuple[int, ...], seed: int) -> Images:
    """Seeded inputs for an input of floats, or of bytes that are a picture, batch first.

    Of the moments that were found out, or in the range that the user gave; else as `procedural_images`.
    """
    if spec.moments is not None:
        _check_room(shape)
        x = spec.moments.make(shape, seed)
        return Images(x.astype(np.float32), None, f"{shape[0]} inputs of the moments that normalizations hold")
    if spec.range is not None and not spec.is_picture:
        _check_room(shape)
        low, high = spec.range
        x = in_range(shape, spec.range, seed)
        return Images(x.astype(np.float32), None, f"{shape[0] if shape else 1} inputs from {low:g} to {high:g}")
    return procedural_images(shape, spec.preprocess, seed)


def procedural_images(shape: tuple[int, ...], preprocess: Preprocess, seed: int) -> Images:
    """Seeded inputs of a given shape, batch first; pictures, 1/f fields from rank 3 on, Gaussian vectors below."""
    _check_room(shape)
    if is_picture(shape):
        last = channels_last(shape)
        height, width = (shape[1], shape[2]) if last else (shape[2], shape[3])
        pixels = pictures(shape[0], height, width, seed)
        if shape[3 if last else 1] == 1:
            pixels = np.rint(pixels.mean(axis=3, keepdims=True)).astype(np.uint8)
        x = preprocess(pixels)
        x = x if last else np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        return Images(x, None, f"{shape[0]} generated image{'' if shape[0] == 1 else 's'} of {height}x{width}")
    if len(shape) >= 3:
        fields = noise_fields(shape[0], shape[1], shape[2:], seed)
        return Images(fields.astype(np.float32), None, f"{shape[0]} generated 1/f fields")
    generator = np.random.default_rng(seed)
    x = np.asarray(generator.standard_normal(shape), np.float32)
    return Images(x, None, f"{shape[0]} Gaussian vectors" if shape else "a Gaussian number")


def _check_room(shape: tuple[int, ...]) -> None:
    """Raise ModelError where inputs of a shape cannot be made in this machine's memory."""
    needed, room = BYTES_TO_MAKE * math.prod(shape), machine_memory()
    if needed > room:
        raise ModelError(
            f"inputs of shape {list(shape)} take some {needed / 1e9:.3g} GB to make, and this machine has "
            f"{room / 1e9:.3g}: give a smaller --input-shape"
        )
