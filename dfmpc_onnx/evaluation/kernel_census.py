"""What onnxruntime makes of a quantized file: which layers became integer kernels, and what is left between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec
import onnx

from dfmpc_onnx.errors import shown
from dfmpc_onnx.model.protos import RUNTIME_DOMAINS, WEIGHTED_OPERATORS, fed_names, makers, op_of, readers
from dfmpc_onnx.qdq.decode_chains import DecodeChains
from dfmpc_onnx.runtime.session import Loadable, optimized_model

INTEGER_KERNELS = (
    "QLinearConv",
    "ConvInteger",
    "QGemm",
    "QLinearMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
)
CODE_OPERATORS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
FLOAT_KERNELS = (*WEIGHTED_OPERATORS, "FusedConv", "NhwcFusedConv", "FusedGemm", "FusedMatMul")
RESCALED = "the scale changes"
# What passes numbers on as they are; the reason lies with who reads them in the end.
DATA_MOVES = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")


class Census(msgspec.Struct, frozen=True):
    """The nodes of a quantized network after onnxruntime's optimization for its CPU provider.

    layers: operators with a weight in the file, counted. integer, other: what computes in integers now, by operator:
    layers, and what stands between them. float_layers: names of those that stayed in float, by reason. quantize,
    dequantize: the QuantizeLinear and DequantizeLinear that are left, counted by reason. dequantized_weights: how many
    weights are dequantized anew at every inference. integer_layers: names of the layers that compute in integers.
    """

    layers: dict[str, int]
    integer: dict[str, int]
    other: dict[str, int]
    float_layers: dict[str, tuple[str, ...]]
    quantize: dict[str, int]
    dequantize: dict[str, int]
    dequantized_weights: int
    integer_layers: tuple[str, ...] = ()


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether a model holds operators that make, read or compute in codes, of whatever tool."""
    return any(_op(node) in (*INTEGER_KERNELS, *CODE_OPERATORS) for node in model.graph.node)


def take_census(source: Loadable, model: onnx.ModelProto, label: str) -> Census:
    """Count what onnxruntime turns a model into. source: what it loads; model: the same, as read.

    Raises ModelError where onnxruntime cannot load it, RuntimeUnavailable where there is no onnxruntime.
    """
    nodes = _Nodes(optimized_model(source, label).graph)
    in_file = Counter(_op(node) for node in model.graph.node if _op(node) in (*WEIGHTED_OPERATORS, *INTEGER_KERNELS))
    integer = Counter(_op(node) for node in nodes.all if _op(node) in INTEGER_KERNELS)
    between = Counter(_op(n) for n in nodes.all if _op(n).startswith("QLinear") and _op(n) not in INTEGER_KERNELS)
    decoded = _decoded_to_float(model)
    left: dict[str, list[str]] = {}
    for node in nodes.all:
        if _op(node) in FLOAT_KERNELS:
            why = nodes.why_float(node)
            why += "; integer weights, float arithmetic" if node.name in decoded else ""
            left.setdefault(why, []).append(node.name)
    quantize, dequantize = Counter[str](), Counter[str]()
    weights = 0
    for node in nodes.all:
        if _op(node) == "QuantizeLinear":
            quantize[nodes.before(node)] += 1
        elif _op(node) == "DequantizeLinear":
            weights += nodes.is_constant(node.input[0])
            dequantize[nodes.behind(node)] += 1
    return Census(
        dict(in_file),
        dict(integer),
        dict(between),
        {why: tuple(names) for why, names in left.items()},
        dict(quantize),
        dict(dequantize),
        weights,
        tuple(node.name for node in nodes.all if _op(node) in INTEGER_KERNELS),
    )


def _decoded_to_float(model: onnx.ModelProto) -> set[str]:
    """The layers of the file whose weight is made of integer codes by a product with a scale."""
    chains = DecodeChains(model.graph)
    read = ((node.name, chains.of_layer(node)) for node in model.graph.node)
    return {layer for layer, chain in read if chain is not None and not chain.integer}


class _Nodes:
    """Who makes and who reads each tensor of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.all = list(graph.node)
        self._makers, self._readers = makers(self.all), readers(self.all)
        self._constants = {tensor.name for tensor in graph.initializer}
        self._inputs = set(fed_names(graph))
        self._outputs = {value.name for value in graph.output}

    def is_constant(self, name: str) -> bool:
        return name in self._constants

    def before(self, node: onnx.NodeProto) -> str:
        """Why a QuantizeLinear is left: where its numbers come from."""
        name = node.input[0]
        while name in self._makers and _op(self._makers[name]) in DATA_MOVES:
            name = self._makers[name].input[0]
        if name in self._inputs:
            return "the model's input is float"
        if name not in self._makers:
            return "a constant is quantized"
        maker = self._makers[name]
        return RESCALED if _op(maker) == "DequantizeLinear" else f"{_op(maker)} computes in float"

    def behind(self, node: onnx.NodeProto) -> str:
        """Why a DequantizeLinear is left: who reads its numbers."""
        if self.is_constant(node.input[0]):
            return "a weight is dequantized at every inference"
        ops = sorted({_op(reader) for reader in self._read(node.output[0])})
        if not ops:
            return "the model's output is float"
        if ops == ["QuantizeLinear"]:
            return RESCALED
        return f"{', '.join(ops[:3])} {'computes' if len(ops) == 1 else 'compute'} in float"

    def _read(self, name: str) -> Iterable[onnx.NodeProto]:
        """The nodes that read a tensor, looked at through moves."""
        waiting = [name]
        while waiting:
            for reader in self._readers.get(waiting.pop(), ()):
                if _op(reader) in DATA_MOVES:
                    waiting.append(reader.output[0])
                else:
                    yield reader

    def why_float(self, node: onnx.NodeProto) -> str:
        """Why a layer did not become an integer kernel, as far as its neighbours tell."""
        weight = self._makers.get(node.input[1])
        if weight is not None and _op(weight) == "DequantizeLinear":
            return "its weight is dequantized at every inference"
        maker = self._makers.get(node.input[0])
        if maker is not None and _op(maker) == "Max" and len(maker.input) == 1:
            return "kept in float"
        if maker is None or _op(maker) != "DequantizeLinear":
            return "its input is float"
        return "its output is float"


def _op(node: onnx.NodeProto) -> str:
    """An operator of the standard domain or of onnxruntime's own by its name; any other with its domain."""
    return shown(op_of(node, RUNTIME_DOMAINS))
