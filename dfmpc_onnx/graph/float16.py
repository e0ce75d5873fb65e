"""A float32 network with its floats in float16: nodes that can take the narrow type, and Casts where the type changes.

Inputs and outputs of the model keep their types. What a node can take is read from its operator's schema; which nodes
are to stay in float32 is the caller's to say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable

import numpy as np
import numpy.typing as npt
import onnx
import onnx.defs
import onnx.shape_inference
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.edit import Namer, detached_weights, insert
from dfmpc_onnx.graph.operators import dequantizes, is_standard, op_of, quantizes
from dfmpc_onnx.graph.query import captured_tensors, constant, consumers, producer

SINGLE, HALVED = int(onnx.TensorProto.FLOAT), int(onnx.TensorProto.FLOAT16)
OLDEST_HALF_QDQ = 19  # the first opset whose QuantizeLinear takes float16, and whose DequantizeLinear gives it
GIVE_A_TYPE = ("dtype", "output_dtype", "value")  # attributes that fix the type of an output


@dataclasses.dataclass(frozen=True)
class Slots:
    """Places of a node's inputs and outputs that change their type together."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def tensor_types(graph: gs.Graph) -> dict[str, int]:
    """The element types of the tensors of a graph by name, constants among them, as shape inference finds them.

    What an operator gives that it does not know, as those of other domains, is not there.
    """
    with detached_weights(graph):
        skeleton = gs.export_onnx(graph, ir_version=graph.ir_version)
    inferred = onnx.shape_inference.infer_shapes(skeleton, check_type=False, strict_mode=False).graph
    stated = (*inferred.input, *inferred.output, *inferred.value_info)
    found = {value.name: int(value.type.tensor_type.elem_type) for value in stated}
    found |= {tensor.name: int(tensor.data_type) for tensor in inferred.initializer}
    return {name: kind for name, kind in found.items() if kind}


def float_tensors(graph: gs.Graph) -> frozenset[str]:
    """The names of the float32 tensors of a graph, constants among them."""
    return frozenset(name for name, kind in tensor_types(graph).items() if kind == SINGLE)


def slots_of(node: gs.Node, opset: int, floats: Collection[str]) -> Slots | None:
    """What of a node becomes float16; None where its operator has no such form.

    floats: the names of float32 tensors.
    """
    bodies = any(isinstance(value, gs.Graph) for value in node.attrs.values())
    typed = any(key in node.attrs for key in GIVE_A_TYPE)
    if bodies or typed or not is_standard(node) or not onnx.defs.has(node.op, opset):
        return None
    if op_of(node) == "Cast":  # reads any type
        return Slots((), (0,) if node.attrs.get("to") == SINGLE else ())
    schema = onnx.defs.get_schema(node.op, opset)
    allowed = {item.type_param_str: item.allowed_type_strs for item in schema.type_constraints}
    found: list[tuple[int, ...]] = []
    for formals, tensors in ((schema.inputs, node.inputs), (schema.outputs, node.outputs)):
        places = [i for i, tensor in enumerate(tensors) if tensor.name in floats]
        kinds = {i: formals[min(i, len(formals) - 1)].type_str for i in places}
        if any("tensor(float16)" not in allowed[kind] for kind in kinds.values() if kind in allowed):
            return None
        found.append(tuple(i for i in places if kinds[i] in allowed))
    return Slots(*found)


def captured_by_bodies(graph: gs.Graph) -> set[str]:
    """The nodes, by name, whose results control flow reads: bodies keep their types."""
    bodies = (value for node in graph.nodes for value in node.attrs.values() if isinstance(value, gs.Graph))
    makers = (producer(tensor) for body in bodies for tensor in captured_tensors(body))
    return {node.name for node in makers if node is not None}


