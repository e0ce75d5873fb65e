"""What stands beside integer layers: what works on codes, what reads floats, and what onnxruntime must not fuse."""

from __future__ import annotations

from collections.abc import Collection

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.edit import Namer, insert, remove
from dfmpc_onnx.graph.operators import dequantizes, is_weighted, keeps_scale, op_of, quantizes
from dfmpc_onnx.graph.query import (
    constant,
    consumers,
    element_type,
    has_input,
    input_constant,
    is_output,
    nodes_by_name,
    only_consumer,
    producer,
)
from dfmpc_onnx.pipeline.facts import Layers

FOUR_BITS = frozenset({np.dtype(ml_dtypes.uint4), np.dtype(ml_dtypes.int4)})  # codes that no integer kernel takes


def pool_floats(graph: gs.Graph, pools: frozenset[str], own: set[int], names: Namer) -> None:
    """Let MaxPools read what was quantized for others before it was. own: as in `read_float`.

    onnxruntime moves a QuantizeLinear from behind a MaxPool in front of it (seen in 1.32); it moves none past a Max of
    one input, which changes no value. May go when its MaxPool of codes is fast with channels first.
    """
    before: dict[int, list[gs.Node]] = {}
    for node in graph.nodes:
        source = producer(node.inputs[0]) if node.name in pools else None
        if source is not None and dequantizes(source) and id(source) not in own:
            quantizer = producer(source.inputs[0])
            if quantizer is not None and quantizes(quantizer):
                node.inputs[0] = quantizer.inputs[0]
        for reader in consumers(node.outputs[0]) if node.name in pools else ():
            if quantizes(reader):
                same = gs.Variable(names(f"{node.name}.float"))
                before[id(reader)] = [gs.Node("Max", same.name, {}, [reader.inputs[0]], [same])]
                reader.inputs[0] = same
    insert(graph, before=before)


def pad_codes(graph: gs.Graph) -> None:
    """Let every Pad with zeros between tensors of one scale work on the codes: onnxruntime fuses none."""
    dead: list[gs.Node] = []
    for node in graph.nodes:
        if op_of(node) != "Pad" or not keeps_scale(node):
            continue
        before, after = producer(node.inputs[0]) if node.inputs else None, only_consumer(graph, node.outputs[0])
        if before is None or isinstance(after, str):
            continue
        if not (dequantizes(before) and quantizes(after)) or input_constant(before, 1) != input_constant(after, 1):
            continue
        node.inputs = [before.inputs[0], node.inputs[1], after.inputs[2], *node.inputs[3:]]
        node.outputs = list(after.outputs)
        dead += [after] if consumers(before.outputs[0]) else [after, before]
    remove(graph, dead)


def read_float(graph: gs.Graph, layers: Layers, integer: frozenset[str], own: set[int]) -> list[str]:
    """Let float layers read what was quantized for others before it was; returns which.

    own: the DequantizeLinear, by ``id``, that the model had before; what reads them was trained to.
    """
    nodes = nodes_by_name(graph)
    found = []
    for layer in layers.all:
        node = nodes[layer.name]
        source = producer(node.inputs[0])
        if layer.name not in integer and source is not None and dequantizes(source) and id(source) not in own:
            quantizer = producer(source.inputs[0])
            assert quantizer is not None  # of those put in, each has one in front
            node.inputs[0] = quantizer.inputs[0]
            found.append(layer.name)
    return found


def read_beside_layers(graph: gs.Graph, integer: frozenset[str], own: set[int]) -> None:
    """Let all but the integer layers read what was quantized for these before it was, as sums do.

    own: as in `read_float`. Few bits are for the products of layers; what a sum or an average adds is not rounded.
    """
    for node in graph.nodes:
        for index, tensor in enumerate(node.inputs) if node.name not in integer else ():
            source = producer(tensor) if isinstance(tensor, gs.Variable) else None
            if source is None or not dequantizes(source) or id(source) in own:
                continue
            quantizer = producer(source.inputs[0])
            if quantizer is not None and quantizes(quantizer):
                node.inputs[index] = quantizer.inputs[0]


def part_from_quantizers(graph: gs.Graph, names: Namer) -> None:
    """Put a Max of one input, which changes no value, in front of every quantizer to 4 bits that it would be moved by.

    onnxruntime (seen in 1.20 and 1.32) makes a QLinearConv of a layer between a DequantizeLinear and a QuantizeLinear
    of any one type, and moves a QuantizeLinear in front of what only moves values; it then refuses the 4-bit codes that
    these kernels do not take. It compares a Clip with the range of the codes, and knows none of 4 bits. The file does
    not load then. May go when that is fixed.
    """
    before: dict[int, list[gs.Node]] = {}
    for node in graph.nodes:
        if not quantizes(node) or not has_input(node, 2) or element_type(node.inputs[2]) not in FOUR_BITS:
            continue
        source = producer(node.inputs[0])
        clips = source is not None and op_of(source) in ("Relu", "Clip")
        if source is not None and (clips or is_weighted(source) or keeps_scale(source)):
            same = gs.Variable(names(f"{node.name}.float"))
            before[id(node)] = [gs.Node("Max", same.name, {}, [node.inputs[0]], [same])]
            node.inputs[0] = same
    insert(graph, before=before)


