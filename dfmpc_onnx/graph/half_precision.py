"""Networks in float16 or bfloat16: computed in float32 while they are worked on, and stored as they were again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import onnx
import onnx.shape_inference
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import shown
from dfmpc_onnx.graph.edit import Namer, copy_graph, detached_weights, insert, remove, replace_reads
from dfmpc_onnx.graph.operators import dequantizes, is_standard, is_weighted, op_of, quantizes
from dfmpc_onnx.graph.opset import ConversionRefused
from dfmpc_onnx.graph.query import constant, element_type

HALF = {"float16": int(onnx.TensorProto.FLOAT16), "bfloat16": int(onnx.TensorProto.BFLOAT16)}
FLOAT_TYPE = int(onnx.TensorProto.FLOAT)
LEAST = 256  # values of a constant below which a Cast would take more bytes than it saves
TYPED = ("to", "dtype", "output_dtype")  # attributes that name a type


@dataclasses.dataclass(frozen=True)
class HalfPrecision:
    """What was in half precision in the file, and is float32 until the result is emitted.

    stored: float16 or bfloat16, whichever most constants are of. inputs, outputs: those of the model by name, with
    the type that each has.
    """

    stored: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def half_type(tensor: gs.Tensor) -> str | None:
    """float16 or bfloat16, where a tensor is of that type."""
    kind = element_type(tensor)
    return kind.name if kind is not None and kind.name in HALF else None


def has_half_layers(graph: gs.Graph) -> bool:
    """Whether a layer has a weight in half precision."""
    return any(is_weighted(node) and len(node.inputs) > 1 and half_type(node.inputs[1]) for node in graph.nodes)


def widen(graph: gs.Graph) -> tuple[gs.Graph, HalfPrecision]:
    """The same network with every half-precision tensor in float32, inputs and outputs too; `restore` gives those back.

    Exact but for the roundings of the half-precision network, which are no longer made. Types of all tensors must
    have been inferred. Raises ConversionRefused where an operator of another domain may want half precision, where
    control flow or functions of the model's own hold some, or where the widened graph does not type-check.
    """
    foreign = next((n for n in graph.nodes if not is_standard(n) and _touches(n)), None)
    if foreign is not None:
        named = f"{shown(foreign.op)} '{shown(foreign.name)}' of domain '{shown(foreign.domain)}'"
        raise ConversionRefused(f"{named} may want half precision")
    bodies = [n for n in graph.nodes if any(isinstance(v, gs.Graph) for v in n.attrs.values())]
    if graph.functions or any(_touches(inner) for outer in bodies for inner in _within(outer)):
        raise ConversionRefused("control flow or functions of the model's own compute in half precision")
    types = [t for tensor in (*graph.inputs, *graph.outputs) if (t := half_type(tensor))]
    types += [t for node in graph.nodes for tensor in node.inputs if (t := half_type(tensor))]
    half = HalfPrecision(
        max(set(types), key=types.count),
        {t.name: kind for t in graph.inputs if (kind := half_type(t))},
        {t.name: kind for t in graph.outputs if (kind := half_type(t))},
    )
    result = copy_graph(graph)
    for tensor in _tensors(result):
        if half_type(tensor) is None:
            continue
        values = constant(tensor)
        if values is not None:
            # A new one: graphsurgeon remembers what type the old one is to be written in.
            replace_reads(tensor, gs.Constant(tensor.name, values.astype(np.float32)))
        else:
            tensor.dtype = np.dtype(np.float32)
    for node in result.nodes:
        for key in TYPED:
            if node.attrs.get(key) in HALF.values():
                node.attrs[key] = FLOAT_TYPE
        value = node.attrs.get("value")
        if isinstance(value, gs.Constant) and half_type(value):
            node.attrs["value"] = gs.Constant(value.name, np.asarray(constant(value)).astype(np.float32))
    _drop_idle_casts(result)
    _check_types(result)
    return result, half


def restore(graph: gs.Graph, half: HalfPrecision) -> None:
    """Give inputs and outputs their half-precision types back, and store constants in half precision where exact."""
    names = Namer(graph)
    first: list[gs.Node] = []
    after: dict[int, list[gs.Node]] = {}
    for index, tensor in enumerate(graph.inputs):
        if tensor.name in half.inputs:
            given = gs.Variable(tensor.name, _dtype(half.inputs[tensor.name]), tensor.shape)
            tensor.name = names(f"{tensor.name}.float32")
            graph.inputs[index] = given
            first.append(_cast(given, tensor, FLOAT_TYPE, names))
    for index, tensor in enumerate(graph.outputs):
        name = tensor.name
        kind = half.outputs.get(name) or (half.inputs.get(name.removesuffix(".float32")) if not tensor.inputs else None)
        if kind is None:
            continue
        result = gs.Variable(name, _dtype(kind), tensor.shape)
        tensor.name = names(f"{name}.float32")
        graph.outputs[index] = result
        node = _cast(tensor, result, HALF[kind], names)
        if tensor.inputs:
            after.setdefault(id(tensor.inputs[0]), []).append(node)
        else:
            first.append(node)
    first.extend(_narrow(graph, half.stored, names))
    insert(graph, first=first, after=after)


def _narrow(graph: gs.Graph, stored: str, names: Namer) -> Iterator[gs.Node]:
    """Casts for the constants that half precision holds exactly: runtimes fold them at load."""
    readers: dict[int, list[gs.Node]] = {}
    constants: dict[int, gs.Constant] = {}
    for node in graph.nodes:
        for tensor in node.inputs:
            if (
                isinstance(tensor, gs.Constant)
                and element_type(tensor) == np.float32
                and np.prod(tensor.shape) >= LEAST
            ):
                constants[id(tensor)] = tensor
                readers.setdefault(id(tensor), []).append(node)
    for key, tensor in constants.items():
        if any(quantizes(node) or dequantizes(node) for node in readers[key]):
            continue
        values = np.asarray(tensor.values)
        with np.errstate(over="ignore"):
            small = values.astype(_dtype(stored))
        if not np.array_equal(small.astype(np.float32), values, equal_nan=True):
            continue
        wide = gs.Variable(names(f"{tensor.name}.float32"), np.float32, values.shape)
        narrow = gs.Constant(names(f"{tensor.name}.half"), _exportable(small))
        for node in readers[key]:
            node.inputs = [wide if t is tensor else t for t in node.inputs]
        yield _cast(narrow, wide, FLOAT_TYPE, names)


def _exportable(values: npt.NDArray[np.generic]) -> object:
    """What a Constant can be made of: graphsurgeon takes no bfloat16 from numpy."""
    if values.dtype.isbuiltin == 1:
        return values
    from onnx_graphsurgeon.ir.tensor import LazyValues

    return LazyValues(onnx.numpy_helper.from_array(values))


def _cast(source: gs.Tensor, result: gs.Tensor, to: int, names: Namer) -> gs.Node:
    return gs.Node("Cast", names(f"{result.name}.Cast"), {"to": to}, [source], [result])


def _dtype(name: str) -> np.dtype[np.generic]:
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(HALF[name]))


def _touches(node: gs.Node) -> bool:
    return any(half_type(t) for t in (*node.inputs, *node.outputs))


def _within(node: gs.Node) -> Iterator[gs.Node]:
    for body in node.attrs.values():
        if isinstance(body, gs.Graph):
            for inner in body.nodes:
                yield inner
                yield from _within(inner)


def _tensors(graph: gs.Graph) -> list[gs.Tensor]:
    found = {id(t): t for t in (*graph.inputs, *graph.outputs)}
    for node in graph.nodes:
        found.update({id(t): t for t in (*node.inputs, *node.outputs)})
    return list(found.values())


def _drop_idle_casts(graph: gs.Graph) -> None:
    """Take off the Casts from float32 to float32 that widening has left, but for those that name an output."""
    outputs = {id(t) for t in graph.outputs}
    dead = []
    for node in graph.nodes:
        if op_of(node) != "Cast" or node.attrs.get("to") != FLOAT_TYPE or id(node.outputs[0]) in outputs:
            continue
        source, output = node.inputs[0], node.outputs[0]
        if element_type(source) == np.float32:
            replace_reads(output, source)
            dead.append(node)
    remove(graph, dead)


def _check_types(graph: gs.Graph) -> None:
    with detached_weights(graph):
        skeleton = gs.export_onnx(graph, ir_version=graph.ir_version)
    del skeleton.graph.value_info[:]
    try:
        onnx.shape_inference.infer_shapes(skeleton, check_type=True, strict_mode=True)
    except Exception as error:  # onnx raises InferenceError, and others of C++ origin
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ConversionRefused(f"in float32 it does not type-check ({lines[0].strip()})") from None
