"""A network with some of its float nodes between integers: with made-up numbers, good for its time and nothing else.

The time of a kernel does not depend on scales, so nobody needs to know ranges to find out what integers would take.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.edit import Namer, insert
from dfmpc_onnx.graph.exchange import to_model
from dfmpc_onnx.graph.operators import dequantizes, is_weighted, keeps_scale, meaning_of, op_of, quantizes
from dfmpc_onnx.graph.query import constant, consumers, is_output, only_consumer, producer

SCALE, ZERO_POINT = np.float32(0.003), np.uint8(128)  # all codes of a rectified tensor lie in what a Clip to 1 leaves
OLDEST_OPSET = 10  # that has DequantizeLinear
WEIGHT_SCALE = np.float32(0.01)


def closed_twin(graph: gs.Graph, made: Collection[str]) -> onnx.ModelProto | None:
    """The graph with the nodes that make these tensors between integers; None where none has an integer kernel.

    graph: as onnxruntime leaves it before it fuses anything (`optimized_model`); it is changed.
    """
    if graph.opset < OLDEST_OPSET:
        return None
    fresh = Namer(graph)
    marked: dict[str, gs.Tensor] = {}
    closed = False
    for node in list(graph.nodes):
        if not any(tensor.name in made for tensor in node.outputs):
            continue
        if is_weighted(node) and not _give_codes(graph, node, fresh):
            continue
        around = _around(graph, node)
        closed = closed or (bool(around) and not keeps_scale(node))
        marked.update((tensor.name, tensor) for tensor in around if tensor.dtype in (None, np.dtype(np.float32)))
    if not closed:
        return None
    for tensor in marked.values():
        _round(graph, tensor, fresh)
    return to_model(graph)


def rounded_in_twin(graph: gs.Graph, made: Collection[str]) -> list[str]:
    """The names of the tensors that a twin of the graph rounds and the graph itself does not. Nothing is changed."""
    found: dict[str, None] = {}
    for node in graph.nodes:
        if not any(tensor.name in made for tensor in node.outputs):
            continue
        if is_weighted(node) and not _has_integer_kernel(node):
            continue
        for tensor in map(_unguarded, _around(graph, node)):
            if tensor.dtype in (None, np.dtype(np.float32)) and not _is_rounded(graph, tensor):
                found[tensor.name] = None
    return list(found)


def _around(graph: gs.Graph, node: gs.Node) -> list[gs.Tensor]:
    """What is rounded where a node computes in integers; nothing where it has no integer kernel."""
    if is_weighted(node):
        return [node.inputs[0], _behind(graph, node)]
    if keeps_scale(node):
        return [node.inputs[0], *node.outputs]
    if meaning_of(node).own_scale:
        return [t for t in (*node.inputs, _behind(graph, node)) if isinstance(t, gs.Variable)]
    return []


def _behind(graph: gs.Graph, node: gs.Node) -> gs.Tensor:
    """A node's output, or that of a Relu or Clip that alone reads it and becomes one kernel with it."""
    reader = only_consumer(graph, node.outputs[0])
    fused = isinstance(reader, gs.Node) and op_of(reader) in ("Relu", "Clip")
    return reader.outputs[0] if isinstance(reader, gs.Node) and fused else node.outputs[0]


def _give_codes(graph: gs.Graph, layer: gs.Node, fresh: Namer) -> bool:
    """Give a layer codes for its weight and bias, where it has an integer kernel."""
    if not _has_integer_kernel(layer):
        return False
    guard, source = producer(layer.inputs[0]), _unguarded(layer.inputs[0])
    if guard is not None and source is not layer.inputs[0]:
        layer.inputs[0] = source
        if not consumers(guard.outputs[0]):
            guard.inputs.clear()
            graph.nodes.remove(guard)
    _decode(graph, layer, 1, np.ones(_stored_weight(layer).shape, np.int8), fresh)
    if len(layer.inputs) > 2 and not layer.inputs[2].is_empty():
        bias = layer.inputs[2]
        held = producer(bias)
        shape = held.inputs[0].shape if held is not None and dequantizes(held) else bias.shape
        if shape is None:
            return False
        _decode(graph, layer, 2, np.ones(shape, np.int32), fresh)
    return True


