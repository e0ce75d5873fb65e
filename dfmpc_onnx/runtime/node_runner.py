"""One node of a graph run by itself, in onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Container, Hashable

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import ModelError, shown
from dfmpc_onnx.graph.exchange import to_model
from dfmpc_onnx.graph.operators import is_standard, op_of
from dfmpc_onnx.graph.query import describe
from dfmpc_onnx.runtime.session import Session

MOST_SESSIONS = 64  # that are kept
MOST_FED = 2**20  # bytes from which on a run takes longer than a session, whose memory stays as long as it is kept
LARGEST_SAME = 256  # bytes of a constant of a node that may do the same as another
FED_OPERATORS = ("Conv", "Gemm", "MatMul")
WITH_A_STATE = ("Random", "Bernoulli", "Multinomial", "Dropout")  # how names begin of what another run may change


class NodeSessions:
    """Sessions of nodes by what they do: a large graph holds thousands of nodes of a few kinds.

    Of a layer weight and bias are fed where that is faster than a session of its own, which lays the weight out anew.
    """

    def __init__(self) -> None:
        self._last: tuple[gs.Node, bool, NodeRunner] | None = None
        self._made: dict[Hashable, tuple[Session, list[str], list[str]]] = {}

    def run(
        self,
        graph: gs.Graph,
        node: gs.Node,
        feeds: dict[str, npt.NDArray[np.generic]],
        weight: npt.NDArray[np.generic] | None = None,
        *,
        often: bool = False,
    ) -> list[npt.NDArray[np.generic]]:
        """The outputs of a node of a graph, of which all calls give the same one.

        weight: in place of a layer's own. often: whether the node will be run many times.
        """
        fed = _fed_constants(node, often)
        if weight is not None and not fed:
            return NodeRunner(graph, node, [None, weight, *[None] * (len(node.inputs) - 2)])(feeds)
        given = {**feeds, **fed}
        if weight is not None:
            given[node.inputs[1].name] = weight
        key = _behaviour(node, given)
        if key is None:
            if self._last is None or self._last[0] is not node or self._last[1] != bool(fed):
                self._last = node, bool(fed), NodeRunner(graph, node, fed=fed)
            return self._last[2](given)
        names = list(dict.fromkeys(t.name for t in node.inputs if t.name in given))
        found = self._made.get(key)
        if found is None:
            runner = NodeRunner(graph, node, fed=fed)
            results = runner(given)
            if len(self._made) >= MOST_SESSIONS:
                self._made.clear()
            self._made[key] = runner.session, names, [t.name for t in node.outputs if not t.is_empty()]
            return results
        session, own_names, outputs = found
        session.label = describe(node)
        return session.run({own: given[name] for own, name in zip(own_names, names, strict=True)}, outputs)


def _fed_constants(node: gs.Node, often: bool) -> dict[str, npt.NDArray[np.generic]]:
    """Weight and bias of a layer, by name, where onnxruntime is to be fed them.

    Laid out for the processor, a kernel of one tap is no faster, others are by a third, and of depthwise layers by far.
    """
    if not is_standard(node) or op_of(node) not in FED_OPERATORS or len(node.inputs) < 2:
        return {}
    weight = node.inputs[1]
    if not isinstance(weight, gs.Constant) or weight.dtype != np.float32:
        return {}
    if op_of(node) == "Conv" and (node.attrs.get("group", 1) != 1 or (often and math.prod(weight.shape[2:]) > 1)):
        return {}
    return {t.name: t.values for t in node.inputs[1:] if isinstance(t, gs.Constant)}


def _behaviour(node: gs.Node, feeds: dict[str, npt.NDArray[np.generic]]) -> Hashable | None:
    """What a node does with tensors such as these; None where that is not said in a few words."""
    fed = sum(x.nbytes for x in feeds.values() if isinstance(x, np.ndarray))
    operator = op_of(node)
    if not is_standard(node) or operator.startswith(WITH_A_STATE) or fed > MOST_FED:
        return None
    plain = (int, float, str, bytes)
    words: list[Hashable] = [operator]
    for name, value in sorted(node.attrs.items()):
        several = isinstance(value, list | tuple)
        if not all(isinstance(v, plain) for v in (value if several else [value])):
            return None
        words.append((name, tuple(value) if several else value))
    numbers: dict[str, int] = {}
    for tensor in node.inputs:
        if isinstance(tensor, gs.Constant) and tensor.name not in feeds:
            values = tensor.values if tensor._values.nbytes <= LARGEST_SAME else None
            if values is None or values.dtype.hasobject:
                return None
            words.append((values.dtype.str, values.shape, values.tobytes()))
        elif tensor.is_empty():
            words.append("")
        else:
            x = feeds.get(tensor.name)
            if not isinstance(x, np.ndarray):
                return None
            words.append((numbers.setdefault(tensor.name, len(numbers)), x.dtype.str, tuple(_stated_shape(x))))
    words.append(tuple(tensor.is_empty() for tensor in node.outputs))
    return tuple(words) if len(numbers) == len(feeds) else None


class NodeRunner:
    """One node as a model of its own."""

    def __init__(
        self,
        graph: gs.Graph,
        node: gs.Node,
        constants: list[npt.NDArray[np.generic] | None] | None = None,
        fed: Container[str] = (),
    ) -> None:
        """constants: in place of those of the node's inputs, where not None. fed: names of constants to be fed."""
        self._node = node
        inputs = []
        for index, tensor in enumerate(node.inputs):
            values = None if constants is None else constants[index]
            if values is not None:
                inputs.append(gs.Constant(tensor.name, values))
            elif isinstance(tensor, gs.Constant) and tensor.name not in fed:
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

    @property
    def session(self) -> Session:
        """The session of the last call."""
        assert self._session is not None  # there was one
        return self._session

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
