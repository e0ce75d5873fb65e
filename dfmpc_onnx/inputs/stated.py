"""What a model or a graph states of its inputs: shape, type, and the channels of the first Conv that reads each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.operators import op_of
from dfmpc_onnx.graph.query import element_type
from dfmpc_onnx.model.protos import STANDARD_DOMAINS, op_name

# They leave the second dimension as it is, so a Conv behind them tells how many channels an input has.
KEEP_CHANNELS = frozenset({"Identity", "Cast", "Sub", "Add", "Mul", "Div", "BatchNormalization", "Pad", "Clip"})
COPIES = frozenset({"Identity", "Cast", "DequantizeLinear"})  # what they make of a constant has its shape

Dimension = int | str | None
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class StatedInput:
    """What a file states of an input. channels: of the first Conv that reads it."""

    name: str
    stated: tuple[Dimension, ...] | None
    dtype: np.dtype[np.generic] | None
    is_sequence: bool
    channels: int | None


@dataclasses.dataclass(frozen=True)
class _Node:
    """A node as far as it matters for channels. value: the shape of what a Constant node holds."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    group: int = 1
    value: Shape | None = None


def stated_by_model(model: onnx.ModelProto) -> list[StatedInput]:
    """What a model states of each of its inputs, initializers left out."""
    graph = model.graph
    constants: dict[str, Shape] = {t.name: tuple(t.dims) for t in graph.initializer}
    constants |= {t.values.name: tuple(t.dims) for t in graph.sparse_initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    nodes = [_of_proto(node) for node in graph.node if node.domain in STANDARD_DOMAINS]
    found = []
    for value in inputs:
        kind = value.type.tensor_type
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)) if kind.elem_type else None
        dims = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim)
        stated = dims if kind.HasField("shape") else None
        sequence = value.type.WhichOneof("value") == "sequence_type"
        found.append(
            StatedInput(value.name, stated, dtype, sequence, _first_channels(value.name, nodes, dict(constants)))
        )
    return found


def _of_proto(node: onnx.NodeProto) -> _Node:
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    value = next(
        (
            tuple(a.t.dims)
            for a in node.attribute
            if op_name(node.domain, node.op_type) == "Constant" and a.name == "value"
        ),
        None,
    )
    return _Node(node.op_type, tuple(node.input), tuple(node.output), group, value)


def stated_by_graph(graph: gs.Graph) -> list[StatedInput]:
    """The same, of a graph."""
    constants: dict[str, Shape] = {}
    nodes = []
    for node in graph.nodes:
        if (node.domain or "") in STANDARD_DOMAINS:
            constants |= {t.name: tuple(t.shape) for t in node.inputs if isinstance(t, gs.Constant)}
            value = node.attrs.get("value") if op_of(node) == "Constant" else None
            shape = tuple(value.shape) if isinstance(value, gs.Constant) else None
            read, made = ([t.name for t in tensors] for tensors in (node.inputs, node.outputs))
            nodes.append(_Node(node.op, tuple(read), tuple(made), int(node.attrs.get("group", 1)), shape))
    found = []
    for tensor in graph.inputs:
        sequence = getattr(tensor, "type", "tensor_type") == "sequence_type"
        stated = None if sequence or tensor.shape is None else tuple(tensor.shape)
        channels = _first_channels(tensor.name, nodes, dict(constants))
        found.append(StatedInput(tensor.name, stated, element_type(tensor), sequence, channels))
    return found


def _first_channels(name: str, nodes: Sequence[_Node], constants: dict[str, Shape]) -> int | None:
    """The channels of the first Conv that reads an input, also through what leaves channels as they are.

    constants: the shapes of initializers by name; those of constants that nodes hold or copy are added.
    """
    alike = {name}
    for node in nodes:
        source = node.inputs[0] if node.inputs else ""
        if node.value is not None:
            constants[node.outputs[0]] = node.value
        elif node.operator in COPIES and source in constants:
            constants[node.outputs[0]] = constants[source]
        elif source in alike and node.operator in ("Conv", "ConvTranspose"):
            weight = constants.get(node.inputs[1], ()) if len(node.inputs) > 1 else ()
            if len(weight) > 2:
                return weight[1] * max(node.group, 1) if node.operator == "Conv" else weight[0]
        elif source in alike and node.operator in KEEP_CHANNELS:
            alike.update(node.outputs[:1])
    return None
