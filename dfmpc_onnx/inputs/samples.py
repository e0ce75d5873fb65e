"""What two networks are compared on: procedural pictures, or generated runs where one takes more than pictures."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.errors import ModelError, shown
from dfmpc_onnx.inputs.batches import fixed_batch, unseen_by_statistics
from dfmpc_onnx.inputs.feeds import USUAL_PART, filled_in_part, whole_in_range
from dfmpc_onnx.inputs.files import FEWEST_TO_HOLD_BACK, Images
from dfmpc_onnx.inputs.generated import generate
from dfmpc_onnx.inputs.image_stream import ImageStream, stream_images
from dfmpc_onnx.inputs.spec import PICTURE_TYPES, InputSpec, InputSpecs, channels_last

PICTURES_MADE = 16
FORMS = 4  # of each: as it is, mirrored both ways, and both at once


@dataclasses.dataclass(frozen=True)
class Samples:
    """Inputs for networks that take more than pictures.

    feeds: by input name, ``[runs, *shape]``, one run after another. origin: what they are, to print.
    """

    feeds: Mapping[str, npt.NDArray[np.generic]]
    runs: int
    origin: str


def check_images(inputs: InputSpecs, seed: int, count: int) -> Images | Samples:
    """Inputs to compare a network with its quantized form on: `count` pictures, or as many generated runs.

    Raises ModelError where the type or shape of an input says too little to generate one.
    """
    only = next(iter(inputs)) if len(inputs) == 1 else None
    if only is not None and only.dtype in PICTURE_TYPES and only.shape and (only.is_picture or only.is_float):
        found = _mirrored(only, seed, count) if only.is_picture else generate(only, (count, *only.shape[1:]), seed)
        if not only.has_stated_range:
            return found
        x = filled_in_part(found.x.astype(np.float64), USUAL_PART).astype(np.float32)
        return dataclasses.replace(found, x=x, origin=f"{found.origin}, of an eighth of its contrast")
    generator = np.random.default_rng(seed)
    feeds = {spec.name: _runs(spec, seed, count, generator) for spec in inputs}
    return Samples(feeds, count, f"{count} generated inputs")


def _mirrored(spec: InputSpec, seed: int, count: int) -> Images:
    """Pictures, of which a few are made, which takes the time; the others are their mirror images both ways."""
    number = max(min(count, PICTURES_MADE), -(-count // FORMS))
    made = generate(spec, (number, *spec.shape[1:]), seed)
    if count <= PICTURES_MADE:
        return made
    axes = (1, 2) if channels_last(spec.shape) else (2, 3)
    forms = [made.x, *(np.flip(made.x, axis) for axis in (axes[1], axes[0], axes))]
    x = np.concatenate(forms)[:count]
    counted = re.sub(r"^\d+", str(len(x)), made.origin)
    return Images(np.ascontiguousarray(x), None, f"{counted} ({len(made.x)}, each flipped 3 ways)")


def few_of(found: Images | Samples | ImageStream, count: int) -> Images | Samples | ImageStream:
    """So many of the inputs, where there are more: the first of those that were made, and of images evenly spread."""
    if isinstance(found, ImageStream):
        return dataclasses.replace(found.spread(count), labels=None)
    if isinstance(found, Samples):
        feeds = {name: values[:count] for name, values in found.feeds.items()}
        runs = min(count, found.runs)
        return Samples(feeds, runs, found.origin if runs == found.runs else f"{runs} of {found.origin}")
    kept = min(count, len(found.x))
    return Images(found.x[:kept], None, found.origin if kept == len(found.x) else f"{kept} of {found.origin}")


def held_back_images(inputs: InputSpecs, count: int) -> ImageStream | None:
    """The user's images that statistics did not see, `count` at most, without labels; None where they are too few.

    Raises OptionError as `stream_images`.
    """
    found = _own(inputs)
    index = _unseen(inputs, found.count)
    if not len(index):
        return None
    index = index[np.arange(min(count, len(index))) * len(index) // min(count, len(index))]
    return found.only(index, f"{len(index)} images of yours that statistics did not see")


def seen_images(inputs: InputSpecs, count: int) -> tuple[ImageStream, str]:
    """The first of the user's images, which statistics saw, and a warning that says so."""
    found = _own(inputs)
    kept = min(count, found.count)
    at_once = fixed_batch(inputs.image_input(), inputs.batch_is_free) or 1
    warning = (
        f"compared on the images that statistics come from, since {found.count} are too few to hold some back: "
        f"give {max(FEWEST_TO_HOLD_BACK, 2 * at_once)}, or verify the file on others"
    )
    return found.only(np.arange(kept), f"{kept} images of yours, which statistics saw"), warning


def described_images(inputs: InputSpecs) -> str:
    """What the user's images are, and how many of them are kept from statistics."""
    found = _own(inputs)
    if inputs.learned is not None:
        return f"{found.origin}, learned ({inputs.learned.objective}) and none of yours"
    kept = _unseen(inputs, found.count)
    return f"{found.origin}, {len(kept)} of them unseen by statistics"


def most_seen(inputs: InputSpecs, count: int, taken: int) -> int:
    """How many of `taken` images, evenly spread over `count` of the user's, statistics may have seen."""
    index = np.arange(taken) * count // taken
    return len(np.setdiff1d(index, _unseen(inputs, count)))


def _unseen(inputs: InputSpecs, count: int) -> npt.NDArray[np.intp]:
    return unseen_by_statistics(inputs.image_input(), count, inputs.batch_is_free)


def _own(inputs: InputSpecs) -> ImageStream:
    """The user's images, without labels."""
    spec = inputs.image_input()
    assert inputs.images is not None  # who has none has nothing to hold back
    found = stream_images(inputs.images, spec.shape, spec.preprocess, spec.batch or 1)
    return dataclasses.replace(found, labels=None)


def _runs(spec: InputSpec, seed: int, count: int, generator: np.random.Generator) -> npt.NDArray[np.generic]:
    """``[count, *shape]`` for one input."""
    if spec.stated is None or spec.kind not in "fiub":
        raise ModelError(f"nothing can be generated for its input '{shown(spec.name)}' of {spec.type_text}")
    shape = spec.shape
    if not spec.is_float:
        if spec.range is not None:
            return whole_in_range((count, *shape), spec.range, generator).astype(spec.dtype)
        # Indices, lengths and flags: numbers that most networks take.
        return generator.integers(0, 2, (count, *shape)).astype(spec.dtype)
    runs = [
        generate(spec, shape, seed + run).x if shape or spec.range else generator.standard_normal()
        for run in range(count)
    ]
    return np.stack(runs).astype(spec.dtype)
