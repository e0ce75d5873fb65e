"""The layers that a network's outputs come from, and what each layer costs to compute.

Behind them no further layer follows, only moves, sums, and functions such as Sigmoid and Softmax: their outputs are
scores and boxes. On inputs of nothing in particular a detector's score stays at one end of its scale, so nothing that
is measured there says how far it reaches.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import onnx
import onnx.shape_inference
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.edit import detached_weights
from dfmpc_onnx.graph.operators import is_weighted, keeps_scale, meaning_of, op_of, squashes
from dfmpc_onnx.graph.query import consumers, is_output, producer

SIZES = frozenset({"Shape", "Size"})
SUMS = frozenset({"Add", "Sub", "Concat"})  # with moves and pooling: what is linear between layers


def tail_tensors(graph: gs.Graph) -> set[str]:
    """The tensors behind which no layer follows: scores and boxes.

    On images of nothing in particular no score is as high as on an image of the thing, so what was measured there
    is too narrow. A layer that takes the mean of a distribution only reads it out, so what is in front of it is of the
    tail, too. A tensor of which only the size is read leads nowhere.
    """
    leads: set[str] = set()
    tail: set[str] = set()
    for node in reversed(graph.nodes):
        reaches = any(t.name in leads for t in node.outputs)
        tail.update(t.name for t in node.outputs if t.name not in leads)
        if op_of(node) not in SIZES and (reaches or (is_weighted(node) and not _reads_out(node))):
            leads.update(t.name for t in node.inputs)
    return tail


def _reads_out(node: gs.Node) -> bool:
    """Whether a layer is the mean of numbers under a Softmax: one output of its own, as box edges in YOLOv8."""
    weight = node.inputs[1].shape
    ends = weight if op_of(node) == "Conv" or node.attrs.get("transB", 0) else weight[::-1] if weight else None
    if not ends or (len(weight) > 1 and ends[0] != 1):
        return False
    source = producer(node.inputs[0])
    while source is not None and keeps_scale(source) and source.inputs:
        source = producer(source.inputs[0])
    return source is not None and op_of(source) == "Softmax"


def output_layers(graph: gs.Graph, names: Collection[str]) -> dict[str, bool]:
    """The layers, out of these names, behind which no layer follows, and those that only such layers read linearly.

    Each with whether its values become scores: a Sigmoid, Softmax or the like stands behind it. A layer that another
    reads without an activation between is one linear map with it, and as one-sided: both are of the head.
    """
    tail = tail_tensors(graph)
    found: dict[str, bool] = {}
    scores: set[str] = set()  # tensors that become scores
    linear: set[str] = set()  # tensors that nothing but layers of the head reads, with no activation between
    for node in reversed(graph.nodes):
        outputs = [t for t in node.outputs if not t.is_empty()]
        becomes = squashes(node) or any(t.name in scores for t in outputs)
        joined = all(_read_by_head(graph, t, linear, found) for t in outputs)
        if is_weighted(node):
            if node.name in names and (all(t.name in tail for t in outputs) or joined):
                found[node.name] = becomes
            elif not all(t.name in tail for t in outputs):
                continue
        elif joined and (keeps_scale(node) or op_of(node) in SUMS or meaning_of(node).pools == "averages"):
            linear.update(t.name for t in outputs)
        elif not all(t.name in tail for t in outputs):
            continue
        if becomes:
            scores.update(t.name for t in node.inputs[: 1 if is_weighted(node) else None])
    return found


def _read_by_head(graph: gs.Graph, tensor: gs.Tensor, linear: set[str], head: Mapping[str, bool]) -> bool:
    """Whether layers of the head alone read a tensor, through what is linear."""
    readers = consumers(tensor)
    return (
        bool(readers)
        and not is_output(graph, tensor)
        and all(node.name in head or all(t.name in linear for t in node.outputs) for node in readers)
    )


def multiply_adds(graph: gs.Graph, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """What each layer costs, in multiplications of a weight: by its name, 0 where the size of its output is not known.

    shapes: of the inputs, with every dimension known.
    """
    sizes = inferred_shapes(graph, shapes)
    return {node.name: _cost(node, sizes.get(node.outputs[0].name, [])) for node in graph.nodes if is_weighted(node)}


def inferred_shapes(graph: gs.Graph, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, list[int]]:
    """The shapes of tensors by name, 0 for what is not known; those that cannot be inferred are left out.

    shapes: of the inputs, with every dimension known.
    """
    with detached_weights(graph):
        skeleton = gs.export_onnx(graph, ir_version=graph.ir_version)
    del skeleton.graph.value_info[:]
    for value in skeleton.graph.output:
        value.type.tensor_type.ClearField("shape")
    for value in skeleton.graph.input:
        if value.name in shapes:
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, kind, shapes[value.name]))
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, strict_mode=False, data_prop=True).graph
    except Exception:  # of several kinds, of C++ origin
        return {}
    return {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    }


def _cost(node: gs.Node, made: list[int]) -> int:
    """Multiplications of a layer whose output has a shape; 0 in it stands for what is not known."""
    weight = node.inputs[1].shape
    if not made or weight is None or not all(isinstance(d, int) for d in weight):
        return 0
    positions = made[2:] if op_of(node) in ("Conv", "ConvTranspose") else made[:-1]
    return int(math.prod(weight) * math.prod(positions))
