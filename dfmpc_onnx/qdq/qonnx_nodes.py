"""QONNX: quantization written as nodes that round and stay in float, which FINN and hls4ml read; and back to ONNX.

``Quant(x, scale, zero_point, bits)`` is ``scale * (clip(x / scale + zero_point) rounded - zero_point)``, with the ends
of the integers of that many bits, signed or not; narrow leaves out one of them. ``BipolarQuant(x, scale)`` is scale or
-scale by the sign of x. Both are of the domain ``qonnx.custom_op.general``.

Source: https://github.com/fastmachinelearning/qonnx, docs/qonnx-custom-ops; Pappalardo et al. 2022.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dfmpc_onnx.errors import ModelError, shown
from dfmpc_onnx.model.protos import initializers, makers, nodes_behind, op_of, put_in, standard_opset
from dfmpc_onnx.model.source import Source
from dfmpc_onnx.numerics.arrays import Array, Float32
from dfmpc_onnx.qdq.decode_chains import DecodeChain, DecodeChains

QONNX_DOMAIN = "qonnx.custom_op.general"
ROUNDINGS = {"ROUND": "Round", "HALF_EVEN": "Round", "CEIL": "Ceil", "FLOOR": "Floor"}  # as operators of ONNX
MOST_BITS = 32
FIRST_WITH_ROUND = 11
LARGE_SUM, BITS_BY_SUMS = 1.5 * 2**23, 22  # float32 numbers around it are whole; codes of so many bits stay near it


def holds_qonnx(model: onnx.ModelProto) -> bool:
    """Whether a model has nodes of QONNX."""
    return any(node.domain == QONNX_DOMAIN for node in model.graph.node)


def code_bits(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> int | None:
    """The bits of what a node of QONNX rounds to; None where they are computed, or it is another node."""
    op = op_of(node, (QONNX_DOMAIN,))
    if op == "BipolarQuant":
        return 1
    return _bits_of(constants.get(node.input[3])) if op in ("Quant", "IntQuant") and len(node.input) > 3 else None


@dataclasses.dataclass(frozen=True)
class _Range:
    """The integers of a Quant."""

    bits: int
    signed: bool
    narrow: bool

    @classmethod
    def of(cls, codes: Array) -> _Range:
        """The fewest bits that hold signed codes."""
        low, high = int(codes.min(initial=0)), int(codes.max(initial=0))
        bits = max(2, max(high, -low - 1).bit_length() + 1)
        return cls(bits, True, low > -(2 ** (bits - 1)))


def to_qonnx(model: onnx.ModelProto, few_bits: Mapping[str, int] | None = None) -> onnx.ModelProto:
    """A QDQ model with Quant and BipolarQuant in place of what rounds and decodes; every number stays, bit for bit.

    Weights become floats behind a node of as many bits as their codes need. A pair of QuantizeLinear and
    DequantizeLinear becomes one Quant of the bits of its codes; of codes with sign behind a Relu, zero point 0, one
    of a bit less without sign. few_bits: of tensors by name that have fewer than their
    codes hold.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    writer = _Writer(graph, few_bits or {})
    reader = DecodeChains(graph)
    chains = {chain.weight: chain for node in graph.node if (chain := reader.of_layer(node)) is not None}
    replaced: list[onnx.NodeProto] = []
    made = makers(graph.node)
    for node in graph.node:
        if node.output and node.output[0] in chains:
            replaced.append(writer.weight(chains[node.output[0]]))
        elif _is_pair(node, made):
            replaced.append(writer.activation(node, made[node.input[0]], made))
        else:
            replaced.append(_with_kernel_shape(node, writer.shape(node)))
    outputs = [value.name for value in graph.output]
    kept, read = nodes_behind(replaced, outputs)
    put_in(graph.node, kept)
    put_in(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in read])
    left = {name for node in kept for name in node.output}
    put_in(graph.value_info, [value for value in graph.value_info if value.name in left])
    if any(node.domain == QONNX_DOMAIN for node in kept):
        result.opset_import.append(helper.make_opsetid(QONNX_DOMAIN, 1))
    return result


def _with_kernel_shape(node: onnx.NodeProto, weight: tuple[int, ...]) -> onnx.NodeProto:
    """A Conv that states its kernel and geometry, which ONNX leaves optional and readers of QONNX do not."""
    stated = {attribute.name for attribute in node.attribute}
    if op_of(node) != "Conv" or len(weight) < 3:
        return node
    spatial = len(weight) - 2
    whole = {"kernel_shape": weight[2:], "strides": (1,) * spatial, "dilations": (1,) * spatial, "group": 1}
    if "auto_pad" not in stated:
        whole["pads"] = (0,) * (2 * spatial)
    result = onnx.NodeProto()
    result.CopyFrom(node)
    result.attribute.extend(helper.make_attribute(name, value) for name, value in whole.items() if name not in stated)
    return result