def _has_integer_kernel(layer: gs.Node) -> bool:
    weight = _stored_weight(layer)
    rank = len(weight.shape) if constant(weight) is not None else 0
    if rank != (4 if op_of(layer) == "Conv" else 2) or op_of(layer) == "ConvTranspose":
        return False
    return all(float(layer.attrs.get(key, 1.0)) == 1.0 for key in ("alpha", "beta"))


def _stored_weight(layer: gs.Node) -> gs.Tensor:
    """A layer's weight, or its codes where it has some."""
    maker = producer(layer.inputs[1])
    return maker.inputs[0] if maker is not None and dequantizes(maker) else layer.inputs[1]


def _unguarded(tensor: gs.Tensor) -> gs.Tensor:
    """A tensor, or what stands in front of a Max that keeps its layer from integers."""
    guard = producer(tensor)
    return guard.inputs[0] if guard is not None and op_of(guard) == "Max" and len(guard.inputs) == 1 else tensor


def _decode(graph: gs.Graph, layer: gs.Node, slot: int, codes: npt.NDArray[np.integer], fresh: Namer) -> None:
    """Put a DequantizeLinear of these codes in front of a layer."""
    scale = WEIGHT_SCALE if slot == 1 else np.float32(SCALE * WEIGHT_SCALE)
    stem = fresh("closed.codes")
    made = gs.Variable(fresh(f"{stem}.out"), np.float32, codes.shape)
    inputs = [gs.Constant(stem, codes), gs.Constant(fresh(f"{stem}.scale"), np.asarray(scale))]
    if slot == 1:
        inputs.append(gs.Constant(fresh(f"{stem}.zero"), np.zeros((), np.int8)))
    node = gs.Node("DequantizeLinear", made.name, {}, inputs, [made])
    insert(graph, before={id(layer): [node]})
    layer.inputs[slot] = made


def _is_rounded(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Whether a tensor holds what codes stand for, or is nowhere read but by what makes codes of it."""
    maker, readers = producer(tensor), consumers(tensor)
    if maker is not None and dequantizes(maker):
        return True
    return bool(readers) and all(quantizes(node) for node in readers) and not is_output(graph, tensor)


def _round(graph: gs.Graph, tensor: gs.Tensor, fresh: Namer) -> None:
    """QuantizeLinear and DequantizeLinear behind a tensor, where there are none."""
    if _is_rounded(graph, tensor):
        return
    maker, readers = producer(tensor), consumers(tensor)
    stem = fresh("closed")
    source = tensor
    if is_output(graph, tensor) and maker is not None:  # which keeps its name and becomes the dequantized one
        source = gs.Variable(fresh(f"{stem}.float"), tensor.dtype, tensor.shape)
        maker.outputs = [source if t is tensor else t for t in maker.outputs]
    codes, values = gs.Variable(fresh(f"{stem}.q")), gs.Variable(fresh(f"{stem}.dq"))
    values = tensor if source is not tensor else values
    # A Relu or Clip becomes one kernel with its layer only where no code stands for less than 0.
    rectified = maker is not None and op_of(maker) in ("Relu", "Clip")
    zero = np.asarray(np.uint8(0) if rectified else ZERO_POINT)
    numbers = [gs.Constant(fresh(f"{stem}.scale"), np.asarray(SCALE)), gs.Constant(fresh(f"{stem}.zero"), zero)]
    for node in readers:
        node.inputs = [values if t is tensor else t for t in node.inputs]
    pair = [
        gs.Node("QuantizeLinear", codes.name, {}, [source, *numbers], [codes]),
        gs.Node("DequantizeLinear", fresh(f"{stem}.node"), {}, [codes, *numbers], [values]),
    ]
    if maker is None:
        insert(graph, first=pair)
    else:
        insert(graph, after={id(maker): pair})
