"""The plain form of a quantized file: packed weights as INT8 initializers with a DequantizeLinear each.

onnxruntime works out the nodes that decode packed weights when it loads a file. Tools that parse ONNX themselves mostly
know neither the narrow types nor what such nodes are for; for them the decoding is done here, once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
import onnx
import onnx.version_converter
from onnx import numpy_helper

from dfmpc_onnx.errors import ModelError, shown
from dfmpc_onnx.graph.exchange import lowest_ir_version
from dfmpc_onnx.model.protos import bodies
from dfmpc_onnx.numerics.arrays import Array
from dfmpc_onnx.qdq.code_formats import OLDEST_WITH_TABLES

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclasses.dataclass(frozen=True)
class Expanded:
    """The plain model, and the layers whose weights were packed before."""

    model: onnx.ModelProto
    layers: tuple[str, ...]


def expand(model: onnx.ModelProto, label: str) -> Expanded:
    """A copy of the model in which every packed weight is ``DequantizeLinear(INT8 codes, scale, 0)``, bit for bit.

    Opset and IR version are the lowest that onnx converts what is left to. Raises ModelError where nothing is packed.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found = [site for node in graph.node if (site := _site(node, makers, constants)) is not None]
    if not found:
        raise ModelError(f"{label}: none of its weights is packed; it is in the plain form already")
    try:
        values = _worked_out(model, [site.codes for site in found], makers, constants)
    except MemoryError:
        raise
    except Exception as error:  # onnx's reference raises what numpy does, and errors of its own
        raise ModelError(
            f"{label}: what decodes its weights cannot be worked out ({shown(str(error).partition(chr(10))[0])}); the "
            "file is damaged"
        ) from None
    fresh = _Fresh(graph)
    for site, codes in zip(found, values, strict=True):
        site.unpack(np.asarray(codes), fresh, graph)
    _drop_unread(graph)
    return Expanded(_lowered(result), tuple(site.layer for site in found))


