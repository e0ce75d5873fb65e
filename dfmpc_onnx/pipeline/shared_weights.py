"""Layers that read one weight, and what becomes of its codes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from dfmpc_onnx.graph.query import constant, nodes_by_name
from dfmpc_onnx.numerics.quantized import QuantizedWeight
from dfmpc_onnx.pipeline.facts import Layer, Layers, Normalized
from dfmpc_onnx.pipeline.workspace import Workspace


def layers_of_one_weight(workspace: Workspace) -> tuple[tuple[Layer, ...], ...]:
    """The quantizable layers that read one weight of the model in one way, two at least, in graph order.

    A layer whose weight a pass has changed for itself is alone.
    """
    normalized = workspace.find(Normalized)
    shared = {} if normalized is None else normalized.shared
    if not shared:
        return ()
    nodes = nodes_by_name(workspace.graph)
    found: dict[tuple[object, ...], list[Layer]] = {}
    for layer in workspace.get(Layers).quantizable:
        if layer.name in shared:
            values = constant(nodes[layer.name].inputs[1])
            key = (shared[layer.name], _digest(values), layer.op, layer.shape, layer.axis, layer.groups)
            found.setdefault(key, []).append(layer)
    return tuple(tuple(group) for group in found.values() if len(group) > 1)


def _digest(values: np.ndarray | None) -> bytes | None:
    """Of the values, since passes that do the same to each user leave each an array of its own."""
    return None if values is None else hashlib.blake2b(values.tobytes()).digest()


def holders_of_codes(workspace: Workspace) -> Mapping[str, str]:
    """By layer the one whose stored codes it reads: itself, or the first that shares its weight and has the same codes.

    Scales may differ: they are stored for each layer.
    """
    normalized, codes = workspace.find(Normalized), workspace.codes()
    shared = {} if normalized is None else normalized.shared
    holders: dict[str, str] = {}
    first: dict[str, list[str]] = {}
    for name in codes:  # in graph order, as the layers were quantized
        before = first.setdefault(shared[name], []) if name in shared else []
        holders[name] = next((other for other in before if _same_codes(codes[name], codes[other])), name)
        if holders[name] == name:
            before.append(name)
    return holders


def _same_codes(a: QuantizedWeight, b: QuantizedWeight) -> bool:
    """Whether two weights are stored as the same codes and zero points."""
    if a.codes is b.codes and a.zero_point is b.zero_point:
        return True
    same = a.codes.shape == b.codes.shape and (a.bits, a.ternary, a.book) == (b.bits, b.ternary, b.book)
    if not same or a.scale.shape != b.scale.shape:
        return False
    zeros = [np.broadcast_to(weight.zero_point, weight.scale.shape) for weight in (a, b)]
    return bool(np.array_equal(a.codes, b.codes) and np.array_equal(zeros[0], zeros[1]))
