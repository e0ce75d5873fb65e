"""The tensors that a model file holds, and whether each holds what its shape and type say."""

from __future__ import annotations

import math

import onnx

from dfmpc_onnx.errors import ModelError, shown
from dfmpc_onnx.memory import machine_memory

UNKNOWN_TYPE = (
    f"ONNX {onnx.__version__} does not know; the file is damaged, or a newer onnx has to be installed to read it"
)
ELEMENT_TYPES = frozenset(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED}
ROOM_FOR_ALL = 2**20  # bytes that every machine has: what they may take is not looked up for each of a thousand biases
LARGEST_TENSOR_BYTES = 2**31 - 2**20  # bytes of one tensor that protobuf can write
_COMPLEX = {onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128}
# Bits of an element of the types that share bytes.
_PACKED = {
    getattr(onnx.TensorProto, name): bits
    for name, bits in (("INT4", 4), ("UINT4", 4), ("FLOAT4E2M1", 4), ("INT2", 2), ("UINT2", 2))
    if hasattr(onnx.TensorProto, name)
}


def bytes_of(dims: tuple[int, ...], data_type: int) -> int:
    """What a tensor takes, in bytes."""
    count = math.prod(dims)
    if data_type in _PACKED:
        return (count * _PACKED[data_type] + 7) // 8
    return int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize) * count


def check_tensor(tensor: onnx.TensorProto, where: str) -> None:
    """Raise ModelError where a tensor's type or shape cannot be.

    A shape that holds nothing because one dimension is 0 may still claim others that no memory has room for.
    """
    if tensor.data_type not in ELEMENT_TYPES:
        raise ModelError(f"{where}: '{shown(tensor.name)}' is of type {tensor.data_type}, which {UNKNOWN_TYPE}")
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"{where}: '{shown(tensor.name)}' has a negative dimension; the file is damaged")
    if tensor.HasField("segment"):
        raise ModelError(f"{where}: '{shown(tensor.name)}' is stored in segments, which no runtime reads")
    _check_room(tensor.name, tuple(tensor.dims), tensor.data_type, where)


def check_data(tensor: onnx.TensorProto, where: str) -> None:
    """Raise ModelError where a tensor holds fewer or more bytes than its shape wants, or more than protobuf can."""
    if len(tensor.raw_data) >= LARGEST_TENSOR_BYTES:
        held = f"holds {len(tensor.raw_data) / 1e9:.2f} GB"
        raise ModelError(f"{where}: '{shown(tensor.name)}' {held}; a single tensor may hold 2 GiB, so split it")
    if tensor.HasField("raw_data"):
        expected, unit = bytes_of(tuple(tensor.dims), tensor.data_type), "bytes"
        found = len(tensor.raw_data)
    elif tensor.data_type in _PACKED:
        return  # values that share a field's elements in more ways than one
    else:
        field = onnx.helper.tensor_dtype_to_field(tensor.data_type)
        expected, unit = math.prod(tensor.dims) * (2 if tensor.data_type in _COMPLEX else 1), "values"
        found = len(getattr(tensor, field))
    if found != expected:
        raise ModelError(f"{where}: the data of '{shown(tensor.name)}' holds {found} of {expected} {unit}")


def check_sparse(tensor: onnx.SparseTensorProto, where: str) -> None:
    """Raise ModelError where a sparse tensor, written out, has no room in memory, or lies in another file."""
    name = tensor.values.name
    if any(onnx.external_data_helper.uses_external_data(part) for part in (tensor.values, tensor.indices)):
        raise ModelError(f"{where}: sparse tensor '{shown(name)}' lies in another file; store it in the model")
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"{where}: '{shown(name)}' has a negative dimension; the file is damaged")
    if tensor.values.data_type in ELEMENT_TYPES:
        _check_room(name, tuple(tensor.dims), tensor.values.data_type, where)


def _check_room(name: str, dims: tuple[int, ...], data_type: int, where: str) -> None:
    size = bytes_of(tuple(max(dim, 1) for dim in dims), data_type)
    if size > ROOM_FOR_ALL and size > (room := machine_memory()):
        raise ModelError(
            f"{where}: '{shown(name)}' of shape {shown(str(list(dims)))} would take {size / 1e9:.3g} GB, this machine "
            f"has {room / 1e9:.3g}; the file is damaged, or needs a machine with more"
        )
