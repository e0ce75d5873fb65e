"""The plain form of a quantized file: packed weights as INT8 initializers with a DequantizeLinear each.

onnxruntime works out the nodes that decode packed weights when it loads a file. Tools that parse ONNX themselves mostly
know neither the narrow types nor what such nodes are for; for them the decoding is done here, once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re

import numpy as np
import onnx
import onnx.version_converter
from onnx import numpy_helper

from dfmpc_onnx.errors import ModelError, shown
from dfmpc_onnx.graph.exchange import lowest_ir_version
from dfmpc_onnx.model.protos import every_node, nodes_behind, op_of, put_in, standard_opset
from dfmpc_onnx.numerics.arrays import Array
from dfmpc_onnx.qdq.code_formats import OLDEST_WITH_TABLES
from dfmpc_onnx.qdq.decode_chains import DecodeChain, DecodeChains
from dfmpc_onnx.qdq.decoded_weights import weights_that_differ

NO_STEP_DOWN = re.compile(r"No Adapter From Version \$(\d+)")  # as onnx's converter says which step it cannot take
OLDEST_BY_CHANNEL, OLDEST_OF_HALVES = 13, 19  # opsets whose DequantizeLinear has an axis; gives float16


@dataclasses.dataclass(frozen=True)
class Unpacked:
    """The plain model, and the layers whose weights were packed before."""

    model: onnx.ModelProto
    layers: tuple[str, ...]


def expand(model: onnx.ModelProto, label: str) -> Unpacked:
    """A copy of the model in which every packed weight is ``DequantizeLinear(INT8 codes, scale, 0)``, bit for bit.

    Opset and IR version are the lowest that onnx converts what is left to. Raises ModelError where nothing is packed,
    where the opset has no DequantizeLinear by channel, and where a layer would not read the same weight, bit for bit.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    chains = DecodeChains(graph)
    read = [(node, chain) for node in graph.node if (chain := chains.of_layer(node)) is not None]
    packed = {node.name: chain for node, chain in read if not chain.plain}
    if not packed:
        raise ModelError(f"{label}: none of its weights is packed; it is in the plain form already")
    own = standard_opset(result)
    if own < OLDEST_BY_CHANNEL:  # as where a body keeps the model from being raised
        raise ModelError(
            f"{label}: DequantizeLinear of its opset {own} takes no scale by channel (from {OLDEST_BY_CHANNEL} on it "
            "does); its weights stay packed"
        )
    halves = own >= OLDEST_OF_HALVES
    products = {chain.weight for node, chain in read if not chain.integer and _is_plain_product(node)}
    fresh = _Fresh(graph)
    done: set[str] = set()
    casts: list[onnx.NodeProto] = []
    try:
        for layer, chain in packed.items():
            if chain.weight not in done:  # layers may share a weight
                casts += _unpack(layer, chain, fresh, halves=halves)
            done.add(chain.weight)
        _put_behind(graph, casts)
        _keep_float(graph, done & products, fresh)
        _drop_unread(graph)
        result = _lower_opset(result)
        lost = weights_that_differ(model, result, done)
    except (ValueError, IndexError, TypeError) as error:
        raise ModelError(
            f"{label}: what decodes its weights cannot be worked out ({shown(str(error).partition(chr(10))[0])}); the "
            "file is damaged"
        ) from None
    for layer, chain in packed.items():
        if chain.weight in lost:
            raise ModelError(f"{label}: '{shown(layer)}' would not read the same weight, bit for bit; it stays packed")
    return Unpacked(result, tuple(packed))


def _is_plain_product(node: onnx.NodeProto) -> bool:
    """Whether onnxruntime makes MatMulNBits of a layer behind a DequantizeLinear: of MatMul, of Gemm without transB."""
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return op_of(node) == "MatMul" or (op_of(node) == "Gemm" and not transposed)


def _keep_float(graph: onnx.GraphProto, weights: set[str], fresh: _Fresh) -> None:
    """Put a Max of one input between each of these weights and its layers.

    onnxruntime (seen in 1.32) makes MatMulNBits of DequantizeLinear and MatMul, and rounds activations that are to be
    float to 8 bits in it. A Max of one input changes no value and is not optimized away.
    """
    nodes = []
    for node in graph.node:
        nodes.append(node)
        if weights.isdisjoint(node.output):
            continue
        weight = node.output[0]
        node.output[0] = fresh.name(f"{weight}.decoded")
        nodes.append(onnx.helper.make_node("Max", [node.output[0]], [weight], fresh.name(f"{weight}.Max")))
    put_in(graph.node, nodes)


