"""Weights in files beside the model: found, held to the model's folder, measured before anything is read."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib

import onnx
import onnx.external_data_helper

from dfmpc_onnx.errors import ModelError, shown
from dfmpc_onnx.memory import machine_memory
from dfmpc_onnx.model.protos import all_tensors, sparse_tensors
from dfmpc_onnx.model.tensor_checks import bytes_of, check_sparse, check_tensor

LARGEST_GAP = 2**16  # bytes between two tensors that writers leave to align them: they are read as part of the file
MARKER = "_ORT_MEM_ADDR_"  # onnxruntime takes such a location for an address in its own memory


@dataclasses.dataclass(frozen=True)
class Extent:
    """Where a tensor's bytes are said to lie. length: None where it is not said."""

    location: str
    offset: int
    length: int | None

    @classmethod
    def of(cls, tensor: onnx.TensorProto, where: str) -> Extent:
        """As the tensor states it; raises ModelError where that is no location or no number."""
        stated = {entry.key: entry.value for entry in tensor.external_data}
        if not all(isinstance(value, str) for value in stated.values()):  # protobuf gives what is not UTF-8 as bytes
            raise ModelError(f"{where}: external data of '{shown(tensor.name)}' is badly described (not UTF-8)")
        numbers = {key: stated[key] for key in ("offset", "length") if key in stated}
        if not all(text.isascii() and text.isdigit() and len(text) < 20 for text in numbers.values()):
            said = ", ".join(f"{key} '{shown(text)}'" for key, text in numbers.items())
            raise ModelError(f"{where}: external data of '{shown(tensor.name)}' is badly described ({said})")
        length = int(numbers["length"]) if "length" in numbers else None
        return cls(stated.get("location", ""), int(numbers.get("offset", 0)), length)


def external_tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The tensors whose values lie in other files."""
    return [t for t in all_tensors(model) if onnx.external_data_helper.uses_external_data(t)]


def read_external(
    model: onnx.ModelProto, tensors: list[onnx.TensorProto], path: pathlib.Path, where: str, digest: hashlib._Hash
) -> tuple[tuple[pathlib.Path, ...], int]:
    """Read external weights into the model; returns their files and how many bytes of them were read.

    What the tensors claim goes into the digest, file by file in the order of their names. What nobody claims is not
    read: a file may be far larger. path: the model's own file; what a damaged one claims of itself counts for nothing.

    Raises ModelError before anything is read where a file is missing or lies outside the folder, where a tensor's
    place is not wholly in its file, or where all together are more than the machine has memory for.
    """
    for sparse in sparse_tensors(model):
        check_sparse(sparse, where)
    folder = path.parent
    files: dict[str, pathlib.Path] = {}
    spans: dict[str, list[tuple[int, int]]] = {}
    claimed = 0
    for tensor in tensors:
        check_tensor(tensor, where)
        extent = Extent.of(tensor, where)
        file = files.setdefault(extent.location, _inside(folder, extent.location, where))
        size = bytes_of(tuple(tensor.dims), tensor.data_type)
        claimed += size
        spans.setdefault(extent.location, []).append((extent.offset, extent.offset + size))
        if extent.length not in (None, size):
            raise ModelError(
                f"{where}: external data of '{shown(tensor.name)}' is said to be {extent.length} bytes long, its shape "
                f"wants {size}"
            )
        if extent.offset + size > file.stat().st_size:
            raise ModelError(
                f"{where}: external data file '{shown(extent.location)}' ends before the data of '{shown(tensor.name)}'"
                "; it was cut short, or belongs to another model"
            )
        if extent.length is None:  # or the reader would take all that follows
            tensor.external_data.add(key="length", value=str(size))
    if claimed > machine_memory():
        raise ModelError(
            f"{where}: its external data takes {claimed / 1e9:.3g} GB, this machine has {machine_memory() / 1e9:.3g}; "
            "use a machine with more"
        )
    read = 0
    for name in sorted(files):
        try:
            taken = _digest(files[name], spans[name], digest)
            read += 0 if files[name].resolve() == path.resolve() else taken
        except OSError as error:
            raise ModelError(f"{where}: external data file '{shown(name)}' cannot be read ({error.strerror})") from None
    _read(tensors, folder, where)
    return tuple(files.values()), read


def _digest(file: pathlib.Path, spans: list[tuple[int, int]], digest: hashlib._Hash) -> int:
    """Put the parts of a file that tensors claim into a digest, each byte once; returns how many bytes these are."""
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        last = merged[-1] if merged else (0, 0)
        if begin <= last[1] + LARGEST_GAP:
            merged[-1:] = [(last[0], max(last[1], end))]
        else:
            merged.append((begin, end))
    size = file.stat().st_size
    if merged and size <= merged[-1][1] + LARGEST_GAP:
        merged[-1] = (merged[-1][0], size)
    with file.open("rb") as stream:
        for begin, end in merged:
            stream.seek(begin)
            while begin < end and (chunk := stream.read(min(end - begin, 1 << 24))):
                digest.update(chunk)
                begin += len(chunk)
    return sum(end - begin for begin, end in merged)


def _inside(folder: pathlib.Path, location: str, where: str) -> pathlib.Path:
    """The file that a location names; raises ModelError where it is not a plain one below the model's folder."""
    file = folder / location
    bad = not location or "\0" in location or MARKER in location or pathlib.PurePath(location).is_absolute()
    try:
        inside = not bad and file.resolve().is_relative_to(folder.resolve())
        found = inside and file.is_file()
    except (OSError, RuntimeError):  # a name that is too long, or links in a circle
        inside, found = True, False
    if not inside:
        raise ModelError(f"{where}: external data '{shown(location)}' lies outside the model's folder; refused")
    if not found:
        raise ModelError(f"{where}: external data file '{shown(location)}' is missing beside the model")
    return file


def _read(tensors: list[onnx.TensorProto], folder: pathlib.Path, where: str) -> None:
    try:
        for tensor in tensors:
            stated = [(e.key, e.value) for e in tensor.external_data if e.key in ("location", "offset", "length")]
            del tensor.external_data[:]  # onnx warns of keys that it does not know
            for key, value in stated:
                tensor.external_data.add(key=key, value=value)
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
            # Older releases of onnx leave it to their other function to say so.
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"{where}: external data cannot be read ({shown(lines[0])})") from None
