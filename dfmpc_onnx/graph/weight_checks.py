"""Whether the weights and BatchNormalizations of a graph hold what a trained network's can, and fit each other."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import AlreadyQuantized, ModelError, shown
from dfmpc_onnx.graph.constant_folding import origin
from dfmpc_onnx.graph.operators import is_weighted, norm_epsilon, op_of
from dfmpc_onnx.graph.query import (
    constant,
    describe,
    input_constant,
    nested_nodes,
    producer,
)
from dfmpc_onnx.model.protos import RUNTIME_DOMAINS

INTEGER_LAYERS = frozenset({"QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger"})
# What onnxruntime's optimizer makes of layers; no exporter writes them. The domains are those of memory layouts.
LAYOUT_DOMAINS = frozenset({"com.microsoft.nchwc", "com.ms.internal.nhwc"})
FUSED_LAYERS = frozenset(
    f"com.microsoft::{name}"
    for name in ("FusedConv", "FusedGemm", "FusedMatMul", "TransposeMatMul", "NhwcConv", "NhwcFusedConv")
)
# Exporters of transformers write these as well, beside ordinary Convs.
FUSED_PRODUCTS = frozenset(f"com.microsoft::{name}" for name in ("FusedGemm", "FusedMatMul", "TransposeMatMul"))
LARGEST_WEIGHT = 1e12  # products of a few of them and their squares still fit into float32


def check_weights(graph: gs.Graph, label: str) -> None:
    """Raise ModelError where a constant operand of a layer or BatchNormalization is nothing that training leaves."""
    found = any(op_of(node) in ("Conv", "ConvTranspose") for _, _, node in nested_nodes(graph))
    for node in graph.nodes:
        if is_weighted(node) or is_norm(node):
            found |= op_of(node) in ("Conv", "ConvTranspose")
            for tensor in node.inputs[1:]:
                values = constant(tensor)
                if values is not None and values.dtype.kind in "OSU":
                    raise ModelError(
                        f"{label}: '{shown(tensor.name)}' of {describe(node)} holds text; the model is damaged"
                    )
                absurd = _absurd(values) if values is not None and values.dtype.kind == "f" else None
                if absurd:
                    raise ModelError(
                        f"{label}: '{shown(tensor.name)}' of {describe(node)} holds {absurd}; "
                        "the network was not trained or exported properly"
                    )
        if is_norm(node):
            _check_norm(node, label)
    if not found and any(op_of(node, RUNTIME_DOMAINS) in INTEGER_LAYERS for node in graph.nodes):
        raise AlreadyQuantized(f"{label}: the model is quantized already; give the float model that it was made from")
    if not found:
        raise ModelError(f"{label}: the model has no Conv; there is nothing that this tool can quantize")
    check_origins(graph, label)


def check_unoptimized(graph: gs.Graph, label: str) -> None:
    """Raise ModelError where onnxruntime's optimizer has put operators of its own in place of layers.

    Products that are fused stay as they are where Convs are left to quantize.
    """
    nodes = [*itertools.chain(graph.nodes, (inner for _, _, inner in nested_nodes(graph)))]
    ordinary = any(op_of(node) in ("Conv", "ConvTranspose") for node in nodes)
    fused = FUSED_LAYERS - FUSED_PRODUCTS if ordinary else FUSED_LAYERS
    for node in nodes:
        if (node.domain or "") in LAYOUT_DOMAINS or op_of(node) in fused:
            raise ModelError(
                f"{label}: optimized by onnxruntime already ({shown(op_of(node))} is an operator of its own); give the "
                "model before that"
            )


def check_origins(graph: gs.Graph, label: str) -> None:
    """Raise ModelError where every weight of the model is generated, or every one is quantized already."""
    layers = [node for node in graph.nodes if is_weighted(node)]
    made = [origin(node.inputs[1]) for node in layers if not isinstance(node.inputs[1], gs.Constant)]
    stored = len(layers) - len(made) + sum(1 for _ in nested_nodes(graph))
    if stored or not made:
        return
    if all(found.kind == "quantized" for found in made):
        raise AlreadyQuantized(f"{label}: the model is quantized already; give the float model that it was made from")
    if all(found.kind == "generated" for found in made):
        raise ModelError(
            f"{label}: its weights are generated ({made[0].generator}), not stored; there is nothing to quantize: "
            "export the model with its trained weights"
        )


def is_norm(node: gs.Node) -> bool:
    return op_of(node) == "BatchNormalization"


def _absurd(values: np.ndarray) -> str | None:
    """What makes numbers useless as weights; None where nothing does."""
    largest = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))  # NaN if one is
    if not np.isfinite(largest):
        return "NaN or infinity"
    return f"values up to {largest:.2g}" if largest > LARGEST_WEIGHT else None


def _check_norm(node: gs.Node, label: str) -> None:
    """Raise ModelError where a BatchNormalization divides by nothing, or by next to nothing."""
    gamma, variance = input_constant(node, 1), input_constant(node, 4)
    if gamma is None or variance is None or gamma.size != variance.size or not gamma.size:
        return
    epsilon = norm_epsilon(node)
    square = np.asarray(variance, np.float64) + epsilon
    factor = np.abs(np.asarray(gamma, np.float64)).reshape(-1) / np.sqrt(np.maximum(square, 1e-300)).reshape(-1)
    if not np.isfinite(square).all() or square.min() <= 0 or factor.max() > LARGEST_WEIGHT:
        raise ModelError(
            f"{label}: {describe(node)} multiplies by {factor.max():.2g} where its variance is {variance.min():.2g} "
            f"and its epsilon {epsilon:.2g}; the network was not trained or exported properly"
        )


def check_sizes(graph: gs.Graph, label: str) -> None:
    """Raise ModelError where a layer's constants do not fit what it is fed, as far as that is known."""
    for node, size, fed in misfits(graph):
        raise ModelError(
            f"{label}: {describe(node)} is made for {size} channels, but '{shown(node.inputs[0].name)}' has {fed}; "
            "the model is damaged, or was edited wrongly"
        )


