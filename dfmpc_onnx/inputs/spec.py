"""What a network is fed, resolved once: shape, type, channels and batch of each input, and what pictures go through.

`resolve` reads the inputs of a model together with what the user asked for (`--input-shape`, `--preprocess`,
`--images`) when the model is loaded. The result is frozen, travels as `workspace.inputs`, and answers for everybody:
batches and samples, statistics with and without images, closing check, provenance. It goes by the names of inputs,
since passes copy and convert the graph. Nobody else reads the inputs of a graph or model to find out a shape, a batch
or whether an input is a picture; only `evaluation.fidelity` asks a loaded session what it was stated, since that may
be another file.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import ModelError, OptionError, shown
from dfmpc_onnx.inputs.feeds import InputMoments
from dfmpc_onnx.inputs.learned_file import LearnedRecord, learned_record
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.inputs.stated import Dimension, Shape, StatedInput, stated_by_graph, stated_by_model
from dfmpc_onnx.numerics.ranges import Range

DEFAULT_SIDE = 224  # of dynamic height and width
EXAMPLE_SIDE, EXAMPLE_LENGTH = 640, 16000  # of a map and of a sound in a message
DEFAULT_CHANNELS = 3  # of a dynamic channel dimension that no Conv reads
BYTE_LEVELS = 255  # from the least byte to the greatest
PICTURE_TYPES = tuple(np.dtype(kind) for kind in (np.float32, np.float16, np.float64, np.uint8))


def is_picture(shape: Sequence[Dimension]) -> bool:
    """Whether a shape is that of images of one or three channels, ``[n, c, h, w]`` or channels last."""
    return len(shape) == 4 and (shape[1] in (1, 3) or shape[3] in (1, 3))


def channels_last(shape: Sequence[Dimension]) -> bool:
    """Whether a picture's shape is ``[n, h, w, channels]``."""
    return len(shape) == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3)


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """One input of a network.

    stated: its dimensions as the file has them, numbers or names; None where it states none. given: what the user
    gave with `--input-shape`. dtype: None where the file states none. resolved: every dimension known; None where
    nothing says how many there are. size_assumed: whether a height, width or length had to be. preprocess: what pixels
    go through on their way in, "raw" where it takes bytes. range: as the user gave it. moments: where it is no picture
    under a preprocess, those that were found out.
    """

    name: str
    stated: tuple[Dimension, ...] | None
    dtype: np.dtype[np.generic] | None
    preprocess: Preprocess
    given: Shape | None = None
    resolved: Shape | None = None
    size_assumed: bool = False
    is_sequence: bool = False
    range: Range | None = None
    moments: InputMoments | None = None

    @property
    def shape(self) -> Shape:
        """Every dimension, known or assumed. Raises OptionError where there is no shape, ModelError for a sequence."""
        if self.is_sequence:
            raise ModelError(f"input '{shown(self.name)}' is a sequence; nothing can be generated for it")
        if self.resolved is None:
            raise OptionError(
                f"input '{shown(self.name)}' has no shape; give --input-shape '{shown(self.name)}:1x3x224x224'"
            )
        return self.resolved

    @property
    def kind(self) -> str:
        """The kind of number that it holds, as numpy names it; "V" for a type that numpy does not have."""
        return self.dtype.kind if self.dtype is not None and self.dtype.isbuiltin == 1 else "V"

    @property
    def type_text(self) -> str:
        """Its type, to print."""
        return "unknown type" if self.dtype is None else f"type {self.dtype.name}"

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_picture(self) -> bool:
        """Whether it gets pictures, as floats or bytes: ``[n, 1 or 3, h, w]``, or channels last."""
        taken = self.is_float or self.dtype == np.uint8
        return taken and self.moments is None and is_picture(self.resolved or ())

    @property
    def is_normalized(self) -> bool:
        """Whether it gets pictures in floats, so that a preprocess applies to it."""
        return self.is_float and self.range is None and self.is_picture

    @property
    def is_of_bytes(self) -> bool:
        """Whether 256 codes hold all that it gets: pictures of three channels, or of one as bytes are, 255 apart.

        Other floats are finer than a 255th of their range and may fill a small part of it: sound, bands, and scans and
        thermal pictures of one channel.
        """
        if not self.is_picture or not self.is_float:
            return self.is_picture
        low, high = self.preprocess.bounds(self.channels)
        widest = float(np.max(high - low))
        return widest <= BYTE_LEVELS if self.channels == 3 else abs(widest - BYTE_LEVELS) < 1

    @property
    def has_stated_range(self) -> bool:
        """Whether the user says how far floats reach that are no bytes, so that inputs may fill any part of it."""
        return self.is_float and self.range is not None and not self.is_of_bytes

    @property
    def channels_last(self) -> bool:
        return channels_last(self.resolved or ())

    @property
    def channel_axis(self) -> int:
        """The dimension of its channels, in a shape of rank 2 and more."""
        return 3 if self.channels_last else 1

    @property
    def channels(self) -> int:
        """How many channels it has, in a shape of rank 2 and more."""
        return self.shape[self.channel_axis]

    @property
    def side(self) -> tuple[int, int]:
        """Height and width of a picture."""
        height, width = self.shape[1:3] if self.channels_last else self.shape[2:4]
        return height, width

    @property
    def has_batch(self) -> bool:
        """Whether its first dimension counts images.

        A vector of a stated length, such as scales or a size, is one thing; of a free length it has a value an image.
        """
        dims = self.stated if self.stated is not None else self.resolved or ()
        return len(dims) > 1 or (len(dims) == 1 and _number(dims[0]) is None)

    @property
    def batch(self) -> int | None:
        """How many images the file wants at once; None where it takes any number, or the input counts none."""
        return _number(self.stated[0]) if self.stated and self.has_batch else None

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether a whole shape agrees with every number that the file states."""
        dims = self.stated or ()
        return len(dims) == len(shape) and all(_number(d) in (None, n) for d, n in zip(dims, shape, strict=True))

    @property
    def is_assumed(self) -> bool:
        """Whether a dimension behind the batch is neither stated nor given."""
        return self.given is None and any(_number(d) is None for d in (self.stated or ())[int(self.has_batch) :])

    @property
    def example(self) -> Shape:
        """A shape of the size that such inputs often have: a second of sound, or a map of 640 by 640."""
        unknown = [i for i, d in enumerate(self.stated or ()) if _number(d) is None and i >= int(self.has_batch)]
        if len(self.shape) > 3:
            sizes = {i: EXAMPLE_SIDE for i in unknown if i != self.channel_axis}
        else:
            sizes = dict.fromkeys(unknown[-1:], EXAMPLE_LENGTH)
        return tuple(sizes.get(i, d) for i, d in enumerate(self.shape))

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether ``[n, *shape]`` agrees with every number that the user gave, or the file states."""
        dims = self.given or self.stated or ()
        return all(_number(d) in (None, n) for d, n in zip(dims[1:], shape, strict=True))


