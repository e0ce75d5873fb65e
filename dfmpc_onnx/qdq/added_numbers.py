"""Constants of sums and products between layers: codes that hold them exactly, so that integers are computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.graph.edit import Namer, insert
from dfmpc_onnx.graph.operators import clip_bounds, dequantizes, op_of, quantizes
from dfmpc_onnx.graph.query import constant, has_input, input_constant, only_consumer, producer
from dfmpc_onnx.numerics.arrays import Float32
from dfmpc_onnx.numerics.ranges import LEVELS, QParams, unsigned_qparams

FUSES_ACTIVATION = frozenset({"Conv", "Add"})
OPERANDS = frozenset({"Add", "Concat", "Div", "MatMul", "Max", "Min", "Mul", "PRelu", "Sub"})
EXACT = 1e-5  # of a constant, by which its code may differ from it


def effective_output(graph: gs.Graph, node: gs.Node) -> gs.Tensor:
    """The output of a node, or of the Relu or Clip from 0 that stands alone behind it and fuses with it."""
    following = only_consumer(graph, node.outputs[0])
    if isinstance(following, gs.Node) and op_of(following) in ("Relu", "Clip") and op_of(node) in FUSES_ACTIVATION:
        try:
            low, _ = clip_bounds(following)
        except Unknown:
            return node.outputs[0]
        if low == 0.0:
            return following.outputs[0]
    return node.outputs[0]


def adds_number(node: gs.Node) -> bool:
    """Whether a node adds one number to a tensor: codes hold the number exactly, at a scale of its own."""
    numbers = [values for t in node.inputs if (values := constant(t)) is not None]
    plain = op_of(node) == "Add" and len(node.inputs) == 2 and len(numbers) == 1
    return plain and numbers[0].size == 1 and numbers[0].dtype == np.float32


def multiplies_by_codes(node: gs.Node) -> bool:
    """Whether a node multiplies channels by constants that codes hold exactly: whole 255ths of the largest of them."""
    if op_of(node) != "Mul" or len(node.inputs) != 2:
        return False
    values = constant(node.inputs[1])
    if constant(node.inputs[0]) is not None or values is None or values.size < 2 or values.dtype != np.float32:
        return False
    factors = values.astype(np.float64)
    if not (np.isfinite(factors).all() and (factors > 0).all()):
        return False
    steps = LEVELS * factors / float(factors.max())
    return bool((np.abs(steps - np.rint(steps)) < EXACT * steps).all())


def codes_fit(node: gs.Node) -> bool:
    """Whether codes hold the constant of a sum or product between layers exactly."""
    return adds_number(node) or multiplies_by_codes(node)


def quantize_numbers(graph: gs.Graph, names: Namer) -> None:
    """Give the constant that is added to a dequantized tensor, or multiplies it, codes: it is computed in integers.

    A number c is code 255 at the scale c / 255, or code 0 with the zero point 255 where it is negative.
    """
    before: dict[int, list[gs.Node]] = {}
    for node in graph.nodes:
        after = only_consumer(graph, effective_output(graph, node)) if codes_fit(node) else ""
        if isinstance(after, str) or not quantizes(after):
            continue
        index = next(i for i, t in enumerate(node.inputs) if constant(t) is not None)
        source = producer(node.inputs[1 - index])
        value = np.asarray(constant(node.inputs[index]), np.float32)
        if source is None or not dequantizes(source) or not np.isfinite(value).all():
            continue
        bound = float(value.max())
        parameters = unsigned_qparams(min(bound, 0.0), max(bound, 0.0))
        before[id(node)] = [_decoded(node, index, value, parameters, names)]
    insert(graph, before=before)


def quantize_operands(
    graph: gs.Graph, qparams_of: Callable[[Literal[8, 16]], Callable[[float, float], QParams]], names: Namer
) -> None:
    """Give every constant beside a dequantized operand codes, rounded to the scale that its own range asks for.

    For a runtime that computes an operator in integers where all of its operands are. qparams_of: for codes of so many
    bits, what makes scale and zero point of two bounds; a constant has as many as the operand. The weight of a MatMul
    that is a constant still is that of a layer that stays float.
    """
    before: dict[int, list[gs.Node]] = {}
    for node in graph.nodes:
        sources = [producer(t) for t in node.inputs if isinstance(t, gs.Variable)] if op_of(node) in OPERANDS else []
        beside = next((source for source in sources if source is not None and dequantizes(source)), None)
        if beside is None:
            continue
        qparams = qparams_of(_code_bits(beside))
        for index, tensor in enumerate(node.inputs):
            value = constant(tensor)
            if value is None or value.dtype != np.float32 or not value.size or not np.isfinite(value).all():
                continue
            if op_of(node) == "MatMul" and index == 1 and value.ndim == 2:
                continue
            parameters = qparams(float(value.min()), float(value.max()))
            before.setdefault(id(node), []).append(
                _decoded(node, index, np.asarray(value, np.float32), parameters, names)
            )
    insert(graph, before=before)


def _code_bits(dequantizer: gs.Node) -> Literal[8, 16]:
    """The bits of the codes that a DequantizeLinear reads, by its zero point; 8 without one."""
    zero = input_constant(dequantizer, 2) if has_input(dequantizer, 2) else None
    return 16 if zero is not None and zero.dtype.itemsize == 2 else 8


def _decoded(node: gs.Node, index: int, value: Float32, parameters: QParams, names: Namer) -> gs.Node:
    """Let a node read a constant from codes; returns the DequantizeLinear to put in front of it."""
    scale, zero = parameters
    span = np.iinfo(zero.dtype)
    code = np.clip(np.rint(value.astype(np.float64) / scale + int(zero)), span.min, span.max)
    stem, decoded = names("number"), gs.Variable(names("number.decoded"))  # short: they are stored several times
    constants = [
        gs.Constant(f"{stem}.q", np.asarray(code, zero.dtype)),
        gs.Constant(f"{stem}.scale", np.array(scale, np.float32)),
    ]
    constants.append(gs.Constant(f"{stem}.zp", np.array(zero)))
    node.inputs[index] = decoded
    return gs.Node("DequantizeLinear", stem, {}, constants, [decoded])
