"""One node of a graph run by itself, in onnxruntime."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import ModelError, shown
from dfmpc_onnx.graph.exchange import to_model
from dfmpc_onnx.graph.query import describe
from dfmpc_onnx.runtime.session import Session


class NodeRunner:
    """One node as a model of its own."""

    def __init__(
        self, graph: gs.Graph, node: gs.Node, constants: list[npt.NDArray[np.generic] | None] | None = None
    ) -> None:
        self._node = node
        inputs = []
        for index, tensor in enumerate(node.inputs):
            values = None if constants is None else constants[index]
            if values is not None:
                inputs.append(gs.Constant(tensor.name, values))
            elif isinstance(tensor, gs.Constant):
                inputs.append(gs.Constant(tensor.name, tensor._values))
            else:
                inputs.append(gs.Variable(tensor.name))
        self._outputs = [t.name for t in node.outputs if not t.is_empty()]
        outputs = [gs.Variable(t.name) for t in node.outputs]
        copy = gs.Node(node.op, node.name, dict(node.attrs), inputs, outputs, node.domain)
        self._graph = gs.Graph(
            [copy], [], [], opset=graph.opset, import_domains=graph.import_domains, functions=graph.functions
        )
        self._graph.ir_version = graph.ir_version
        self._inner = copy
        self._session: Session | None = None
        self._stated: dict[str, list[int | None]] = {}  # the shapes that the session was made for

    def __call__(self, feeds: dict[str, npt.NDArray[np.generic]]) -> list[npt.NDArray[np.generic]]:
        stated = {name: _stated_shape(x) for name, x in feeds.items() if isinstance(x, np.ndarray)}
        if self._session is None or stated != self._stated:  # as where one network selects more than the other
            self._session, self._stated = self._load(feeds), stated
        return self._session.run(feeds, self._outputs)

    def _load(self, feeds: dict[str, npt.NDArray[np.generic]]) -> Session:
        model = to_model(self._graph)
        for name, value in feeds.items():
            model.graph.input.append(_value_info(name, value))
        for name in self._outputs:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
        return Session(model, label=describe(self._node))


def _value_info(name: str, value: object) -> onnx.ValueInfoProto:
    """An input that a value can be fed to: a tensor, a sequence of tensors, or an optional one that is not there."""
    if isinstance(value, np.ndarray):
        kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        return onnx.helper.make_tensor_value_info(name, kind, _stated_shape(value))
    if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
        kind = onnx.helper.np_dtype_to_tensor_dtype(value[0].dtype)
        return onnx.helper.make_tensor_sequence_value_info(name, kind, None)
    if isinstance(value, list) and not value:  # an empty one has no type; SequenceEmpty makes one of floats
        return onnx.helper.make_tensor_sequence_value_info(name, onnx.TensorProto.FLOAT, None)
    raise ModelError(f"'{shown(name)}' is neither a tensor nor a sequence of tensors, so it cannot be followed")


def _stated_shape(value: npt.NDArray[np.generic]) -> list[int | None]:
    """What an input says of its shape: the length of a vector, else no more than its rank.

    Shape inference wants to know of sizes, scales and pads how many they are, and of an optional vector that it is
    empty.
    """
    return [len(value)] if value.ndim == 1 else [None] * value.ndim
