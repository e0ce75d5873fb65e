"""Inputs to run networks on where there is no data: procedural images from a seed, or the user's own few."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import ModelError, OptionError, shown
from dfmpc_onnx.graph.query import element_type
from dfmpc_onnx.inputs.files import Images, read_images
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.inputs.procedural import noise_fields, pictures
from dfmpc_onnx.memory import machine_memory
from dfmpc_onnx.pipeline.settings import Settings

BYTES_TO_MAKE = 24  # for each value of an input: a spectrum and the field, in double precision
DEFAULT_SIDE = 224  # of dynamic height and width
FEWEST_IMAGES, MOST_IMAGES = 16, 64
PIXELS = 16 * 224 * 224
PICTURE_TYPES = tuple(np.dtype(kind) for kind in (np.float32, np.float16, np.float64, np.uint8))


@dataclasses.dataclass(frozen=True)
class Batch:
    """Inputs to collect statistics with. feeds: by input name; origin: what they are; warnings: what was assumed."""

    feeds: dict[str, npt.NDArray[np.generic]]
    origin: str
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Samples:
    """Inputs for networks that take more than pictures.

    feeds: by input name, ``[runs, *shape]``, one run after another. origin: what they are, to print.
    """

    feeds: Mapping[str, npt.NDArray[np.generic]]
    runs: int
    origin: str


def input_batch(graph: gs.Graph, settings: Settings, count: int = 0, *, free: bool = False) -> Batch:
    """Procedural inputs for every input of a graph.

    Pictures of fallen shapes for ``[n, 1 or 3, h, w]`` (or channels last), 1/f fields for any other float input of
    rank 3 and more, Gaussian vectors below, zeros for integers. Dynamic height and width become 224, other dynamic
    dimensions 1, unless settings.input_shapes says otherwise. count: how many; 0 takes 16, and up to 64 of small
    pictures. A fixed batch dimension decides by itself, unless it is free (see `batching`). Where settings.images
    names the user's own, the one input of the network gets those. Raises OptionError where a given shape does not
    fit, or images cannot be read.
    """
    if settings.images is not None:
        return _own_images(graph, settings)
    feeds: dict[str, npt.NDArray[np.generic]] = {}
    origins, warnings = [], []
    shapes = {t.name: concrete_shape(t, settings) for t in graph.inputs}
    number = min((_count(t, shapes[t.name][0], count, free) for t in graph.inputs), default=count)
    for tensor in graph.inputs:
        shape, assumed = shapes[tensor.name]
        if assumed:
            sizes = "x".join(map(str, shape[1:]))
            warnings.append(
                f"input '{shown(tensor.name)}': dynamic size taken as {sizes}; give --input-shape for another"
            )
        fixed = _fixed_batch(tensor) and not free
        batched = (shape[0] if fixed else number, *shape[1:]) if shape else shape
        x, origin = _procedural(tensor, batched, settings)
        feeds[tensor.name] = x
        origins.append(origin)
    return Batch(feeds, ", ".join(origins), tuple(warnings))


def _fixed_batch(tensor: gs.Tensor) -> bool:
    return bool(tensor.shape) and isinstance(tensor.shape[0], int) and tensor.shape[0] > 0 and len(tensor.shape) > 1


def _count(tensor: gs.Tensor, shape: tuple[int, ...], wanted: int, free: bool) -> int:
    """How many images an input asks for: what its batch says, or so many that their pixels suffice."""
    if _fixed_batch(tensor) and not free:
        return shape[0]
    area = int(np.prod(shape[2:])) if len(shape) > 2 else 1
    return wanted or int(np.clip(PIXELS // max(area, 1), FEWEST_IMAGES, MOST_IMAGES))


def _own_images(graph: gs.Graph, settings: Settings) -> Batch:
    assert settings.images is not None  # the caller has looked
    tensor = image_input(graph.inputs)
    shape, _ = concrete_shape(tensor, settings)
    found = read_images(settings.images, shape, preprocess_for(tensor, settings.preprocess))
    stated = settings.input_shapes.get(tensor.name, tensor.shape)
    if any(isinstance(d, int) and 0 < d != n for d, n in zip(stated[1:], found.x.shape[1:], strict=True)):
        raise OptionError(
            f"images of shape {found.x.shape[1:]} do not fit the model's input '{shown(tensor.name)}' {list(stated)}"
        )
    fixed = tensor.shape[0] if isinstance(tensor.shape[0], int) and tensor.shape[0] > 0 else None
    x = found.x[: fixed or MOST_IMAGES]
    if fixed and len(x) < fixed:
        raise OptionError(f"images: the model takes batches of {fixed}, only {len(x)} images given")
    return Batch({tensor.name: x.astype(element_type(tensor), copy=False)}, f"{len(x)} of {found.origin}")


def preprocess_for(tensor: gs.Tensor, preprocess: Preprocess) -> Preprocess:
    """What pictures go through before a network gets them: nothing where it takes bytes."""
    return Preprocess.parse("raw") if element_type(tensor) == np.uint8 else preprocess


def is_picture(shape: Sequence[int]) -> bool:
    """Whether a shape is that of images of one or three channels, ``[n, c, h, w]`` or channels last."""
    return len(shape) == 4 and (shape[1] in (1, 3) or shape[3] in (1, 3))


def model_inputs(model: onnx.ModelProto) -> list[gs.Variable]:
    """What has to be fed to a model: name, shape and type of each input; dtype None where it is no tensor."""
    given = {tensor.name for tensor in model.graph.initializer}
    found = []
    for value in model.graph.input:
        if value.name in given:
            continue
        kind = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type) if kind.elem_type else None
        shape = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim]
        found.append(gs.Variable(value.name, dtype, shape if kind.HasField("shape") else None))
    return found


def image_input(tensors: Sequence[gs.Tensor]) -> gs.Tensor:
    """The one input that takes the user's images; raises OptionError where a model has no such input."""
    if len(tensors) != 1:
        raise OptionError(f"images: the model has {len(tensors)} inputs; images can be given to a model with one")
    tensor = tensors[0]
    if element_type(tensor) not in PICTURE_TYPES:
        raise OptionError(
            f"images: the model's input '{shown(tensor.name)}' is {_type(tensor)}; it must be of floats or bytes"
        )
    return tensor


