"""What the bytes of a file hold: codes of weights, what decodes them, weights left in float, biases, and the graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import onnx
from onnx import TensorProto

from dfmpc_onnx.model.protos import RUNTIME_DOMAINS, all_tensors, initializers, op_of, readers
from dfmpc_onnx.model.source import Source
from dfmpc_onnx.qdq.decode_chains import DecodeChains
from dfmpc_onnx.qdq.stored_bits import FLOATS, WEIGHT_INPUT

Content = Literal[
    "codes of weights",
    "decode tables",
    "scales and zero points",
    "float weights",
    "biases",
    "normalizations",
    "other numbers",
    "graph",
]
CONTENTS: tuple[Content, ...] = get_args(Content)
SCALES_OF = ("QuantizeLinear", "DequantizeLinear")
BIAS_INPUT = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "QLinearConv": 8, "QGemm": 6}
STEPS_TO_LAYER = 6  # from a float weight through casts and reshapes to the layer that reads it


def stored_bytes(source: Source) -> dict[Content, int]:
    """Bytes of a file by what they hold, in the order of `CONTENTS`; together the size of the file.

    "graph" is what is no tensor: nodes, names, metadata. Bodies of control flow and functions count as other numbers
    where they hold tensors.
    """
    graph = source.model.graph
    sizes = dict.fromkeys(CONTENTS, 0)
    roles = _roles(graph)
    main = initializers(graph)
    for tensor in all_tensors(source.model):
        role = roles.get(tensor.name, "other numbers") if main.get(tensor.name) is tensor else "other numbers"
        sizes[role] += _bytes(tensor)
    sizes["graph"] = max(source.size - sum(sizes.values()), 0)
    return sizes


def _bytes(tensor: onnx.TensorProto) -> int:
    """Bytes that the numbers of a tensor take, wherever they lie."""
    if tensor.data_location == TensorProto.EXTERNAL:
        return next((int(entry.value) for entry in tensor.external_data if entry.key == "length"), 0)
    return len(tensor.raw_data) or int(tensor.ByteSize()) - len(tensor.name.encode("utf-8", "replace"))


def _roles(graph: onnx.GraphProto) -> dict[str, Content]:
    """What each initializer of a graph is, as far as those who read it tell."""
    stored, read_by, chains = initializers(graph), readers(graph.node), DecodeChains(graph)
    roles: dict[str, Content] = {}
    for node in graph.node:
        chain = chains.of_layer(node)
        if chain is None:
            continue
        for plane in chain.planes:
            roles[plane.tensor.name] = "codes of weights"
            if plane.table is not None:
                roles[plane.table.name] = "decode tables"
        for tensor in (chain.scale_tensor, chain.zero_point):
            if tensor is not None:
                roles[tensor.name] = "scales and zero points"
    for name, tensor in stored.items():
        if name not in roles:
            roles[name] = _role_by_readers(tensor, read_by)
    return roles


def _role_by_readers(tensor: onnx.TensorProto, read_by: Mapping[str, list[onnx.NodeProto]]) -> Content:
    """What an initializer is that no chain of ours holds."""
    name: str = tensor.name
    for _ in range(STEPS_TO_LAYER):
        nodes = read_by.get(name, [])
        found = {role for node in nodes if (role := _role_at(tensor, node, list(node.input).index(name))) is not None}
        if len(found) == 1:
            return found.pop()
        if len(nodes) != 1 or not nodes[0].output:
            break
        name = nodes[0].output[0]
    return "other numbers"


def _role_at(tensor: onnx.TensorProto, node: onnx.NodeProto, place: int) -> Content | None:
    """What a node that reads a tensor makes of it; None where that is open."""
    op = op_of(node, RUNTIME_DOMAINS)
    if op in SCALES_OF:
        if place > 0:
            return "scales and zero points"
        return "biases" if len(tensor.dims) < 2 else "codes of weights"
    if op in WEIGHT_INPUT and place == WEIGHT_INPUT[op]:
        return "float weights" if tensor.data_type in FLOATS else "codes of weights"
    if op in BIAS_INPUT and place == BIAS_INPUT[op]:
        return "biases"
    if op == "BatchNormalization":
        return "normalizations"
    if op.startswith("QLinear") or op == "QGemm":
        return "scales and zero points"
    return None
