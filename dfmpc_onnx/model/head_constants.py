"""The constants of a graph, those among them that a few nodes make of others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from dfmpc_onnx.model.protos import initializers, op_of, stored_value

LARGEST_CONSTANT = 2**22  # of a constant that is read
LONGEST_MAKING = 8  # nodes from a constant that is stored to one that is made of it
HeadValue = npt.NDArray[np.generic]

MADE: Mapping[str, Callable[..., HeadValue]] = {
    "Identity": lambda x: x,
    "Cast": lambda x: x,  # read in double precision anyway
    "Neg": np.negative,
    "Sqrt": np.sqrt,
    "Reciprocal": np.reciprocal,
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.true_divide,
    "Max": np.maximum,
    "Pow": np.power,
    "Reshape": lambda x, shape: x.reshape([int(n) for n in shape]),
}


class HeadConstants:
    """Looks the constants of a graph up; each is read when it is asked for."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._stored = initializers(graph)
        self._nodes: dict[str, onnx.NodeProto] = {}
        self._values: dict[str, HeadValue | None] = {}
        for node in graph.node:
            stored = stored_value(node)
            if stored is not None:
                self._stored[node.output[0]] = stored
            elif op_of(node) == "Constant" or op_of(node) in MADE or op_of(node) in MOVES:
                self._nodes[node.output[0]] = node

    def get(self, name: str, depth: int = 0) -> HeadValue | None:
        """The value of a tensor; None where it is not constant, too large, or made in another way."""
        if name not in self._values:
            self._values[name] = self._find(name, depth)
        return self._values[name]

    def _find(self, name: str, depth: int) -> HeadValue | None:
        if name in self._stored:
            tensor = self._stored[name]
            outside = tensor.data_location == onnx.TensorProto.EXTERNAL
            if outside or math.prod(tensor.dims) > LARGEST_CONSTANT or tensor.data_type == onnx.TensorProto.STRING:
                return None
            return np.asarray(numpy_helper.to_array(tensor))
        node = self._nodes.get(name)
        if node is None or depth > LONGEST_MAKING:
            return None
        given = [self.get(read, depth + 1) for read in node.input]
        values = [value for value in given if value is not None]
        try:
            with np.errstate(all="ignore"):
                return _worked_out(node, values) if len(values) == len(given) else None
        except (ValueError, TypeError, IndexError):
            return None  # the file is damaged, which others report


def _worked_out(node: onnx.NodeProto, values: Sequence[HeadValue]) -> HeadValue | None:
    op, attributes = op_of(node), {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if op == "Constant":
        return next(
            (np.asarray(v) for k, v in attributes.items() if k in ("value_float", "value_floats", "value_ints")), None
        )
    if op in MADE:
        made = [np.asarray(value, np.float64) for value in values]
        return np.asarray(MADE[op](*made))
    return MOVES[op](values[0], [int(i) for i in _axes(attributes, values)])


def _axes(attributes: Mapping[str, Sequence[int]], values: Sequence[HeadValue]) -> Sequence[int]:
    """Of a Transpose, Squeeze or Unsqueeze, as an attribute or an input."""
    stated = attributes.get("axes", attributes.get("perm"))
    if stated is not None:
        return stated
    return [int(i) for i in values[1].reshape(-1)] if len(values) > 1 else []


MOVES: Mapping[str, Callable[[HeadValue, list[int]], HeadValue]] = {
    "Transpose": lambda x, axes: x.transpose(axes or None),
    "Squeeze": lambda x, axes: x.squeeze(tuple(axes) if axes else None),
    "Unsqueeze": lambda x, axes: np.expand_dims(x, tuple(axes)),
}
