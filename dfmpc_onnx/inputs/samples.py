"""What two networks are compared on: procedural pictures, or generated runs where one takes more than pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.errors import ModelError, shown
from dfmpc_onnx.inputs.feeds import USUAL_PART, filled_in_part, whole_in_range
from dfmpc_onnx.inputs.files import FEWEST_TO_HOLD_BACK, Images, held_back, read_images
from dfmpc_onnx.inputs.generated import generate
from dfmpc_onnx.inputs.spec import PICTURE_TYPES, InputSpec, InputSpecs


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
        found = generate(only, (count, *only.shape[1:]), seed)
        if not only.has_stated_range:
            return found
        x = filled_in_part(found.x.astype(np.float64), USUAL_PART).astype(np.float32)
        return dataclasses.replace(found, x=x, origin=f"{found.origin}, of an eighth of its contrast")
    generator = np.random.default_rng(seed)
    feeds = {spec.name: _runs(spec, seed, count, generator) for spec in inputs}
    return Samples(feeds, count, f"{count} generated inputs")


def held_back_images(inputs: InputSpecs, count: int) -> tuple[Images, tuple[str, ...]]:
    """The user's images that statistics did not see, `count` at most, and a note where they are too few for that.

    For a network of whose input nothing else tells what it holds. Raises OptionError as `read_images`.
    """
    spec = inputs.image_input()
    assert inputs.images is not None  # who has none has nothing to hold back
    found = read_images(inputs.images, spec.shape, spec.preprocess)
    index = held_back(len(found.x), spec.batch or 1)
    if len(index):
        kept = found.x[index[:count]]
        return Images(kept, None, f"{len(kept)} images of yours that statistics did not see"), ()
    kept = found.x[:count]
    note = (
        f"compared on the images that statistics come from, since {len(found.x)} are too few to hold some back: "
        f"give {max(FEWEST_TO_HOLD_BACK, 2 * (spec.batch or 1))}, or verify the file on others"
    )
    return Images(kept, None, f"{len(kept)} images of yours, which statistics saw"), (note,)


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