class _Fresh:
    """Names that nothing in the graph has yet; constants of equal value that are added once."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._taken = {name for node in graph.node for name in (*node.input, *node.output)}
        self._taken.update(tensor.name for tensor in graph.initializer)
        self._zeros: dict[tuple[int, ...], str] = {}

    def add(self, stem: str, values: Array) -> str:
        """A new initializer; returns its name."""
        name, count = stem, 1
        while name in self._taken:
            name, count = f"{stem}_{count}", count + 1
        self._taken.add(name)
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def zero(self, shape: tuple[int, ...]) -> str:
        """The zero point 0 for a scale of this shape: layers share it."""
        if shape not in self._zeros:
            self._zeros[shape] = self.add("zero_point", np.zeros(shape, np.int8))
        return self._zeros[shape]


@dataclasses.dataclass(frozen=True)
class _Site:
    """One packed weight. end: the node that makes the float weight; codes: the tensor of its codes as numbers."""

    layer: str
    end: onnx.NodeProto
    codes: str
    scale: Array
    zero: Array | None = None

    def unpack(self, codes: Array, fresh: _Fresh, graph: onnx.GraphProto) -> None:
        """Make the end of the chain a DequantizeLinear over plain codes."""
        if self.end.op_type == "DequantizeLinear":
            self.end.input[0] = fresh.add(f"{self.layer}.codes", np.asarray(codes, np.int8))
            return
        scale, numbers = np.asarray(self.scale, np.float32), codes.astype(np.float32)
        point = np.float32(0) if self.zero is None else np.asarray(self.zero, np.float32)
        zero = np.broadcast_to(point, scale.shape)
        if np.any(zero != np.rint(zero)):  # half steps: s (q + 1/2) = (s / 2) (2 q + 1)
            numbers, scale, zero = 2 * numbers, scale / np.float32(2), 2 * zero
        least = (numbers - zero).min(initial=0), (numbers - zero).max(initial=0)
        if least[0] >= -128 and least[1] <= 127:
            numbers, zero = numbers - zero, np.zeros_like(scale)
        axis = int(np.argmax(scale.shape)) if scale.size > 1 else None
        flat = scale.reshape(-1) if axis is not None else scale.reshape(())
        whole = zero.astype(np.int8).reshape(flat.shape)
        inputs = [
            fresh.add(f"{self.layer}.codes", numbers.astype(np.int8)),
            fresh.add(f"{self.layer}.scale", flat),
            fresh.add(f"{self.layer}.zero_point", whole) if whole.any() else fresh.zero(flat.shape),
        ]
        node = onnx.helper.make_node("DequantizeLinear", inputs, self.end.output, self.end.name)
        if axis is not None:
            node.attribute.append(onnx.helper.make_attribute("axis", axis))
        self.end.CopyFrom(node)


def _site(
    node: onnx.NodeProto, makers: dict[str, onnx.NodeProto], constants: dict[str, onnx.TensorProto]
) -> _Site | None:
    """The packed weight of a layer; None where it is plain, or float."""
    if node.op_type not in WEIGHTED or node.domain not in ("", "ai.onnx") or len(node.input) < 2:
        return None
    end = makers.get(node.input[1])
    if end is None or end.op_type not in ("DequantizeLinear", "Mul") or end.input[0] in constants:
        return None
    if end.input[1] not in constants or not _is_constant(end.input[0], makers, constants):
        return None
    scale = numpy_helper.to_array(constants[end.input[1]])
    if end.op_type == "DequantizeLinear":
        return _Site(node.name, end, end.input[0], scale)
    before = makers[end.input[0]]
    if before.op_type == "Sub" and before.input[1] in constants:
        return _Site(node.name, end, before.input[0], scale, numpy_helper.to_array(constants[before.input[1]]))
    return _Site(node.name, end, end.input[0], scale)


def _ancestors(names: Iterable[str], makers: dict[str, onnx.NodeProto]) -> Iterator[tuple[str, onnx.NodeProto | None]]:
    """Every tensor that tensors are computed from, themselves included, with the node that makes it."""
    stack, seen = list(names), set()
    while stack:
        name = stack.pop()
        if name and name not in seen:
            seen.add(name)
            node = makers.get(name)
            stack.extend(node.input if node is not None else ())
            yield name, node


def _is_constant(name: str, makers: dict[str, onnx.NodeProto], constants: dict[str, onnx.TensorProto]) -> bool:
    """Whether a tensor comes of initializers alone, by operators without bodies: a Loop might never end."""
    return all(
        tensor in constants if node is None else not any(bodies(node)) for tensor, node in _ancestors([name], makers)
    )


def _worked_out(
    model: onnx.ModelProto,
    names: list[str],
    makers: dict[str, onnx.NodeProto],
    constants: dict[str, onnx.TensorProto],
) -> list[Array]:
    """The values of tensors that depend on initializers alone, by ONNX's own reference of its operators."""
    from onnx.reference import ReferenceEvaluator  # loads every operator there is: only where it is needed

    behind = dict(_ancestors(names, makers))
    nodes = [node for node in model.graph.node if any(name in behind for name in node.output)]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in names]
    graph = onnx.helper.make_graph(nodes, "codes", [], outputs, [constants[n] for n in behind if n in constants])
    alone = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return [np.asarray(values) for values in ReferenceEvaluator(alone).run(None, {})]


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Take off the nodes, initializers and shapes that no output depends on any more."""
    read = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if any(name in read for name in node.output):
            kept.append(node)
            read.update(node.input)
            read.update(_captured(node))
    nodes, tensors = kept[::-1], [tensor for tensor in graph.initializer if tensor.name in read]
    made = {name for node in nodes for name in node.output}
    shapes = [info for info in graph.value_info if info.name in made]
    for field, left in ((graph.node, nodes), (graph.initializer, tensors), (graph.value_info, shapes)):
        copies = [type(item)() for item in left]
        for copy, item in zip(copies, left, strict=True):
            copy.CopyFrom(item)
        del field[:]
        field.extend(copies)


def _captured(node: onnx.NodeProto) -> Iterator[str]:
    """What the bodies of a control-flow node may read from outside."""
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            yield from (value.name for value in body.output)
            for inner in body.node:
                yield from inner.input
                yield from _captured(inner)


def _lowered(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in the lowest opset from 13 on that onnx converts it to, and the lowest IR version for that."""
    own = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    result = model
    for version in range(OLDEST_WITH_TABLES, own):
        try:
            lower = onnx.version_converter.convert_version(model, version)
            onnx.checker.check_model(lower, full_check=True)
        except Exception:  # the converter raises RuntimeError, ConvertError and others of C++ origin
            continue
        result = lower
        break
    result.ir_version = lowest_ir_version(result)
    return result