class _Fresh:
    """Names that nothing in the graph has yet; constants of equal value that are added once."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._taken = {name for node in every_node(graph.node) for name in (*node.input, *node.output)}
        self._taken.update(tensor.name for tensor in graph.initializer)
        self._next: dict[str, int] = {}
        self._zeros: dict[tuple[int, ...], str] = {}
        self._codes: dict[tuple[tuple[int, ...], bytes], str] = {}

    def name(self, stem: str) -> str:
        """A new name."""
        name, count = stem, self._next.get(stem, 1)
        while name in self._taken:
            name, count = f"{stem}_{count}", count + 1
        self._taken.add(name)
        self._next[stem] = count
        return name

    def add(self, stem: str, values: Array) -> str:
        """A new initializer; returns its name."""
        name = self.name(stem)
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def codes(self, stem: str, values: Array) -> str:
        """An initializer of codes, a new one unless the same are there: layers may share them."""
        key = values.shape, hashlib.sha256(np.ascontiguousarray(values).data).digest()
        if key not in self._codes:
            self._codes[key] = self.add(stem, values)
        return self._codes[key]

    def zero(self, shape: tuple[int, ...]) -> str:
        """The zero point 0 for a scale of this shape: layers share it."""
        if shape not in self._zeros:
            self._zeros[shape] = self.add("zero_point", np.zeros(shape, np.int8))
        return self._zeros[shape]


def _put_behind(graph: onnx.GraphProto, casts: list[onnx.NodeProto]) -> None:
    """Put each of these nodes behind the one that makes what it reads."""
    behind = {cast.input[0]: cast for cast in casts}
    nodes = ((node, *(behind[name] for name in node.output if name in behind)) for node in graph.node)
    put_in(graph.node, [node for group in nodes for node in group])


def _unpack(layer: str, chain: DecodeChain, fresh: _Fresh, *, halves: bool) -> list[onnx.NodeProto]:
    """Make the end of a chain a DequantizeLinear over plain codes, of the same values bit for bit.

    halves: whether one may give float16; else it gives float32, of which the Cast that is returned makes float16: the
    product of a code and a float16 scale is exact in float32, so it is rounded once either way. Raises ValueError or
    IndexError where the file is damaged.
    """
    end, codes = chain.end, chain.codes()
    if chain.integer:
        steps = (codes - chain.zero().astype(np.int32)).astype(np.int8)
        end.input[0] = fresh.codes(f"{layer}.codes", steps)
        return []
    scale, numbers = chain.scale(), codes.astype(np.float32)
    zero = np.broadcast_to(chain.zero(), scale.shape)
    if np.any(zero != np.rint(zero)):  # half steps: s (q + 1/2) = (s / 2) (2 q + 1)
        numbers, scale, zero = 2 * numbers, scale / np.float32(2), 2 * zero
    least = (numbers - zero).min(initial=0), (numbers - zero).max(initial=0)
    if least[0] >= -128 and least[1] <= 127:
        numbers, zero = numbers - zero, np.zeros_like(scale)
    axis = int(np.argmax(scale.shape)) if scale.size > 1 else None
    flat = scale.reshape(-1) if axis is not None else scale.reshape(())
    whole = zero.astype(np.int8).reshape(flat.shape)
    cast = np.dtype(chain.float_type) == np.float16 and not halves
    inputs = [
        fresh.codes(f"{layer}.codes", numbers.astype(np.int8)),
        fresh.add(f"{layer}.scale", flat.astype(np.float32 if cast else chain.float_type)),
        fresh.add(f"{layer}.zero_point", whole) if whole.any() else fresh.zero(flat.shape),
    ]
    node = onnx.helper.make_node("DequantizeLinear", inputs, end.output, end.name)
    weight = node.output[0]
    if cast:
        node.output[0] = fresh.name(f"{weight}.float32")
    if axis is not None:
        node.attribute.append(onnx.helper.make_attribute("axis", axis))
    end.CopyFrom(node)
    to = onnx.TensorProto.FLOAT16
    name = f"{weight}.Cast"
    return [onnx.helper.make_node("Cast", [node.output[0]], [weight], fresh.name(name), to=to)] if cast else []


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Take off the nodes, initializers and shapes that no output depends on any more."""
    nodes, read = nodes_behind(graph.node, (value.name for value in graph.output))
    made = {name for node in nodes for name in node.output}
    put_in(graph.node, nodes)
    put_in(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in read])
    put_in(graph.value_info, [info for info in graph.value_info if info.name in made])


def _lower_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in the lowest opset from 13 on that onnx converts it to, and the lowest IR version for that."""
    own = standard_opset(model)
    result, version = model, OLDEST_WITH_TABLES
    while version < own:
        try:
            lower = onnx.version_converter.convert_version(model, version)
            onnx.checker.check_model(lower, full_check=True)
        except Exception as error:  # the converter raises RuntimeError, ConvertError and others of C++ origin
            # It goes down step by step: where one cannot be taken, none below it is reached.
            stuck = NO_STEP_DOWN.search(str(error))
            version = max(version + 1, int(stuck[1]) if stuck else 0)
            continue
        result = lower
        break
    result.ir_version = lowest_ir_version(result)
    return result