def check_inputs(tensors: Sequence[gs.Tensor], settings: Settings) -> None:
    """Raise OptionError where the input shapes or the preprocess that the user gave do not fit a model's inputs."""
    known = {tensor.name: tensor for tensor in tensors}
    for name in settings.input_shapes:
        if name not in known:
            listed = ", ".join(map(shown, known))
            raise OptionError(f"input shape for '{shown(name)}': no such input; the model has {listed}")
        concrete_shape(known[name], settings)
    wanted = settings.preprocess.own_channels
    maps = [t for t in tensors if _kind(t) == "f" and len(t.shape or ()) == 4]
    shapes = [concrete_shape(t, settings)[0] for t in maps]
    if wanted and shapes and not any(wanted in (shape[1], shape[3]) for shape in shapes):
        channels = shapes[0][3] if channels_last(shapes[0]) else shapes[0][1]
        raise OptionError(
            f"preprocess '{shown(settings.preprocess.name)}': lists of {wanted} values, but input "
            f"'{shown(maps[0].name)}' has {channels} channels; give 1 or {channels} values"
        )


def check_images(tensors: Sequence[gs.Tensor], settings: Settings, count: int) -> Images | Samples:
    """Inputs to compare a network with its quantized form on: `count` pictures, or as many generated runs.

    Raises ModelError where the type or shape of an input says too little to generate one.
    """
    if len(tensors) == 1 and element_type(tensors[0]) in PICTURE_TYPES and tensors[0].shape != []:
        shape, _ = concrete_shape(tensors[0], settings)
        if is_picture(shape) or _kind(tensors[0]) == "f":
            preprocess = preprocess_for(tensors[0], settings.preprocess)
            return procedural_images((count, *shape[1:]), preprocess, settings.seed)
    generator = np.random.default_rng(settings.seed)
    feeds = {}
    for tensor in tensors:
        if tensor.shape is None or _kind(tensor) not in "fiub":
            raise ModelError(f"nothing can be generated for its input '{shown(tensor.name)}' of {_type(tensor)}")
        shape, _ = concrete_shape(tensor, settings)
        if _kind(tensor) == "f":
            runs = [
                procedural_images(shape, settings.preprocess, settings.seed + run).x
                if shape
                else generator.standard_normal()
                for run in range(count)
            ]
            feeds[tensor.name] = np.stack(runs).astype(tensor.dtype)
        else:
            # Indices, lengths and flags: numbers that most networks take.
            feeds[tensor.name] = generator.integers(0, 2, (count, *shape)).astype(tensor.dtype)
    return Samples(feeds, count, f"{count} generated inputs")


def _kind(tensor: gs.Tensor) -> str:
    """The kind of number that a tensor holds, as numpy names it; "V" for a type that numpy does not have."""
    dtype = element_type(tensor)
    return dtype.kind if dtype is not None and dtype.isbuiltin == 1 else "V"