def misfits(graph: gs.Graph) -> list[tuple[gs.Node, int, int]]:
    """Layers and BatchNormalizations with the channels that they are made for, and other ones that they are fed."""
    found = []
    for node in graph.nodes:
        if not (is_weighted(node) or is_norm(node)):
            continue
        fed = _input_channels(node)
        size = next((size for size in _channels_of_constants(node) if size != fed), None)
        if isinstance(fed, int) and size is not None:
            found.append((node, size, fed))
    return found


def _input_channels(node: gs.Node) -> int | str | None:
    """How many channels the input of a layer or BatchNormalization has: by its shape, or by the layer that makes it."""
    shape, by = node.inputs[0].shape, producer(node.inputs[0])
    if shape is not None and len(shape) > 1:
        size: int | str | None = shape[-1 if op_of(node) == "MatMul" else 0 if node.attrs.get("transA", 0) else 1]
        return size
    if by is None or not is_weighted(by) or not isinstance(by.inputs[1], gs.Constant) or len(by.inputs[1].shape) < 2:
        return None
    weight = by.inputs[1].shape
    if op_of(by) == "Conv" or by.attrs.get("transB", 0):
        return int(weight[0])
    return int(weight[1]) * int(by.attrs.get("group", 1)) if op_of(by) == "ConvTranspose" else int(weight[-1])


def _channels_of_constants(node: gs.Node) -> list[int]:
    """The number of channels that each constant of a layer or BatchNormalization is made for."""
    if op_of(node) == "BatchNormalization":
        return [int(v.size) for v in (input_constant(node, i) for i in range(1, 5)) if v is not None]
    weight = node.inputs[1]
    if not isinstance(weight, gs.Constant) or len(weight.shape) < 2:
        return []
    if op_of(node) == "Conv":
        return [int(weight.shape[1]) * int(node.attrs.get("group", 1))]
    if op_of(node) == "MatMul":
        return [int(weight.shape[-2])]
    return [int(weight.shape[1 if op_of(node) == "Gemm" and node.attrs.get("transB", 0) else 0])]
