"""What no runtime survives: counts below 1, inputs left out, functions that call themselves."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from dfmpc_onnx.errors import ModelError, shown
from dfmpc_onnx.model.protos import RUNTIME_DOMAINS, STANDARD_DOMAINS, all_nodes, bodies, every_node, standard_opset

FLAGS = frozenset({"transA", "transB"})
INT32 = range(-(2**31), 2**31)
COUNTS = frozenset({"group", "strides", "dilations", "kernel_shape", "blocksize"})
VARIADIC = onnx.defs.OpSchema.FormalParameterOption.Variadic
# Of a model with its functions written out, where the file itself does not hold a tenth as many: a handful of functions
# that call each other twice would keep a machine busy for hours.
MOST_NODES = 50_000
MOST_UNFOLDED_BYTES = 2**29
LONGEST_UNFOLDING = 10

DEEPEST_BODIES = 20  # protobuf reads 100 levels, of which each body takes three, and is set into other messages later
DEEPEST_TYPES = 8


def check_depth(model: onnx.ModelProto, where: str) -> None:
    """Raise ModelError where bodies, or sequences of sequences, stand in each other more deeply than in any network."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    for _ in range(DEEPEST_BODIES + 1):
        inner = [body for node in nodes for body in bodies(node)]
        nodes = [node for body in inner for node in body.node]
        values += [value for body in inner for part in (body.input, body.output, body.value_info) for value in part]
    if nodes:
        raise ModelError(
            f"{where}: bodies of control flow stand more than {DEEPEST_BODIES} deep in each other; refused"
        )
    if any(_depth(value.type) > DEEPEST_TYPES for value in values):
        raise ModelError(f"{where}: a type is nested more than {DEEPEST_TYPES} deep; the file is damaged")


def _depth(kind: onnx.TypeProto) -> int:
    """How many sequences, maps and optionals stand around a tensor's type."""
    count = 0
    while (field := kind.WhichOneof("value")) in ("sequence_type", "optional_type", "map_type"):
        inner = getattr(kind, field)
        kind, count = inner.value_type if field == "map_type" else inner.elem_type, count + 1
    return count


def check_windows(model: onnx.ModelProto, where: str) -> None:
    """Raise ModelError where an operator counts by a number below 1, or a flag is beyond 32 bits.

    onnxruntime divides by the one and is gone; of the other it keeps 32 bits, which may say the opposite.
    """
    for node in all_nodes(model):
        for attribute in node.attribute if node.domain in RUNTIME_DOMAINS else ():
            counts = [attribute.i] if attribute.HasField("i") else attribute.ints
            if attribute.name in COUNTS and min(counts, default=1) < 1:
                raise ModelError(f"{where}: {_describe(node)} has {attribute.name} below 1; the model is damaged")
            if attribute.name in FLAGS and attribute.i not in INT32:
                why = f"{attribute.name} {attribute.i}"
                raise ModelError(f"{where}: {_describe(node)} has {why}; the model is damaged")


def check_variadic(model: onnx.ModelProto, where: str) -> None:
    """Raise ModelError where one of any number of inputs, as of a Max, is left out: onnxruntime crashes on it."""
    for part in (model, *model.functions):
        opset = standard_opset(part)
        for node in every_node(part.graph.node if isinstance(part, onnx.ModelProto) else part.node):
            if "" in node.input and _needs_all(node, opset):
                raise ModelError(f"{where}: {_describe(node)} has an input without a name; the model is damaged")


def _describe(node: onnx.NodeProto) -> str:
    return f"{shown(node.op_type)} '{shown(node.name)}'"


def _needs_all(node: onnx.NodeProto, opset: int) -> bool:
    """Whether an input that is left out is one of those of which there may be any number."""
    if node.domain not in STANDARD_DOMAINS:
        return False
    try:
        wanted = onnx.defs.get_schema(node.op_type, opset, "").inputs
    except onnx.defs.SchemaError:
        return False
    return bool(wanted) and wanted[-1].option is VARIADIC and "" in node.input[len(wanted) - 1 :]


def check_functions(model: onnx.ModelProto, where: str) -> None:
    """Raise ModelError where the model's own functions call themselves, or unfold to more than any network has.

    A runtime writes each call out, and functions that call each other twice double the nodes, and the constants in
    them, at every step. Nothing is unfolded here.
    """
    if not model.functions:
        return
    parts = {(f.domain, f.name): f.node for f in model.functions}
    calls = {name: [(n.domain, n.op_type) for n in every_node(nodes)] for name, nodes in parts.items()}
    own = {name: (len(calls[name]), sum(n.ByteSize() for n in nodes)) for name, nodes in parts.items()}
    unfolded: dict[tuple[str, str], tuple[int, int]] = {}
    waiting = list(calls)
    inside: set[tuple[str, str]] = set()
    while waiting:  # not by recursion: each function may call the next, and Python's stack is short
        name = waiting[-1]
        missing = [called for called in calls[name] if called in calls and called not in unfolded]
        if name in unfolded or not missing:
            unfolded.setdefault(name, _sums(own[name], (unfolded.get(called) for called in calls[name])))
            inside.discard(waiting.pop())
        elif name in inside and any(called in inside for called in missing):
            raise ModelError(f"{where}: its function '{shown(name[1])}' calls itself; no runtime can run that")
        else:
            inside.add(name)
            waiting.extend(dict.fromkeys(missing))
    called = [(node.domain, node.op_type) for node in every_node(model.graph.node)]
    stated = len(called) + sum(count for count, _ in own.values())
    nodes, size = _sums((len(called), 0), map(unfolded.get, called))
    most = max(MOST_NODES, LONGEST_UNFOLDING * stated)
    if nodes > most or size > MOST_UNFOLDED_BYTES:
        what = f"{most:,} nodes" if nodes > most else f"{MOST_UNFOLDED_BYTES // 2**20} MiB"
        raise ModelError(f"{where}: its functions unfold to more than {what}; the file is damaged")


def _sums(own: tuple[int, int], called: Iterable[tuple[int, int] | None]) -> tuple[int, int]:
    """Nodes and bytes of a function or graph, with those of what it calls."""
    nodes, size = own
    for part in called:
        if part is not None:
            nodes, size = nodes + part[0], size + part[1]
    return nodes, size