def _is_pair(node: onnx.NodeProto, made: dict[str, onnx.NodeProto]) -> bool:
    if op_of(node) != "DequantizeLinear" or node.input[0] not in made:
        return False
    first = made[node.input[0]]
    return op_of(first) == "QuantizeLinear" and list(first.input[1:]) == list(node.input[1:])


class _Writer:
    """Makes nodes of QONNX for one graph, and the constants that they read."""

    def __init__(self, graph: onnx.GraphProto, few_bits: Mapping[str, int]) -> None:
        self._few_bits = few_bits
        self._graph, self._constants = graph, initializers(graph)
        self._shared: dict[tuple[bytes, tuple[int, ...]], str] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def shape(self, node: onnx.NodeProto) -> tuple[int, ...]:
        """Of a layer's weight; empty where it is computed."""
        name = node.input[1] if len(node.input) > 1 else ""
        tensor = self._constants.get(name)
        return self._shapes.get(name, tuple(tensor.dims) if tensor is not None else ())

    def weight(self, chain: DecodeChain) -> onnx.NodeProto:
        codes, zero, scale = chain.codes(), chain.zero(), _spread(chain.scale(), chain)
        self._shapes[chain.weight] = chain.shape
        whole = np.all(zero == np.rint(zero)) and not chain.doubled
        steps = codes if whole else (codes - zero).astype(np.int32)
        offset = np.asarray(zero if whole else 0.0, np.float32)
        values = ((codes - zero).astype(np.float32) * scale).astype(np.float32)
        held = self._held(values, f"{chain.weight}.float")
        if not np.any(offset) and steps.size and np.all(np.abs(steps) == 1):
            return self._node("BipolarQuant", chain.weight, [held, self._held(scale, f"{chain.weight}.scale")])
        return self._quant(chain.weight, held, scale, offset, _Range.of(steps))

    def activation(
        self, node: onnx.NodeProto, first: onnx.NodeProto, made: dict[str, onnx.NodeProto]
    ) -> onnx.NodeProto:
        scale = numpy_helper.to_array(self._constants[node.input[1]])
        zero = numpy_helper.to_array(self._constants[node.input[2]]) if len(node.input) > 2 else np.uint8(0)
        kind = np.asarray(zero).dtype.name  # int8, uint8, int4 or uint4
        signed, bits = kind.startswith("int"), int(kind.removeprefix("u").removeprefix("int"))
        few = self._few_bits.get(first.input[0]) or self._few_bits.get(node.output[0])
        offset = np.asarray(zero).astype(np.float32)
        by = made.get(first.input[0])
        rises = signed and not np.any(offset) and by is not None and op_of(by) == "Relu"
        codes = _Range(bits - 1, False, False) if rises and not few else _Range(few or bits, signed, False)
        return self._quant(node.output[0], first.input[0], scale, offset, codes)

    def _quant(self, name: str, source: str, scale: Array, zero: Array, kind: _Range) -> onnx.NodeProto:
        inputs = [source, self._held(scale, f"{name}.scale"), self._held(zero, "zero")]
        inputs.append(self._held(np.float32(kind.bits), f"bits{kind.bits}"))
        attributes = {"signed": int(kind.signed), "narrow": int(kind.narrow), "rounding_mode": "ROUND"}
        return self._node("Quant", name, inputs, **attributes)

    def _node(self, op: str, name: str, inputs: list[str], **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(op, inputs, [name], name=f"{name}.{op}", domain=QONNX_DOMAIN, **attributes)

    def _held(self, values: Array | np.generic, name: str) -> str:
        """The name of a constant; one for all that are equal."""
        array = np.asarray(values, np.float32)
        key = array.tobytes(), array.shape
        if key not in self._shared:
            while name in self._constants:
                name += "_"
            tensor = numpy_helper.from_array(array, name)
            self._graph.initializer.append(tensor)
            self._constants[name] = tensor
            self._shared[key] = name
        return self._shared[key]


def _spread(scale: Float32, chain: DecodeChain) -> Float32:
    """A scale in the rank of its weight, as a product takes it."""
    if scale.size == 1 or scale.ndim == len(chain.shape):
        return scale.reshape((1,) * len(chain.shape)) if scale.size == 1 else scale
    axis = next((int(a.i) for a in chain.end.attribute if a.name == "axis"), 1) % len(chain.shape)
    return scale.reshape([-1 if i == axis else 1 for i in range(len(chain.shape))])


# Back


def from_qonnx(model: onnx.ModelProto, label: str) -> onnx.ModelProto:
    """The same network in operators of ONNX, which computes in float what the nodes of QONNX do, bit for bit.

    Raises ModelError where a node is none of Quant and BipolarQuant, its bits are computed, or it rounds otherwise than
    to even, up or down.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph, names = result.graph, _Constants(result.graph)
    nodes: list[onnx.NodeProto] = []
    opset = standard_opset(model)
    for node in graph.node:
        nodes.extend(_plain(node, names, label, opset) if node.domain == QONNX_DOMAIN else [node])
    put_in(graph.node, nodes)
    _, read = nodes_behind(nodes, [value.name for value in graph.output])
    put_in(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in read])
    put_in(result.opset_import, [opset for opset in result.opset_import if opset.domain != QONNX_DOMAIN])
    return result


def runnable(source: Source) -> onnx.ModelProto:
    """A model as it is, one of QONNX in operators of ONNX."""
    return from_qonnx(source.model, source.label) if holds_qonnx(source.model) else source.model


def refuse_qonnx(source: Source, what: str) -> None:
    """Raise ModelError for a file of QONNX, which no runtime here runs as it is. what: that cannot be had therefore."""
    if holds_qonnx(source.model):
        raise ModelError(f"{source.label}: holds nodes of QONNX, which onnxruntime does not have; {what}")


def loadable(source: Source) -> pathlib.Path | onnx.ModelProto:
    """What onnxruntime can load: the file of a model or the model itself, one of QONNX in operators of ONNX."""
    return runnable(source) if holds_qonnx(source.model) else source.path or source.model


class _Constants:
    """The constants of a graph, by name."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph, self.known = graph, initializers(graph)

    def add(self, name: str, value: float) -> str:
        while name in self.known:
            name += "_"
        self.known[name] = numpy_helper.from_array(np.asarray(value, np.float32), name)
        self._graph.initializer.append(self.known[name])
        return name


def _plain(node: onnx.NodeProto, names: _Constants, label: str, opset: int) -> list[onnx.NodeProto]:
    inputs = {"BipolarQuant": 2, "Quant": 4, "IntQuant": 4}.get(op_of(node, (QONNX_DOMAIN,)))
    if inputs != len(node.input) or len(node.output) != 1:
        raise _unknown(node, label)
    stem, source, scale = node.output[0], node.input[0], node.input[1]  # names of nodes may be alike

    def step(op: str, *inputs: str, last: bool = False, word: str = "") -> onnx.NodeProto:
        name = node.output[0] if last else f"{stem}/{word or op}"
        return helper.make_node(op, list(inputs), [name], name=f"{stem}/{word or op}")

    if op_of(node, (QONNX_DOMAIN,)) == "BipolarQuant":
        least = names.add(f"{stem}/zero", 0.0)
        sign = helper.make_node("Less", [source, least], [f"{stem}/sign"], name=f"{stem}/sign")
        ends = [names.add(f"{stem}/{word}", value) for word, value in (("minus", -1.0), ("one", 1.0))]
        return [sign, step("Where", f"{stem}/sign", *ends), step("Mul", f"{stem}/Where", scale, last=True)]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    mode, bits = attributes.get("rounding_mode", b"ROUND"), _bits_of(names.known.get(node.input[3]))
    rounding = ROUNDINGS.get(mode.decode(errors="replace").upper()) if isinstance(mode, bytes) else None
    old = rounding == "Round" and opset < FIRST_WITH_ROUND
    if bits is None or rounding is None or (old and bits > BITS_BY_SUMS):
        raise _unknown(node, label)
    low, high = _ends(bits, attributes)
    rounded = [step(rounding, f"{stem}/Min")]
    if old:  # a sum this large has no digits behind the point, and float32 rounds to even
        large = names.add(f"{stem}/large", LARGE_SUM)
        rounded = [
            step("Add", f"{stem}/Min", large, word="raised"),
            step("Sub", f"{stem}/raised", large, word="rounded"),
        ]
    least, most = (names.add(f"{stem}/{word}", value) for word, value in (("low", low), ("high", high)))
    return [
        step("Div", source, scale),
        step("Add", f"{stem}/Div", node.input[2]),
        step("Max", f"{stem}/Add", least),  # no Clip: below opset 11 its bounds are no inputs
        step("Min", f"{stem}/Max", most),
        *rounded,
        step("Sub", rounded[-1].output[0], node.input[2]),
        step("Mul", f"{stem}/Sub", scale, last=True),
    ]


def _unknown(node: onnx.NodeProto, label: str) -> ModelError:
    name = shown(node.name or "".join(node.output[:1]))
    return ModelError(
        f"{label}: '{name}' is a {shown(node.op_type)} that cannot be run here; "
        f"Quant of 1 to {MOST_BITS} constant bits that rounds by {', '.join(ROUNDINGS)} can, and BipolarQuant"
    )


def _bits_of(tensor: onnx.TensorProto | None) -> int | None:
    """The bits that a constant states; None where it is no whole number of them."""
    if tensor is None or tensor.data_type != TensorProto.FLOAT or math.prod(tensor.dims) != 1:
        return None
    value = float(numpy_helper.to_array(tensor).reshape(()))
    return int(value) if 1 <= value <= MOST_BITS and value.is_integer() else None


def _ends(bits: int, attributes: dict[str, int]) -> tuple[float, float]:
    narrow = int(bool(attributes.get("narrow", 1)))
    if attributes.get("signed", 1):
        return float(narrow - 2 ** (bits - 1)), float(2 ** (bits - 1) - 1)
    return 0.0, float(2**bits - 1 - narrow)
