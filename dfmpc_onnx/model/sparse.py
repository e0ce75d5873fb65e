"""Weights that a file stores sparse, as values and their places: made dense, as every pass reads them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from dfmpc_onnx.errors import ModelError, shown
from dfmpc_onnx.model.protos import op_of

LARGEST_DENSE_BYTES = 2**31  # bytes of one dense tensor: what a few places claim must not exhaust memory


def has_sparse(model: onnx.ModelProto) -> bool:
    """Whether a model stores a tensor sparse, as an initializer or in a Constant node."""
    return bool(model.graph.sparse_initializer) or any(_sparse_attribute(node) for node in model.graph.node)


def densify(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """A copy of a model with its sparse tensors dense. Raises ModelError where one is malformed, or too large."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.sparse_initializer:
        result.graph.initializer.append(numpy_helper.from_array(dense(tensor, where), tensor.values.name))
    del result.graph.sparse_initializer[:]
    for node in result.graph.node:
        if _sparse_attribute(node):
            values = dense(node.attribute[0].sparse_tensor, where)
            node.attribute[0].CopyFrom(onnx.helper.make_attribute("value", numpy_helper.from_array(values)))
    return result


def _sparse_attribute(node: onnx.NodeProto) -> bool:
    return op_of(node) == "Constant" and any(a.type == onnx.AttributeProto.SPARSE_TENSOR for a in node.attribute)


def dense(tensor: onnx.SparseTensorProto, where: str) -> npt.NDArray[np.generic]:
    """The values of a sparse tensor in their places, zero elsewhere.

    Its indices are ``[n]``, counting through the whole tensor, or ``[n, rank]``. Raises ModelError.
    """
    name = f"{where}: sparse weight '{shown(tensor.values.name)}'"
    try:
        values, places = numpy_helper.to_array(tensor.values), numpy_helper.to_array(tensor.indices)
    except (ValueError, TypeError):
        raise ModelError(f"{name} cannot be read; the file is damaged") from None
    shape = tuple(tensor.dims)
    if any(size < 0 for size in shape) or math.prod(shape) * values.dtype.itemsize >= LARGEST_DENSE_BYTES:
        raise ModelError(f"{name} would take {math.prod(shape) * values.dtype.itemsize / 1e9:.1f} GB; store it dense")
    if places.ndim == 2 and places.shape[1] == len(shape):
        inside = bool(np.all((places >= 0) & (places < np.array(shape, np.int64))))
        flat = np.ravel_multi_index(tuple(places.T), shape) if inside and len(places) else places[:, :1].reshape(-1)
    else:
        flat = places.reshape(-1)
        inside = bool(np.all((flat >= 0) & (flat < math.prod(shape))))
    if not inside or flat.size != values.size:
        raise ModelError(f"{name} has values outside its shape {list(shape)}; the file is damaged")
    result = np.zeros(math.prod(shape), values.dtype)
    result[flat] = values.reshape(-1)
    return result.reshape(shape)
