"""The part of a model between its inputs and the first BatchNormalizations, as a model of its own."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx

from dfmpc_onnx.model.protos import (
    WEIGHTED_OPERATORS,
    every_node,
    fed_names,
    initializers,
    names_read,
    nodes_behind,
    op_of,
    put_in,
    stored_value,
)

MOST_LAYERS_AHEAD = 8  # layers in front of a BatchNormalization beyond which it says little about the input
HALF_KINDS = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
MOST_NORMS = 4  # BatchNormalizations, where several branches begin at the input


@dataclasses.dataclass(frozen=True)
class FirstNorms:
    """model: its outputs are those of the BatchNormalizations; norms: these nodes, each behind no other.

    Constants stand in it as initializers; what was half precision is single.
    """

    model: onnx.ModelProto
    norms: tuple[onnx.NodeProto, ...]


def first_norms(model: onnx.ModelProto) -> FirstNorms | str:
    """The first BatchNormalizations of a model, or the reason why there is none to judge an input by."""
    depth = dict.fromkeys(fed_names(model.graph), 0)
    behind: set[str] = set()
    found: list[onnx.NodeProto] = []
    nearest = None
    live, _ = nodes_behind(
        model.graph.node, _outputs(model)
    )  # nobody ran the others in training, and no runtime checks them
    for node in live:
        reads = set(names_read(node))
        ahead = [depth[name] for name in reads if name in depth]
        if not ahead:
            continue  # computed from constants alone
        layers = max(ahead) + (op_of(node) in WEIGHTED_OPERATORS)
        normalized = not behind.isdisjoint(reads)
        if _holds_statistics(node) and not normalized:
            nearest = layers if nearest is None else min(nearest, layers)
            if layers <= MOST_LAYERS_AHEAD and len(found) < MOST_NORMS:
                found.append(node)
        if normalized or _holds_statistics(node):
            behind.update(node.output)
        depth.update((name, layers) for name in node.output)
    if nearest is None:
        return "no BatchNormalization is left to judge by"
    if not found:
        return f"the first BatchNormalization stands behind {nearest} layers, too far to judge by"
    cut = _extract(model, found)
    _inline_constants(cut.graph)
    norms = tuple(n for n in cut.graph.node if op_of(n) == "BatchNormalization" and n.output[0] in _outputs(cut))
    values = {t.name for t in cut.graph.initializer}
    if not all(values.issuperset(n.input[1:]) for n in norms):
        return "the parameters of the first BatchNormalization are computed"
    return FirstNorms(cut, norms)


def _holds_statistics(node: onnx.NodeProto) -> bool:
    """Whether a node is a BatchNormalization that uses what it measured in training."""
    training = any(a.name == "training_mode" and a.i for a in node.attribute)
    return op_of(node) == "BatchNormalization" and len(node.input) == 5 and not training


def _outputs(model: onnx.ModelProto) -> set[str]:
    return {value.name for value in model.graph.output}


def _extract(model: onnx.ModelProto, norms: list[onnx.NodeProto]) -> onnx.ModelProto:
    """A model of what the BatchNormalizations depend on; no other weight is copied."""
    nodes, wanted = nodes_behind(model.graph.node, (norm.output[0] for norm in norms))
    cut = onnx.ModelProto(ir_version=model.ir_version)
    cut.opset_import.extend(model.opset_import)
    cut.functions.extend(model.functions)
    cut.graph.name = "first_norms"
    cut.graph.node.extend(nodes)
    cut.graph.initializer.extend(t for t in model.graph.initializer if t.name in wanted)
    cut.graph.sparse_initializer.extend(t for t in model.graph.sparse_initializer if t.values.name in wanted)
    cut.graph.input.extend(value for value in model.graph.input if value.name in wanted)
    _widen(cut.graph)
    kinds = {tensor.name: tensor.data_type for tensor in cut.graph.initializer}
    for norm in norms:
        kind = kinds.get(norm.input[1], onnx.TensorProto.FLOAT)
        cut.graph.output.append(onnx.helper.make_tensor_value_info(norm.output[0], kind, None))
    return cut


def _widen(graph: onnx.GraphProto) -> None:
    """Half precision to single, which not every operator of a runtime takes and which says the same."""
    for tensor in graph.initializer:
        if tensor.data_type in HALF_KINDS and tensor.data_location != onnx.TensorProto.EXTERNAL:
            _widen_tensor(tensor)
    for value in graph.input:
        if value.type.tensor_type.elem_type in HALF_KINDS:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    for node in every_node(graph.node):
        for attribute in node.attribute:
            if op_of(node) == "Cast" and attribute.name == "to" and attribute.i in HALF_KINDS:
                attribute.i = onnx.TensorProto.FLOAT
            elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type in HALF_KINDS:
                _widen_tensor(attribute.t)


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    values = np.asarray(onnx.numpy_helper.to_array(tensor), np.float32)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def _inline_constants(graph: onnx.GraphProto) -> None:
    """Make Constant nodes, and Identity of what is constant, initializers of their own."""
    values = initializers(graph)
    kept = []
    for node in graph.node:
        source = values.get(node.input[0]) if op_of(node) == "Identity" else stored_value(node)
        if source is None:
            kept.append(node)
            continue
        copy = graph.initializer.add()
        copy.CopyFrom(source)
        copy.name = node.output[0]
        values[copy.name] = copy
    put_in(graph.node, kept)
