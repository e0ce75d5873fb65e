"""What a model says that it will compute: refused before it is tried where a runtime would not survive it.

A file of a few hundred bytes can ask for a constant or a map of terabytes (ConstantOfShape, Expand, Tile, Range, Pad,
Resize, ConvTranspose, a giant input), and a runtime works constants out while it loads the file. Others ask it to
divide by 0, to read an input that is not there, or to write out functions without an end. A Conv whose own padding is
a million columns wide has room in memory, but no end of time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import onnx
import onnx.shape_inference

from dfmpc_onnx.errors import ModelError, shown
from dfmpc_onnx.memory import machine_memory
from dfmpc_onnx.model.protos import LARGE_BYTES, all_nodes, bodies, initializers, names_read, op_of
from dfmpc_onnx.model.tensor_checks import ELEMENT_TYPES, bytes_of


class Claim(NamedTuple):
    """A tensor that would be made: its name, shape and bytes."""

    name: str
    shape: tuple[int, ...]
    bytes: int


NOTHING = Claim("", (), 0)
WINDOWED = frozenset({"Conv", "ConvTranspose"})
MOST_PADDING = 2**16  # positions by which a Conv's padding may be wider than its window


def check_claims(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise ModelError where the tensors that live at one time take more than the machine's memory.

    shapes: of the inputs, with every dimension known. Only shapes are computed. What depends on values that are not
    constant is not seen here (`memory.limit_memory`). Constants, and what follows from them alone, live throughout.
    """
    room = machine_memory()
    skeleton = _skeleton(model, shapes)
    # A Range's values are propagated one by one, which would itself fill the memory.
    propagate = not any(op_of(node) == "Range" for node in all_nodes(model))
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, strict_mode=False, data_prop=propagate)
    except Exception:  # of several kinds; what is wrong with the graph is for the checker and the runtime to say
        _check_kernels(skeleton.graph, {}, where)
        return
    _check_kernels(inferred.graph, {}, where)
    peak, largest = _peak(inferred.graph)
    if peak > room:
        raise ModelError(
            f"{where}: running it takes {peak / 1e9:.3g} GB or more, '{shown(largest.name)}' of shape "
            f"{shown(str(list(largest.shape)))} alone {largest.bytes / 1e9:.3g}; this machine has {room / 1e9:.3g}: "
            "give a smaller --input-shape, or use a machine with more"
        )


def _check_kernels(graph: onnx.GraphProto, outer: Mapping[str, Claim], where: str) -> None:
    """Raise ModelError where a Conv's window holds nothing, or most windows hold nothing but padding.

    Some shapes of the first keep onnxruntime busy for ever, the second for minutes. What a Pad adds is not bounded
    here: a waveform is filled up to half a minute.
    """
    sizes = {**outer, **_sizes(graph)}
    for node in graph.node:
        weight = sizes.get(node.input[1]) if op_of(node) in WINDOWED and len(node.input) > 1 else None
        if weight is not None and 0 in weight.shape:
            raise ModelError(
                f"{where}: the weight of {node.op_type} '{shown(node.name)}' has shape {list(weight.shape)} and holds "
                "nothing; the model is damaged"
            )
        if weight is not None and op_of(node) == "Conv" and (padded := _excess_padding(node, weight)) > MOST_PADDING:
            raise ModelError(
                f"{where}: Conv '{shown(node.name)}' pads its input by {padded} positions more than its window has; "
                "the model is damaged"
            )
        for body in bodies(node):
            _check_kernels(body, sizes, where)


def _excess_padding(node: onnx.NodeProto, weight: Claim) -> int:
    """By how much the widest padding of a Conv is wider than the window along that axis: such windows hold zeros."""
    stated = {attribute.name: attribute.ints for attribute in node.attribute}
    kernel, pads, dilations = weight.shape[2:], stated.get("pads", ()), stated.get("dilations", ())
    if len(pads) != 2 * len(kernel) or len(dilations or kernel) != len(kernel):
        return 0  # for the checker and the runtime to say
    extents = [(size - 1) * step + 1 for size, step in zip(kernel, dilations or [1] * len(kernel), strict=True)]
    return max((pad - extent for pad, extent in zip(pads, [*extents, *extents], strict=True)), default=0)


def _skeleton(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    """The model without large weights and without what it states of its tensors; inputs of the given shapes."""
    skeleton = onnx.ModelProto(ir_version=model.ir_version)
    skeleton.opset_import.extend(model.opset_import)
    skeleton.functions.extend(model.functions)
    graph = skeleton.graph
    graph.name = "claims"
    graph.node.extend(model.graph.node)
    given = {tensor.name for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        if tensor.ByteSize() < LARGE_BYTES:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for value in model.graph.input:
        if value.name not in given:
            graph.input.append(value)
            if value.name in shapes:
                kind = value.type.tensor_type.elem_type
                graph.input[-1].CopyFrom(onnx.helper.make_tensor_value_info(value.name, kind, shapes[value.name]))
    graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in model.graph.output)
    _lend(graph, {})
    return skeleton


def _lend(graph: onnx.GraphProto, outer: Mapping[str, onnx.TensorProto]) -> None:
    """Give subgraphs the small constants that they read from outside: inference looks for values in a graph alone."""
    own = initializers(graph)
    made = {name for node in graph.node for name in node.output} | {value.name for value in graph.input}
    read = {name for node in graph.node for name in names_read(node)}
    for name in sorted((read & outer.keys()) - own.keys() - made):
        graph.initializer.append(outer[name])
        own[name] = outer[name]
    for node in graph.node:
        for body in bodies(node):
            _lend(body, own)


def _peak(graph: onnx.GraphProto) -> tuple[int, Claim]:
    """The most bytes that a graph's tensors take at one time, and the largest of them, those of subgraphs included."""
    sizes = _sizes(graph)
    last = {name: index for index, node in enumerate(graph.node) for name in names_read(node)}
    last.update(dict.fromkeys((value.name for value in graph.output), len(graph.node)))
    constants = {tensor.name for tensor in graph.initializer}
    live = {name: sizes[name].bytes for name in (*constants, *(v.name for v in graph.input)) if name in sizes}
    total = peak = sum(live.values())
    largest = max(sizes.values(), key=lambda claim: claim.bytes, default=NOTHING)
    for index, node in enumerate(graph.node):
        inner = [_peak(body) for body in bodies(node)]
        largest = max([largest, *(claim for _, claim in inner)], key=lambda claim: claim.bytes)
        if not inner and all(not name or name in constants for name in node.input):
            constants.update(node.output)
        for name in node.output:
            if name in sizes and name not in live:
                live[name] = sizes[name].bytes
                total += live[name]
        peak = max(peak, total + sum(bytes_ for bytes_, _ in inner))
        for name in {*node.input, *node.output}:
            if name in live and name not in constants and last.get(name, index) <= index:
                total -= live.pop(name)
    return peak, largest


def _sizes(graph: onnx.GraphProto) -> dict[str, Claim]:
    """Shape and bytes of each tensor whose type is known; a dimension that is not known counts as 1."""
    sizes: dict[str, Claim] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if kind.elem_type in ELEMENT_TYPES and kind.HasField("shape"):
            shape = tuple(max(d.dim_value, 0) if d.HasField("dim_value") else 1 for d in kind.shape.dim)
            sizes[value.name] = Claim(value.name, shape, bytes_of(shape, kind.elem_type))
    for tensor in graph.initializer:
        shape = tuple(tensor.dims)
        sizes[tensor.name] = Claim(tensor.name, shape, bytes_of(shape, tensor.data_type))
    return sizes
