"""Procedural images as small pictures within a page."""

from __future__ import annotations

import base64
import io

import numpy as np

from dfmpc_onnx.extras import install_command
from dfmpc_onnx.inputs.procedural import pictures
from dfmpc_onnx.inputs.spec import InputSpec
from dfmpc_onnx.report.html.schema import ShownImages

SHOWN = 8  # pictures
THUMBNAIL_SIDE = 96  # pixels at most


def shown_images(spec: InputSpec | None, origin: str, seed: int | None) -> ShownImages:
    """The first procedural images of a seed as this input gets them.

    spec: the one input of a network, None where it has several. seed: None where others were used.
    """
    if seed is None:
        return ShownImages(origin, note="Images of yours are not put into the report.")
    if spec is None or not spec.is_picture or spec.moments is not None:
        return ShownImages(origin, note="They are numbers and no pictures.")
    try:
        from PIL import Image
    except ImportError:
        return ShownImages(origin, note=f"To see them here, {install_command('images')}.")
    addresses = []
    for pixels in pictures(SHOWN, *spec.side, seed):
        if spec.channels == 1:
            pixels = np.rint(pixels.mean(axis=2)).astype(np.uint8)
        image = Image.fromarray(pixels)
        image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        addresses.append(f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}")
    return ShownImages(origin, tuple(addresses), f"The first {len(addresses)} of them, before the preprocess.")