@dataclasses.dataclass(frozen=True)
class InputSpecs:
    """The inputs of a network, in its own order.

    preprocess: what pixels go through in front of an input of floats. images: the path of those that the user gave, if
    any. unknown: names of those whose scale nothing tells but images. batch_is_free: whether a batch that the file
    states is free (see `statistics.batch_axis`), where that was found out. learned: how the images were learned, where
    they were: then they are no pictures of the user's.
    """

    specs: tuple[InputSpec, ...]
    preprocess: Preprocess
    images: str | None = None
    unknown: frozenset[str] = frozenset()
    batch_is_free: bool | None = None
    learned: LearnedRecord | None = None

    def __iter__(self) -> Iterator[InputSpec]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)

    def __getitem__(self, name: str) -> InputSpec:
        return self._by_name[name]

    def get(self, name: str) -> InputSpec | None:
        return self._by_name.get(name)

    @functools.cached_property
    def _by_name(self) -> dict[str, InputSpec]:
        return {spec.name: spec for spec in self.specs}

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shape of each input that has one, by name."""
        return {spec.name: spec.shape for spec in self.specs if spec.stated is not None and not spec.is_sequence}

    @property
    def own_images(self) -> str | None:
        """The path of pictures of the user's own, which show what real inputs are; learned images do not."""
        return self.images if self.learned is None else None

    @property
    def holds_back(self) -> bool:
        """Whether some of the user's images are kept from statistics, to compare on."""
        return self.own_images is not None

    @property
    def has_normalized(self) -> bool:
        """Whether any input gets pictures in floats."""
        return any(spec.is_normalized for spec in self.specs)

    def only(self, names: Collection[str]) -> InputSpecs:
        """Those of these names, for a part of the network."""
        return dataclasses.replace(self, specs=tuple(spec for spec in self.specs if spec.name in names))

    def with_preprocess(self, preprocess: Preprocess) -> InputSpecs:
        """The same inputs, fed through another preprocess."""
        specs = tuple(
            s if s.range else dataclasses.replace(s, preprocess=_preprocess_of(preprocess, s.dtype)) for s in self.specs
        )
        return dataclasses.replace(self, specs=specs, preprocess=preprocess)

    def with_dtype(self, names: Collection[str], dtype: np.dtype[np.generic]) -> InputSpecs:
        """The same inputs, those of these names of another type."""
        specs = tuple(dataclasses.replace(s, dtype=dtype) if s.name in names else s for s in self.specs)
        return dataclasses.replace(self, specs=specs)

    def image_input(self) -> InputSpec:
        """The one input that takes the user's images; raises OptionError where a model has no such input."""
        if len(self.specs) != 1:
            raise OptionError(
                f"images: the model has {len(self.specs)} inputs; images can be given to a model with one"
            )
        (spec,) = self.specs
        if spec.dtype not in PICTURE_TYPES:
            raise OptionError(
                f"images: the model's input '{shown(spec.name)}' is {spec.type_text}; it must be of floats or bytes"
            )
        return spec

    def check_options(self, input_shapes: Mapping[str, Shape]) -> None:
        """Raise OptionError where the user named an input that is not there, or lists of values for other channels."""
        for name in input_shapes:
            if name and name not in self._by_name:
                listed = ", ".join(map(shown, self._by_name))
                raise OptionError(f"input shape for '{shown(name)}': no such input; the model has {listed}")
        wanted = self.preprocess.own_channels
        maps = [spec for spec in self.specs if spec.is_float and len(spec.stated or ()) == 4]
        if wanted and maps and not any(wanted in (spec.shape[1], spec.shape[3]) for spec in maps):
            channels = maps[0].channels
            raise OptionError(
                f"preprocess '{shown(self.preprocess.name)}': lists of {wanted} values, but input "
                f"'{shown(maps[0].name)}' has {channels} channels; give 1 or {channels} values"
            )


