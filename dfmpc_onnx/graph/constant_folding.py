"""Weights that a few nodes make out of constants: worked out where that is exact, and told apart where it is not."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.edit import Namer, remove, replace_reads
from dfmpc_onnx.graph.operators import dequantizes, op_of
from dfmpc_onnx.graph.query import constant, describe, element_type, producer

# What exporters put between a stored weight and the layer that reads it.
FOLDABLE = frozenset(
    {"Identity", "Cast", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
    | {"Add", "Sub", "Mul", "Div", "Neg", "Sqrt", "Reciprocal", "Pow", "Concat", "Slice"}
)
GENERATORS = frozenset(
    {"ConstantOfShape", "EyeLike", "Range", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"}
)
MOST_FOLDED_VALUES = 2**28  # values of one constant: what a few nodes make must not exhaust memory


@dataclasses.dataclass(frozen=True)
class Origin:
    """Why a layer has no stored float weight. generator: the operator that makes it, where one does; text: in words."""

    kind: Literal["fed", "computed", "quantized", "generated"]
    text: str
    generator: str | None = None


def fold_constants(graph: gs.Graph) -> list[str]:
    """Replace nodes that compute a float constant from constants; returns their names.

    Codes of a quantized weight are integers of 8 bits or fewer: what decodes them stays, and so does whatever would
    make a constant larger than what it is made of (but for half floats, which become float32). What is an output as
    well keeps its name.
    """
    done, dead = [], []
    names, places = Namer(graph), {id(tensor): place for place, tensor in enumerate(graph.outputs)}
    for node in list(graph.nodes):
        if op_of(node) not in FOLDABLE or len(node.outputs) != 1:
            continue
        output = node.outputs[0]
        if not output.outputs or not _foldable(node):
            continue
        values = _value(graph, node)
        if values is None:
            continue
        place = places.get(id(output))
        folded = gs.Constant(output.name if place is not None else names(f"{output.name}.folded"), values)
        replace_reads(output, folded)
        if place is not None:
            graph.outputs[place] = folded
        done.append(node.name)
        dead.append(node)
    remove(graph, dead)
    return done


def _foldable(node: gs.Node) -> bool:
    """Whether all inputs are constants, one of them of floats, and none holds codes."""
    given = [t for t in node.inputs if not t.is_empty()]
    if not given or not all(isinstance(t, gs.Constant) for t in given):
        return False
    kinds = [element_type(t) for t in given]
    if any(kind is None or (kind.kind != "f" and kind.itemsize < 2) for kind in kinds):
        return False
    if kinds[0] is None or not _is_float(kinds[0]):
        return False
    sizes = [int(np.prod(t.shape)) for t in given]
    if op_of(node) == "Cast":
        return int(node.attrs.get("to", 0)) == onnx.TensorProto.FLOAT
    if op_of(node) in ("Add", "Sub", "Mul", "Div", "Pow"):
        broadcast = np.broadcast_shapes(*(tuple(int(d) for d in t.shape) for t in given)) if _fit(given) else None
        return broadcast is not None and int(np.prod(broadcast)) <= max(sizes)
    return sum(sizes) <= MOST_FOLDED_VALUES


def _fit(tensors: list[gs.Constant]) -> bool:
    try:
        np.broadcast_shapes(*(tuple(int(d) for d in t.shape) for t in tensors))
    except ValueError:
        return False
    return True


def _is_float(kind: np.dtype[np.generic]) -> bool:
    return kind.kind == "f" or kind.name == "bfloat16"


# onnx's reference of Pow and Sqrt changes the filters of warnings and sets them back, and those are the process's.
_EVALUATING = threading.Lock()


def _value(graph: gs.Graph, node: gs.Node) -> npt.NDArray[np.generic] | None:
    """What a node of constants computes, by onnx's own reference; None where that fails, as a runtime then will."""
    from onnx.reference import ReferenceEvaluator  # late: it takes a fifth of a second

    output = gs.Variable("value")
    inputs = [
        gs.Constant(f"input{i}", t.values) if isinstance(t, gs.Constant) else t for i, t in enumerate(node.inputs)
    ]
    copy = gs.Node(node.op, "node", dict(node.attrs), inputs, [output], node.domain)
    alone = gs.Graph([copy], outputs=[output], opset=graph.opset)
    try:
        model = gs.export_onnx(alone, do_type_check=False, ir_version=graph.ir_version)
        with _EVALUATING:
            (result,) = ReferenceEvaluator(model).run(None, {})
    except Exception:  # whatever is wrong with the node is for the checker or the runtime to say
        return None
    return np.asarray(result, order="C") if isinstance(result, np.ndarray) else None


def origin(tensor: gs.Tensor) -> Origin:
    """Why a layer has no stored float weight: it is generated, already quantized, computed or fed."""
    by = producer(tensor)
    if by is None:
        return Origin("fed", "its weight is an input of the model")
    computed = Origin("computed", f"its weight is computed by {describe(by)}")
    found = list(_ancestors(tensor))
    if any(isinstance(t, gs.Variable) and not t.inputs and not t.is_empty() for n in found for t in n.inputs):
        return computed
    if any(dequantizes(n) or (op_of(n) == "Cast" and _holds_codes(n)) for n in found):
        return Origin("quantized", "its weight is already quantized")
    generator = next((n for n in found if op_of(n) in GENERATORS), None)
    if generator is not None:
        return Origin("generated", f"its weight is generated by {generator.op}, not stored", generator.op)
    return computed


def _ancestors(tensor: gs.Tensor) -> Iterator[gs.Node]:
    """Every node that a tensor depends on, the nearest first."""
    waiting, seen = [tensor], set()
    while waiting:
        by = producer(waiting.pop(0))
        if by is not None and id(by) not in seen:
            seen.add(id(by))
            yield by
            waiting.extend(by.inputs)


def _holds_codes(node: gs.Node) -> bool:
    """Whether a Cast reads integers of 8 bits or fewer."""
    kind = element_type(node.inputs[0]) if node.inputs else None
    values = constant(node.inputs[0]) if isinstance(node.inputs[0], gs.Constant) else None
    kind = values.dtype if values is not None else kind
    return kind is not None and kind.itemsize == 1 and not _is_float(kind) and kind.kind != "b"