def move_float(graph: gs.Graph, own: set[int], *, to_floats: bool = False) -> None:
    """Let operators that only move values read what was quantized for others before it was.

    own: the DequantizeLinear, by ``id``, that the model had before; what they give stays. What is quantized behind
    takes the same scale, so for layers no number changes; others read floats. onnxruntime 1.32 quantizes again behind
    such an operator, in opsets from 21 on as if zero points were uint8, and then refuses the int8 ones. May go when
    that is fixed (onnxruntime issue 25526). to_floats: only those operators that something reads as floats.
    """
    for node in graph.nodes:
        source = producer(node.inputs[0]) if keeps_scale(node) else None
        if to_floats and all(quantizes(reader) for reader in consumers(node.outputs[0])):
            continue
        if source is None or not dequantizes(source) or id(source) in own:
            continue
        quantizer = producer(source.inputs[0])
        if quantizer is not None and quantizes(quantizer):
            node.inputs[0] = quantizer.inputs[0]


def keep_from_gemm(graph: gs.Graph, integer: frozenset[str], names: Namer) -> None:
    """Give the biases behind integer MatMuls a second dimension, ``[channels]`` to ``[1, channels]``.

    Of MatMul and Add onnxruntime makes a Gemm between two Reshapes where the bias has one dimension, and quantizes
    again behind the first as if zero points were uint8, as in `move_float`.
    """
    for node in graph.nodes:
        if node.name not in integer or op_of(node) != "MatMul":
            continue
        flat = node.outputs[0].shape is not None and len(node.outputs[0].shape) < 3  # becomes a Gemm without Reshapes
        for reader in () if flat else consumers(node.outputs[0]):
            for index, tensor in enumerate(reader.inputs):
                bias = constant(tensor) if op_of(reader) == "Add" else None
                if bias is not None and bias.ndim == 1:
                    reader.inputs[index] = gs.Constant(names(f"{node.name}.bias"), bias[np.newaxis])


def keep_from_relu(graph: gs.Graph, integer: frozenset[str], names: Namer) -> None:
    """Keep integer Gemms that give floats from the Relu or Clip behind them: onnxruntime computes both in float.

    Seen in 1.32 where nothing quantizes behind the Relu or Clip. A Max of one input changes no value and is not
    optimized away.
    """
    before: dict[int, list[gs.Node]] = {}
    for node in graph.nodes:
        relu = only_consumer(graph, node.outputs[0]) if node.name in integer and op_of(node) == "Gemm" else ""
        if isinstance(relu, str) or op_of(relu) not in ("Relu", "Clip"):
            continue
        reader = only_consumer(graph, relu.outputs[0])
        if isinstance(reader, str) or not quantizes(reader):
            same = gs.Variable(names(f"{node.name}.float"))
            before[id(relu)] = [gs.Node("Max", same.name, {}, [relu.inputs[0]], [same])]
            relu.inputs[0] = same
    insert(graph, before=before)


def part_from_sums(graph: gs.Graph, coded: Collection[str], names: Namer) -> None:
    """Give an output of the model that a Conv makes and a sum reads to an Identity of its own.

    onnxruntime (seen in 1.32) fuses two Convs and the Add of both to one node, unless their weights are constants, and
    forgets that one of them is an output; the file does not load then, in the plain form least of all. An Identity
    behind what is read elsewhere too stays. coded: the layers whose weights are decoded.
    """
    after: dict[int, list[gs.Node]] = {}
    for node in graph.nodes:
        if node.name not in coded or op_of(node) != "Conv" or not is_output(graph, node.outputs[0]):
            continue
        output, readers = node.outputs[0], consumers(node.outputs[0])
        if any(op_of(reader) == "Add" for reader in readers):
            read = gs.Variable(names(f"{node.name}.read"), output.dtype, output.shape)
            for reader in readers:
                reader.inputs = [read if tensor is output else tensor for tensor in reader.inputs]
            node.outputs = [read]
            after[id(node)] = [gs.Node("Identity", names(f"{node.name}.output"), {}, [read], [output])]
    insert(graph, after=after)


def guard_float_layers(
    graph: gs.Graph, layers: Layers, integer: frozenset[str], names: Namer, operands: int = 1
) -> list[str]:
    """Keep float layers float: onnxruntime quantizes the float weight of a layer between QDQ nodes by itself.

    It looks for a DequantizeLinear right in front of the layer (WeightBiasQuantization, seen in 1.31), having moved it
    behind what only moves values, such as Reshape (QDQPropagation). A Max of one input changes no value and is not
    optimized away, so the layer no longer fits. May go when onnxruntime leaves such layers alone. operands: how often
    the Max reads the tensor; QNN takes no Max of one.
    """
    nodes = nodes_by_name(graph)
    before: dict[int, list[gs.Node]] = {}
    for layer in layers.all:
        node = nodes[layer.name]
        if layer.name in integer or not _is_dequantized(node.inputs[0]):
            continue
        decoder = producer(node.inputs[1])
        if decoder is not None and dequantizes(decoder):
            continue  # quantized before it came here: it shall fuse
        same = gs.Variable(names(f"{layer.name}.float_input"))
        before[id(node)] = [gs.Node("Max", names(f"{layer.name}.Max"), {}, [node.inputs[0]] * operands, [same])]
        node.inputs[0] = same
    insert(graph, before=before)
    return [layer.name for layer in layers.all if id(nodes[layer.name]) in before]


def _is_dequantized(tensor: gs.Tensor) -> bool:
    """Whether a DequantizeLinear makes a tensor, or what it is moved from."""
    source = producer(tensor)
    while source is not None and keeps_scale(source):
        source = producer(source.inputs[0])
    return source is not None and dequantizes(source)