def resolve(
    model: onnx.ModelProto | gs.Graph,
    input_shapes: Mapping[str, Shape],
    preprocess: Preprocess,
    images: str | None = None,
) -> InputSpecs:
    """The inputs of a model or graph, initializers left out, under what the user asked for.

    A dynamic channel dimension gets the channels of the first Conv that reads it, else 3 in rank 4; dynamic height
    and width 224, other dynamic dimensions 1; `input_shapes`, by name, says otherwise; of one input the name may be
    left out as "". A batch by whose name another
    input calls an inner dimension, as the state of a recurrent network does, is 1. Raises OptionError where a given
    shape does not fit the stated one.
    """
    found = stated_by_graph(model) if isinstance(model, gs.Graph) else stated_by_model(model)
    input_shapes = _with_names(found, input_shapes)
    tied = _with_tied_batches(found, input_shapes)
    specs = tuple(
        _resolve_input(raw, input_shapes.get(raw.name), _preprocess_of(preprocess, raw.dtype)) for raw in tied
    )
    return InputSpecs(specs, preprocess, images, learned=learned_record(images))


def _with_names(found: Sequence[StatedInput], input_shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """The shapes by name where one has none: it is that of the only input. Raises OptionError where there are more."""
    if "" not in input_shapes:
        return input_shapes
    if len(found) != 1:
        sizes = "x".join(map(str, input_shapes[""]))
        names = ", ".join(shown(raw.name) for raw in found)
        raise OptionError(f"input shape '{sizes}': of which input; give NAME:{sizes}, with one of {names} for NAME")
    return {found[0].name: input_shapes[""], **{name: shape for name, shape in input_shapes.items() if name}}


def _with_tied_batches(found: Sequence[StatedInput], input_shapes: Mapping[str, Shape]) -> Sequence[StatedInput]:
    """The inputs with a number for each batch that is an inner dimension of another input, by its name."""
    leading = {raw.stated[0] for raw in found if raw.stated}
    inner = {dim for raw in found if raw.stated for dim in raw.stated[1:]}
    sizes: dict[Dimension, int] = {name: 1 for name in leading & inner if isinstance(name, str) and name}
    if not sizes:
        return found
    for raw in found:
        given = zip(raw.stated or (), input_shapes.get(raw.name, ()), strict=False)
        sizes.update((dim, size) for dim, size in given if dim in sizes)
    return [
        raw if raw.stated is None else dataclasses.replace(raw, stated=tuple(sizes.get(d, d) for d in raw.stated))
        for raw in found
    ]


def _resolve_input(raw: StatedInput, given: Shape | None, preprocess: Preprocess) -> InputSpec:
    spec = InputSpec(raw.name, raw.stated, raw.dtype, preprocess, given, given, is_sequence=raw.is_sequence)
    if raw.stated is None or raw.is_sequence:
        return spec
    if given is None:
        shape, assumed = _fill_dimensions([_number(d) for d in raw.stated], raw.channels)
        return dataclasses.replace(spec, resolved=shape, size_assumed=assumed)
    if len(given) != len(raw.stated):
        raise OptionError(
            f"input shape for '{shown(raw.name)}': {len(given)} dimensions given, it has {len(raw.stated)}"
        )
    if any(_number(dim) not in (None, size) for dim, size in zip(raw.stated, given, strict=True)):
        raise OptionError(f"input shape for '{shown(raw.name)}': {given} does not fit the model's {list(raw.stated)}")
    return spec


def _fill_dimensions(known: Sequence[int | None], channels: int | None) -> tuple[Shape, bool]:
    """A number for every dimension, and whether a height, width or length had to be assumed."""
    rank, channel = len(known), 3 if channels_last(known) else 1
    if channels is None and rank == 4:
        channels = DEFAULT_CHANNELS
    side = DEFAULT_SIDE if rank > 2 else 1
    assumed = {i: 1 if i == 0 else side for i in range(rank)}
    if rank > 2 and channels is not None:
        assumed[channel] = channels
    spatial = [i for i in range(1, rank) if i != channel]
    shape = tuple(assumed[i] if d is None else d for i, d in enumerate(known))
    return shape, any(known[i] is None for i in (spatial if rank > 2 else range(1, rank)))


def _number(dimension: Dimension) -> int | None:
    """A dimension that is known; 0, below, and names are not."""
    return dimension if isinstance(dimension, int) and dimension > 0 else None


def _preprocess_of(preprocess: Preprocess, dtype: np.dtype[np.generic] | None) -> Preprocess:
    """What pixels go through before an input of a type gets them: nothing where it takes bytes."""
    return Preprocess.parse("raw") if dtype == np.uint8 else preprocess