def _type(tensor: gs.Tensor) -> str:
    dtype = element_type(tensor)
    return "unknown type" if dtype is None else f"type {dtype.name}"


def takes_pictures(tensor: gs.Tensor, settings: Settings) -> bool:
    """Whether an input gets pictures: floats ``[n, 1 or 3, h, w]``, or channels last."""
    if _kind(tensor) != "f" or len(tensor.shape or ()) != 4:
        return False
    return is_picture(concrete_shape(tensor, settings)[0])


def channels_last(shape: Sequence[int | None]) -> bool:
    """Whether a picture's shape is ``[n, h, w, channels]``."""
    return len(shape) == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3)


def concrete_shape(tensor: gs.Tensor, settings: Settings) -> tuple[tuple[int, ...], bool]:
    """An input's shape with every dimension known, and whether a height or width had to be assumed.

    Raises OptionError where the shape that the user gave does not fit.
    """
    given = settings.input_shapes.get(tensor.name)
    if getattr(tensor, "type", "tensor_type") == "sequence_type":
        raise ModelError(f"input '{shown(tensor.name)}' is a sequence; nothing can be generated for it")
    if tensor.shape is None:
        if given is None:
            raise OptionError(
                f"input '{shown(tensor.name)}' has no shape; give --input-shape '{shown(tensor.name)}:1x3x224x224'"
            )
        return given, False
    if given is not None:
        if len(given) != len(tensor.shape):
            raise OptionError(
                f"input shape for '{shown(tensor.name)}': {len(given)} dimensions given, it has {len(tensor.shape)}"
            )
        if any(isinstance(dim, int) and 0 < dim != size for dim, size in zip(tensor.shape, given, strict=True)):
            raise OptionError(
                f"input shape for '{shown(tensor.name)}': {given} does not fit the model's {list(tensor.shape)}"
            )
        return given, False
    known = [d if isinstance(d, int) and d > 0 else None for d in tensor.shape]
    channel = 3 if channels_last(known) else 1
    spatial = [i for i in range(1, len(known)) if i != channel]
    assumed = len(known) > 2 and any(known[i] is None for i in spatial)
    filled = [
        d
        if d is not None
        else 1
        if i == 0
        else 3
        if i == channel and len(known) == 4
        else DEFAULT_SIDE
        if len(known) > 2
        else 1
        for i, d in enumerate(known)
    ]
    return tuple(filled), assumed


def _procedural(tensor: gs.Tensor, shape: tuple[int, ...], settings: Settings) -> tuple[npt.NDArray[np.generic], str]:
    dtype = element_type(tensor) or np.dtype(np.float32)
    if dtype.kind != "f" and not (dtype == np.uint8 and is_picture(shape)):
        return np.zeros(shape, dtype), f"zeros for '{shown(tensor.name)}'"
    images = procedural_images(shape, preprocess_for(tensor, settings.preprocess), settings.seed)
    return images.x.astype(dtype), images.origin


def _check_room(shape: tuple[int, ...]) -> None:
    """Raise ModelError where inputs of a shape cannot be made in this machine's memory."""
    needed, room = BYTES_TO_MAKE * math.prod(shape), machine_memory()
    if needed > room:
        raise ModelError(
            f"inputs of shape {list(shape)} take some {needed / 1e9:.3g} GB to make, and this machine has "
            f"{room / 1e9:.3g}: give a smaller --input-shape"
        )


def procedural_images(shape: tuple[int, ...], preprocess: Preprocess, seed: int) -> Images:
    """Seeded inputs of a given shape, batch first; see `input_batch` for what they are."""
    _check_room(shape)
    if is_picture(shape):
        last = channels_last(shape)
        height, width = (shape[1], shape[2]) if last else (shape[2], shape[3])
        pixels = pictures(shape[0], height, width, seed)
        if shape[3 if last else 1] == 1:
            pixels = np.rint(pixels.mean(axis=3, keepdims=True)).astype(np.uint8)
        x = preprocess(pixels)
        x = x if last else np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        return Images(x, None, f"{shape[0]} procedural images of {height}x{width}")
    if len(shape) >= 3:
        fields = noise_fields(shape[0], shape[1], shape[2:], seed)
        return Images(fields.astype(np.float32), None, f"{shape[0]} procedural 1/f fields")
    generator = np.random.default_rng(seed)
    x = np.asarray(generator.standard_normal(shape), np.float32)
    return Images(x, None, f"{shape[0]} Gaussian vectors" if shape else "a Gaussian number")
