"""Inputs to collect statistics with where there is no data: procedural ones from a seed, or the user's own few."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import onnx

from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.inputs.feeds import whole_in_range
from dfmpc_onnx.inputs.files import read_images, unseen
from dfmpc_onnx.inputs.generated import generate
from dfmpc_onnx.inputs.spec import InputSpec, InputSpecs

FEWEST_IMAGES, MOST_IMAGES = 16, 64
PIXELS = 16 * 224 * 224


@dataclasses.dataclass(frozen=True)
class Batch:
    """Inputs to collect statistics with.

    feeds: by input name. origin: what they are; warnings: what was assumed. any_number: whether the network takes
    fewer or more of them as well.
    """

    feeds: dict[str, npt.NDArray[np.generic]]
    origin: str
    warnings: tuple[str, ...] = ()
    any_number: bool = False

    @property
    def count(self) -> int:
        """How many images; of inputs that count none, 1."""
        return min((len(x) for x in self.feeds.values() if x.ndim), default=1)

    def first(self, count: int) -> Batch:
        """At most so many of its images; all where the network takes no other number."""
        if not self.any_number or self.count <= count:
            return self
        return dataclasses.replace(self, feeds={name: x[:count] for name, x in self.feeds.items()})

    def last(self, count: int) -> Batch:
        """At most so many of its images, from the end; all where the network takes no other number."""
        if not self.any_number or self.count <= count:
            return self
        return dataclasses.replace(self, feeds={name: x[-count:] for name, x in self.feeds.items()})


def input_batch(inputs: InputSpecs, seed: int, count: int = 0, *, free: bool = False) -> Batch:
    """Procedural inputs for every input of a network.

    Pictures of fallen shapes for ``[n, 1 or 3, h, w]`` (or channels last), 1/f fields for any other float input of rank
    3 and more, Gaussian vectors below, zeros for integers; what `spec.moments` or `spec.range` say goes first. count:
    how many; 0 takes 16, and up to 64 of small pictures. A batch that the file states decides by itself, unless it is
    free (see `statistics.batch_axis`). Where `inputs.images` names the user's own, the one input of the network gets
    those. Raises OptionError where images cannot be read or do not fit.
    """
    if inputs.images is not None:
        return _own_images(inputs, inputs.images, free)
    feeds: dict[str, npt.NDArray[np.generic]] = {}
    origins, warnings = [], []
    shapes = {spec.name: spec.shape for spec in inputs}
    number = min((_count(spec, count, free) for spec in inputs if spec.has_batch), default=count)
    for spec in inputs:
        shape = shapes[spec.name]
        if spec.size_assumed:
            sizes = "x".join(map(str, shape[1:]))
            warnings.append(
                f"input '{shown(spec.name)}': dynamic size taken as {sizes}; give --input-shape for another"
            )
        if spec.has_batch:
            stated = None if free else spec.batch
            shape = (stated or number, *shape[1:])
        feeds[spec.name], origin = _procedural(spec, shape, seed)
        origins.append(origin)
    return Batch(feeds, ", ".join(origins), tuple(warnings), _takes_any_number(inputs, free))


def _takes_any_number(inputs: InputSpecs, free: bool) -> bool:
    return all(spec.has_batch and (free or spec.batch is None) for spec in inputs)


def _count(spec: InputSpec, wanted: int, free: bool) -> int:
    """How many images an input asks for: what its batch says, or so many that their pixels suffice."""
    if spec.batch is not None and not free:
        return spec.batch
    area = int(np.prod(spec.shape[2:])) if len(spec.shape) > 2 else 1
    return wanted or int(np.clip(PIXELS // max(area, 1), FEWEST_IMAGES, MOST_IMAGES))


def usual_count(inputs: InputSpecs) -> int:
    """How many images are made where nobody says how many and any number may be; 0 where no input counts them."""
    return min((_count(spec, 0, free=True) for spec in inputs if spec.has_batch), default=0)


def fixed_batch(spec: InputSpec, free: bool | None) -> int | None:
    """How many images an input takes at once; None where it takes any number."""
    if not spec.has_batch:
        return spec.shape[0]
    return None if free else spec.batch


def unseen_by_statistics(spec: InputSpec, count: int, free: bool | None) -> npt.NDArray[np.intp]:
    """Which of `count` images of the user's no statistics see.

    free: whether a batch that the file states is free; where None, those that statistics see in neither case.
    """
    if free is None:
        return np.intersect1d(unseen_by_statistics(spec, count, True), unseen_by_statistics(spec, count, False))
    fixed = fixed_batch(spec, free)
    return unseen(count, fixed or 1, fixed or MOST_IMAGES)


def _own_images(inputs: InputSpecs, path: str, free: bool) -> Batch:
    spec = inputs.image_input()
    found = read_images(path, spec.shape, spec.preprocess)
    if not spec.fits(found.x.shape[1:]):
        stated = list(spec.given or spec.stated or ())
        raise OptionError(
            f"images of shape {found.x.shape[1:]} do not fit the model's input '{shown(spec.name)}' {stated}"
        )
    fixed = fixed_batch(spec, free)
    kept = np.empty(0, np.intp) if inputs.learned else unseen_by_statistics(spec, len(found.x), free)
    x = np.delete(found.x, kept, axis=0)[: fixed or MOST_IMAGES]
    if fixed and len(x) < fixed:
        raise OptionError(f"images: the model takes batches of {fixed}, only {len(x)} images given")
    feeds: dict[str, npt.NDArray[np.generic]] = {spec.name: x.astype(spec.dtype, copy=False)}
    return Batch(feeds, f"{len(x)} of {found.origin}", any_number=_takes_any_number(inputs, free))


def _procedural(spec: InputSpec, shape: tuple[int, ...], seed: int) -> tuple[npt.NDArray[np.generic], str]:
    if not spec.is_float and not spec.is_picture:
        if spec.range is not None:
            whole = whole_in_range(shape, spec.range, np.random.default_rng(seed))
            return whole.astype(spec.dtype), f"whole numbers for '{shown(spec.name)}'"
        if len(shape) > (0 if spec.kind == "b" else 1):  # a mask of zeros alone would hide what is behind it
            generator = np.random.default_rng(seed)
            flags = generator.integers(0, 2, shape)
            return flags.astype(spec.dtype), f"zeros and ones for '{shown(spec.name)}'"
        return np.zeros(shape, spec.dtype), f"zeros for '{shown(spec.name)}'"
    images = generate(spec, shape, seed)
    return images.x.astype(spec.dtype), images.origin


def free_batch(model: onnx.ModelProto, names: Collection[str]) -> None:
    """Let a model take any number of images at inputs that state it; shapes that may repeat it are taken out."""
    del model.graph.value_info[:]
    for value in model.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    for value in model.graph.input:
        if value.name in names:
            value.type.tensor_type.shape.dim[0].dim_param = "N"
