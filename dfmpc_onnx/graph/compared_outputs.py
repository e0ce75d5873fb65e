"""Which tensors of a network stand for its outputs where two networks are compared.

What is chosen by values (the boxes that NonMaxSuppression leaves, the highest scores) has another order or size after
the smallest error, and says nothing of how large that error is. So the tensors in front of the choice are compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import onnx
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import shown
from dfmpc_onnx.graph.operators import is_weighted, op_of, squashes
from dfmpc_onnx.graph.output_branches import joined_branches
from dfmpc_onnx.graph.query import producer, reads
from dfmpc_onnx.model import protos
from dfmpc_onnx.model.protos import every_node, fed_names

SELECTIONS = frozenset({"NonMaxSuppression", "NonZero", "TopK", "Compress", "Unique"})
LABELS = frozenset({"ArgMax", "ArgMin"})  # indices of entries; those behind which layers follow are left alone
LISTS = frozenset({"SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SplitToSequence"})
MEASURES_SHAPE = frozenset({"Shape", "Size"})


@dataclasses.dataclass(frozen=True)
class ComparedTensors:
    """tensors: those to compare, each once. replaced: the outputs that others stand for."""

    tensors: tuple[gs.Tensor, ...]
    replaced: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        if not self.replaced:
            return ()
        names = ", ".join(f"'{shown(name)}'" for name in self.replaced)
        return (f"chosen by values, or no tensor, so what lies in front is compared: {names}",)


def compared_tensor(output: gs.Tensor) -> gs.Tensor:
    """The tensor to compare for an output: itself, or the scores in front of a function that squeezes them."""
    node = producer(output)
    if node is None or not squashes(node) or isinstance(node.inputs[0], gs.Constant):
        return output
    source: gs.Tensor = node.inputs[0]
    return source


def compared_tensors(graph: gs.Graph) -> ComparedTensors:
    """The tensors to compare for the outputs of a graph; one visit of each node at most.

    Scores that a Concat joins to boxes are compared beside these and not in them, whatever their scales.
    """
    computed = _reached(graph, is_weighted, through=lambda node: op_of(node) not in MEASURES_SHAPE)
    chosen = _reached(graph, lambda node: selects(node) and _reads_any(node, computed))
    found: dict[str, gs.Tensor] = {}
    replaced: list[str] = []
    seen: set[str] = set()
    for output in graph.outputs:
        if not _is_replaced(output, chosen, computed):
            for tensor in joined_branches(compared_tensor(output)):
                found.setdefault(tensor.name, tensor)
            continue
        replaced.append(output.name)
        left = [output]
        while left:
            tensor = left.pop()
            if tensor.name in seen:
                continue
            seen.add(tensor.name)
            if tensor is output or tensor.name in chosen or _is_list(tensor):
                node = producer(tensor)
                left += list(reads(node)) if node is not None else []
            elif tensor.name in computed:
                front = compared_tensor(tensor)
                found.setdefault(front.name, front)
    return ComparedTensors(tuple(found.values()), tuple(replaced))


def selects(node: gs.Node) -> bool:
    """Whether a node, or one in its body, chooses by values, so that how many values come out, or which, depends on
    them; a Loop whose number of rounds is computed makes lists of any length."""
    if op_of(node) in SELECTIONS:
        return True
    if op_of(node) == "Loop" and node.inputs and isinstance(node.inputs[0], gs.Variable):
        return True
    bodies = [value for value in node.attrs.values() if isinstance(value, gs.Graph)]
    return any(selects(inner) for body in bodies for inner in body.nodes)


def chosen_outputs(model: onnx.ModelProto) -> frozenset[str]:
    """The outputs of a model whose rows are chosen by values, so that their order depends on the smallest error.

    A choice among constants, as exporters write index tables, and among sizes is always the same.
    """
    data, chosen = set(fed_names(model.graph)), set[str]()
    for node in model.graph.node:
        inner = [*every_node([node])]
        read = {name for each in inner for name in each.input}
        if not data.isdisjoint(read) and protos.op_of(node) not in MEASURES_SHAPE:
            data.update(node.output)
            if any(protos.op_of(each) in SELECTIONS for each in inner):
                chosen.update(node.output)
        if not chosen.isdisjoint(read):
            chosen.update(node.output)
    return frozenset(value.name for value in model.graph.output if value.name in chosen)


def _reached(
    graph: gs.Graph, starts: Callable[[gs.Node], bool], through: Callable[[gs.Node], bool] = lambda node: True
) -> set[str]:
    """The outputs of the nodes that start, and of all that read what is reached, where the way leads through them."""
    found: set[str] = set()
    for node in graph.nodes:
        if starts(node) or (_reads_any(node, found) and through(node)):
            found.update(tensor.name for tensor in node.outputs)
    return found


def _reads_any(node: gs.Node, names: set[str]) -> bool:
    return any(tensor.name in names for tensor in reads(node))


def _is_replaced(output: gs.Tensor, chosen: set[str], computed: set[str]) -> bool:
    if output.name in chosen or _is_list(output):
        return True
    node = producer(output)
    return node is not None and op_of(node) in LABELS and output.name in computed


def _is_list(tensor: gs.Tensor) -> bool:
    """Whether it is a sequence or a map; of tensors inside a graph the type is known by the operator."""
    if getattr(tensor, "type", "tensor_type") not in (None, "tensor_type"):
        return True
    node = producer(tensor)
    return node is not None and op_of(node) in LISTS
