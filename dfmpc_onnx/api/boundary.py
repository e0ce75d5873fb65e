"""Where a user's script comes in: plain values of Python become options, a wrong type is named, warnings are logged."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import numbers
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import onnx

from dfmpc_onnx.errors import OptionError, UserError, did_you_mean
from dfmpc_onnx.inputs.files import IN_MEMORY
from dfmpc_onnx.pipeline.recipe import Recipe

Given = ParamSpec("Given")
Returned = TypeVar("Returned")
Path = str | os.PathLike[str]
AnyArray = npt.NDArray[np.generic]
GivenImages = Path | AnyArray | Iterable[AnyArray]
GivenLayers = Sequence[str] | Mapping[str, str | int]
GivenShapes = Sequence[str] | Mapping[str, Sequence[int]]
GivenRanges = Sequence[str] | Mapping[str, Sequence[float]]
logger = logging.getLogger("dfmpc_onnx")


def public(call: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """A function of the public interface.

    Its arguments may be plain values of Python, and each of a wrong type is an OptionError that names it. What its
    result warns of goes to the logger ``dfmpc_onnx``, too.
    """
    signature = inspect.signature(call)

    @functools.wraps(call)
    def within(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{call.__name__}(): {error}{_near_of(kwargs, signature)}") from None
        for name, value in bound.arguments.items():
            if value is not signature.parameters[name].default and name in ARGUMENTS:
                bound.arguments[name] = ARGUMENTS[name](name, value)
        with contextlib.ExitStack() as stack:
            images = bound.arguments.get("images")
            if images is not None and not isinstance(images, (str, os.PathLike)):
                bound.arguments["images"] = stack.enter_context(_as_file(images))
            result = call(*bound.args, **bound.kwargs)
        for warning in _warnings(result):
            logger.warning("%s", warning)
        return result

    return within


def _near_of(given: Iterable[str], signature: inspect.Signature) -> str:
    """What an argument that a function does not have may have been meant for."""
    unknown = next((name for name in given if name not in signature.parameters), None)
    return "" if unknown is None else did_you_mean(unknown, signature.parameters)


def _warnings(result: object) -> Sequence[str]:
    found: Sequence[str] = getattr(getattr(result, "report", result), "warnings", ())
    return found


@contextlib.contextmanager
def _as_file(images: Iterable[AnyArray]) -> Iterator[str]:
    """A path of the images while the block runs: a network is run on them several times, part by part."""
    x = _stacked(images)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / IN_MEMORY
        np.savez(path, x=x)
        try:
            yield str(path)
        except UserError as error:
            error.args = (str(error).replace(str(path), "images"),)
            raise


def _stacked(images: Iterable[AnyArray]) -> AnyArray:
    """``[n, ...]``; raises OptionError."""
    if isinstance(images, np.ndarray):
        return images
    try:
        parts = [np.asarray(image) for image in images]
    except TypeError:
        raise _wrong("images", images, "a path, an array [n, height, width, 3] or an iterable of arrays") from None
    if not parts:
        raise OptionError("images: no image in what was given")
    shapes = {part.shape for part in parts}
    if len(shapes) > 1:
        raise OptionError(f"images: arrays of {len(shapes)} shapes; give images of one size, or a folder")
    return np.stack(parts)


def _wrong(name: str, value: object, wanted: str) -> OptionError:
    return OptionError(f"{name}: of type {type(value).__name__}; give {wanted}")


def _one_of(wanted: str, *kinds: type) -> Callable[[str, Any], Any]:
    """What takes values of these types, None where it is the default included."""

    def check(name: str, value: Any) -> Any:
        if value is None or not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise _wrong(name, value, wanted)
        return value

    return check


def _text(wanted: str) -> Callable[[str, Any], str]:
    """What takes a text or a number as one."""

    def check(name: str, value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, (str, numbers.Real)):
            raise _wrong(name, value, wanted)
        return str(value)

    return check


def _strings(wanted: str, entry: Callable[[str, str, Any], str] | None = None) -> Callable[[str, Any], list[str]]:
    """What takes one text, several, or a mapping whose entries are written as one."""

    def check(name: str, value: Any) -> list[str]:
        if isinstance(value, str):
            return [value]
        if isinstance(value, Mapping) and entry is not None:
            if not all(isinstance(key, str) for key in value):
                raise _wrong(name, value, wanted)
            return [entry(name, key, item) for key, item in value.items()]
        if not isinstance(value, Iterable) or isinstance(value, (bytes, Mapping)):
            raise _wrong(name, value, wanted)
        items = list(value)
        for item in items:
            if not isinstance(item, str):
                raise _wrong(name, item, wanted)
        return items

    return check


def _layer(name: str, key: str, bits: Any) -> str:
    return f"{key}={_text('bits such as 8, or float')(name, bits)}"


def _shape(name: str, key: str, shape: Any) -> str:
    sizes: list[Any] = list(shape) if isinstance(shape, Iterable) and not isinstance(shape, str) else [None]
    if not all(isinstance(size, numbers.Integral) and not isinstance(size, bool) for size in sizes):
        raise _wrong(name, shape, "whole numbers such as {'x': (1, 3, 224, 224)}")
    return f"{key}:{'x'.join(str(int(size)) for size in sizes)}"


def _range(name: str, key: str, bounds: Any) -> str:
    ends = list(bounds) if isinstance(bounds, Iterable) and not isinstance(bounds, str) else []
    if len(ends) != 2 or not all(isinstance(end, numbers.Real) for end in ends):
        raise _wrong(name, bounds, "two numbers such as {'x': (0, 255)}")
    return f"{key}={float(ends[0])!r}:{float(ends[1])!r}"


def _called(name: str, value: Any) -> Any:
    if not callable(value):
        raise _wrong(name, value, "a function of (done, total, name), such as that of rich_progress()")
    return value


def _instruments(name: str, value: Any) -> Any:
    if not isinstance(value, Sequence) or not all(callable(getattr(item, "after", None)) for item in value):
        raise _wrong(name, value, "a list of objects with the methods before and after of Instrument")
    return value


def _images(name: str, value: Any) -> Any:
    if isinstance(value, (bytes, onnx.ModelProto)) or not isinstance(value, (str, os.PathLike, Iterable)):
        raise _wrong(name, value, "a path, an array [n, height, width, 3] or an iterable of arrays")
    return _path(name, value) if isinstance(value, (str, os.PathLike)) else value


MODELS = (str, os.PathLike, bytes, bytearray, memoryview, onnx.ModelProto)
_model = _one_of("a path, the bytes of a file, or a ModelProto", *MODELS)


def _models(name: str, value: Any) -> list[Any]:
    """Several models, in a list."""
    if isinstance(value, MODELS) or not isinstance(value, Iterable):
        raise _wrong(name, value, "a list of models")
    return [_model(name, item) for item in value]


def _path(name: str, value: Any) -> Any:
    """A path that is not empty: that would be the working folder."""
    if not os.fspath(_one_of("a path", str, os.PathLike)(name, value)):
        raise OptionError(f"{name}: is empty; give a path")
    return value


_word = _one_of("a text", str)
_whole = _one_of("a whole number", numbers.Integral)
_number = _one_of("a number", numbers.Real)


def _not_negative(name: str, value: Any) -> Any:
    if _whole(name, value) < 0:
        raise OptionError(f"{name.replace('_', '-')} {value}: not understood; give 0 or more")
    return value


_flag = _one_of("True or False", bool)


def _recipe(name: str, value: Any) -> Any:
    checked = _one_of("a name, the path of a .toml file, or a Recipe", str, os.PathLike, Recipe)(name, value)
    return os.fspath(checked) if isinstance(checked, os.PathLike) else checked


ARGUMENTS: Mapping[str, Callable[[str, Any], Any]] = {
    "model": _model,
    "quantized": _model,
    "output": _path,
    "report": _path,
    "against": _model,
    "files": _models,
    "dump": _path,
    "table_from": _path,
    "recipe": _recipe,
    "weights": _text("bits such as 8, or LOW/HIGH such as '2/6'"),
    "activations": _text("4, 8, 16, 'auto' or 'none'"),
    "layers": _strings("GLOB=BITS items, or a mapping such as {'head/*': 8}", _layer),
    "reduce_range": _flag,
    "fp16": _flag,
    "target": _word,
    "preprocess": lambda name, value: _word(name, value).strip().lower(),
    "input_shapes": _strings("NAME:1x3x224x224 items, or a mapping such as {'x': (1, 3, 224, 224)}", _shape),
    "input_ranges": _strings("NAME=LOW:HIGH items, or a mapping such as {'x': (0, 255)}", _range),
    "images": _images,
    "seed": _not_negative,
    "count": _whole,
    "objective": _word,
    "steps": _whole,
    "learning_rate": _number,
    "device": lambda name, value: _word(name, value).strip().lower(),
    "check": _flag,
    "force": _flag,
    "latency": _flag,
    "layer_errors": _flag,
    "blame": _flag,
    "max_latency": _text("'12.5' or '80%'"),
    "progress": _called,
    "instruments": _instruments,
    "max_size": _one_of("bytes, '2MB' or '25%'", str, numbers.Integral),
    "mean_bits": _number,
    "max_seconds": _number,
    "min_sqnr": _number,
    "max_float_layers": _not_negative,
    "min_agreement": _number,
    "pareto": _whole,
    "search": lambda name, value: _word(name, value).strip().lower(),
    "providers": _strings("names such as CPU"),
}


def texts(value: GivenLayers | GivenShapes | GivenRanges) -> tuple[str, ...]:
    """What `public` has made of a list or mapping of options: a text an entry."""
    return tuple(map(str, value))


def as_path(images: GivenImages | None) -> Path | None:
    """What `public` has made of images: a path."""
    if images is None or isinstance(images, (str, os.PathLike)):
        return images
    raise _images_wrong(images)


def images_label(images: Path | None) -> str | None:
    """Where the user's images lie, for a report."""
    if images is None:
        return None
    return "arrays" if pathlib.Path(images).name == IN_MEMORY else str(images)


def _images_wrong(value: object) -> OptionError:
    return _wrong("images", value, "a path, an array [n, height, width, 3] or an iterable of arrays")