class Halving:
    """Turns the nodes of a graph that can, and that are not to stay wide, to float16."""

    def __init__(self, graph: gs.Graph, wide: Collection[str], floats: Collection[str]) -> None:
        """wide: names of the nodes that stay in float32. floats: names of the float32 tensors."""
        self._graph, self._wide, self._floats = graph, wide, floats
        self._names = Namer(graph)
        self._constants: dict[tuple[int, type[np.generic]], gs.Constant] = {}
        self._casts: dict[tuple[int, int], gs.Variable] = {}
        self._half: set[int] = set()
        self._first: list[gs.Node] = []
        self._after: dict[int, list[gs.Node]] = {}

    def run(self) -> list[str]:
        """Change the graph; returns the names of the nodes that compute in float16 now."""
        opset, changed = int(self._graph.opset), []
        for node in list(self._graph.nodes):
            slots = slots_of(node, opset, self._floats)
            if slots is not None and self._narrow(node, slots):
                changed.append(node.name)
                self._to_half(node, slots)
            else:
                self._to_float(node)
        self._restore_outputs()
        insert(self._graph, first=self._first, after=self._after)
        return changed

    def _narrow(self, node: gs.Node, slots: Slots) -> bool:
        if node.name in self._wide or not (slots.inputs or slots.outputs):
            return False
        if quantizes(node):  # of what it reads, so that nothing is cast in front of it
            return id(node.inputs[0]) in self._half
        if dequantizes(node):
            return any(reader.name not in self._wide for reader in consumers(node.outputs[0]))
        return True

    def _to_half(self, node: gs.Node, slots: Slots) -> None:
        for place in slots.inputs:
            tensor = node.inputs[place]
            if isinstance(tensor, gs.Constant):
                node.inputs[place] = self._constant(tensor, np.float16)
            elif id(tensor) not in self._half:
                node.inputs[place] = self._cast(tensor, HALVED)
        for place in slots.outputs:
            self._half.add(id(node.outputs[place]))
            if node.outputs[place].dtype is not None:
                node.outputs[place].dtype = np.dtype(np.float16)
        if op_of(node) == "Cast" and slots.outputs:
            node.attrs["to"] = HALVED

    def _to_float(self, node: gs.Node) -> None:
        if quantizes(node) and node.name not in self._wide and isinstance(node.inputs[1], gs.Constant):
            node.inputs[1] = self._constant(node.inputs[1], np.float32)  # as its DequantizeLinear has it
        if op_of(node) == "Cast":
            return
        for place, tensor in enumerate(node.inputs):
            if id(tensor) in self._half:
                by = producer(tensor)
                again = by is not None and dequantizes(by)
                node.inputs[place] = self._decoded(by) if again else self._cast(tensor, SINGLE)

    def _constant(self, tensor: gs.Constant, kind: type[np.generic]) -> gs.Constant:
        """A constant rounded to float16, in that type or in float32. What is positive stays so: scales, epsilons."""
        key = id(tensor), kind
        if key not in self._constants:
            values = np.asarray(constant(tensor))
            half = np.asarray(values.astype(np.float16))
            half = np.where((values > 0) & (half == 0), np.finfo(np.float16).smallest_subnormal, half)
            self._constants[key] = gs.Constant(self._names(tensor.name), half.astype(kind))
        return self._constants[key]

    def _decoded(self, decoder: gs.Node) -> gs.Variable:
        """What a DequantizeLinear gives, in float32: by another one of the same codes."""
        key = id(decoder.outputs[0]), SINGLE
        if key not in self._casts:
            result = gs.Variable(self._names(f"{decoder.name}.float32"))
            inputs = [decoder.inputs[0], self._constant(decoder.inputs[1], np.float32), *decoder.inputs[2:]]
            node = gs.Node("DequantizeLinear", result.name, dict(decoder.attrs), inputs, [result])
            self._after.setdefault(id(decoder), []).append(node)
            self._casts[key] = result
        return self._casts[key]

    def _cast(self, tensor: gs.Tensor, to: int) -> gs.Variable:
        key = id(tensor), to
        if key not in self._casts:
            suffix = "float16" if to == HALVED else "float32"
            self._casts[key] = gs.Variable(self._names(f"{tensor.name}.{suffix}"))
            self._put(tensor, gs.Node("Cast", self._casts[key].name, {"to": to}, [tensor], [self._casts[key]]))
        return self._casts[key]

    def _put(self, source: gs.Tensor, node: gs.Node) -> None:
        by = producer(source)
        (self._first if by is None else self._after.setdefault(id(by), [])).append(node)

    def _restore_outputs(self) -> None:
        """Outputs of the model keep name and type."""
        for place, tensor in enumerate(self._graph.outputs):
            if id(tensor) in self._half:
                result = gs.Variable(tensor.name, np.dtype(np.float32), tensor.shape)
                tensor.name = self._names(f"{tensor.name}.float16")
                self._graph.outputs[place] = result
                self._put(
                    tensor, gs.Node("Cast", self._names(f"{result.name}.Cast"), {"to": SINGLE}, [tensor], [result])
                )


def fits_float16(values: npt.NDArray[np.generic] | Iterable[float]) -> bool:
    """Whether float16 holds numbers: none beyond its largest, and not all of them too small for its precision."""
    largest = float(np.max(np.abs(np.asarray(values, np.float64)), initial=0.0))
    return largest == 0 or float(np.finfo(np.float16).tiny) <= largest <= float(np.finfo(np.float16).max)
