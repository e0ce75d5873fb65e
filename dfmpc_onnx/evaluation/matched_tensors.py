"""Which tensors stand in both of two networks, and the second one cut at them.

Tensors are matched by name: what quantizes a network keeps the names of what it does not replace. One that is rounded
for all that read it stands in the second network as its rounded values: some tools leave a Relu to the codes, so that
the values before are others. Cut at the matched tensors, a network falls into pieces that can be fed what another
network computes there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

import onnx

from dfmpc_onnx.model.protos import (
    RUNTIME_DOMAINS,
    WEIGHTED_OPERATORS,
    bodies,
    captured_names,
    every_node,
    fed_names,
    makers,
    names_read,
    nodes_behind,
    op_of,
    put_in,
    readers,
)

RUNTIME_LAYERS = frozenset({"com.microsoft::QLinearConv", "QLinearConv", "QLinearMatMul", "MatMulInteger"})
INPUT = "input"  # in the place of an operator
OWN = "what the piece computes"  # ends the names of tensors of a cut network that would be those of its inputs


@dataclasses.dataclass(frozen=True)
class MatchedTensor:
    """A tensor of both networks, as it stands in the second.

    stands: its name there, another where it is rounded for all that read it. node, op: what makes it there, before it
    is rounded. layers: the nodes with weights between the matched tensors in front of it and itself, by name; most
    pieces have one or none. reads: those tensors, and inputs of the network; reads_at: the tensors of the second
    network by which it reads them, which may be rounded for it alone, each with the name of the matched one.
    """

    name: str
    stands: str
    node: str
    op: str
    layers: tuple[str, ...]
    reads: tuple[str, ...]
    reads_at: tuple[tuple[str, str], ...] = ()

    @property
    def is_input(self) -> bool:
        """Whether it is an input of the network."""
        return self.op == INPUT


@dataclasses.dataclass(frozen=True)
class Matching:
    """The tensors of both networks in the second one's order, and the layers of the first that have none.

    inputs: those of the network that the second one rounds for all that read them. layers: how many layers the first
    network has.
    """

    inputs: tuple[MatchedTensor, ...]
    tensors: tuple[MatchedTensor, ...]
    unmatched: tuple[str, ...]
    layers: int


def common_tensors(first: onnx.ModelProto, second: onnx.ModelProto) -> list[str]:
    """Names of what both networks compute from their inputs, in the second one's order."""
    mine = _computed(first.graph)
    return [name for name in _computed(second.graph) if name in mine]


def called(node: onnx.NodeProto) -> str:
    """A node's name; of one that has none that of what it computes."""
    return node.name or next(iter(node.output), "")


def standing(second: onnx.ModelProto, names: Iterable[str]) -> dict[str, str]:
    """By tensor its name in the second network: that of its rounded values where these are all that is read."""
    behind, outputs = readers(second.graph.node), {value.name for value in second.graph.output}
    captured = {name for node in second.graph.node for body in bodies(node) for name in captured_names(body)}

    def only(name: str, op: str) -> str:
        found = behind.get(name, [])
        alone = len(found) == 1 and op_of(found[0], RUNTIME_DOMAINS) == op and found[0].input[0] == name
        return found[0].output[0] if alone and name not in outputs | captured else ""

    rounded = {name: only(only(name, "QuantizeLinear"), "DequantizeLinear") for name in names}
    return {name: stands or name for name, stands in rounded.items()}


def decoders_of(nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The DequantizeLinears among nodes."""
    return [node for node in nodes if op_of(node, RUNTIME_DOMAINS) == "DequantizeLinear"]


def rounded_ends(second: onnx.ModelProto, names: Iterable[str]) -> dict[str, str]:
    """What DequantizeLinears give of the codes of tensors, each with the name of the tensor."""
    behind = readers(second.graph.node)
    found = {}
    for name in names:
        for reader in behind.get(name, ()):
            if op_of(reader, RUNTIME_DOMAINS) == "QuantizeLinear" and reader.input[0] == name:
                decoders = decoders_of(behind.get(reader.output[0], ()))
                found.update({decoder.output[0]: name for decoder in decoders})
    return found


def without_rounding(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """A copy of the model in which all that reads the rounded values of these tensors reads them unrounded."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    ends = rounded_ends(model, names)
    for node in every_node(copy.graph.node):
        for index, name in enumerate(node.input):
            if name in ends:
                node.input[index] = ends[name]
    return copy


def match(first: onnx.ModelProto, second: onnx.ModelProto, stands: Mapping[str, str]) -> Matching:
    """How the networks hang together at some of their common tensors.

    first: the float network. stands: by the name of each tensor there its name in the second (`standing`).
    """
    found, inputs = makers(second.graph.node), standing(second, fed_names(second.graph))
    computed = _computed(second.graph)
    ends = {hat: name for name, hat in (*inputs.items(), *stands.items())}
    ends |= rounded_ends(second, (*inputs, *stands))
    tensors = []
    for name in computed:
        if name in stands:
            layers, reads = _piece(stands[name], found, ends.keys(), computed)
            of_first = tuple(dict.fromkeys(ends[read] for read in reads))
            at = tuple((read, ends[read]) for read in reads)
            made = found[name]
            tensors.append(MatchedTensor(name, stands[name], called(made), op_of(made), layers, of_first, at))
    layers_of_first = _layers(first.graph)
    rounded = tuple(MatchedTensor(name, hat, "", INPUT, (), ()) for name, hat in inputs.items() if hat != name)
    return Matching(rounded, tuple(tensors), _unmatched(first.graph, layers_of_first, stands), len(layers_of_first))


def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """A copy of the model whose outputs are these tensors, of types that the runtime works out."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    stated = {value.name: value for value in (*model.graph.output, *model.graph.input)}
    put_in(copy.graph.output, [stated.get(name) or onnx.ValueInfoProto(name=name) for name in names])
    del copy.graph.value_info[:]  # some are stale, which matters where they are outputs
    return copy


def cut(
    model: onnx.ModelProto,
    tensors: Sequence[MatchedTensor],
    kinds: Mapping[str, int],
    wanted: Collection[str],
    ends: Mapping[str, str] = MappingProxyType({}),
) -> tuple[onnx.ModelProto, dict[str, str], dict[str, str]]:
    """The pieces of a model that make some of its matched tensors, each fed at the tensors that it reads.

    kinds: the element type of each matched tensor. ends: other tensors to cut at, each with the matched one that it
    holds. Returns the model of the pieces, the name under which it gives each wanted tensor, and by the names under
    which it is fed the matched tensors.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    holds = {**ends, **{tensor.stands: tensor.name for tensor in tensors}}
    named: dict[str, str] = {}
    for node in copy.graph.node:
        for index, name in enumerate(node.output):
            if name in holds:
                node.output[index] = named[name] = f"{name} {OWN}"
    given_as = {tensor.name: named[tensor.stands] for tensor in tensors if tensor.name in wanted}
    nodes, read = nodes_behind(copy.graph.node, given_as.values())
    fed = {hat: name for hat, name in holds.items() if hat in read}
    put_in(copy.graph.node, nodes)
    put_in(copy.graph.initializer, [tensor for tensor in copy.graph.initializer if tensor.name in read])
    put_in(copy.graph.output, [onnx.ValueInfoProto(name=name) for name in given_as.values()])
    given = [value for value in copy.graph.input if value.name in read and value.name not in fed]
    put_in(copy.graph.input, [*given, *(_input(hat, kinds[name]) for hat, name in fed.items())])
    del copy.graph.value_info[:]
    return copy, given_as, fed


def fed_at(
    model: onnx.ModelProto, tensors: Mapping[str, int], outputs: Sequence[str]
) -> tuple[onnx.ModelProto, list[str]]:
    """A model in which some tensors are inputs of their element types, and these its outputs; and what else it is fed.

    An output that is one of the tensors is left out.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        for index, name in enumerate(node.output):
            if name in tensors:
                node.output[index] = f"{name} {OWN}"
    wanted = [name for name in outputs if name not in tensors]
    nodes, read = nodes_behind(copy.graph.node, wanted)
    put_in(copy.graph.node, nodes)
    put_in(copy.graph.initializer, [tensor for tensor in copy.graph.initializer if tensor.name in read])
    stated = {value.name: value for value in model.graph.output}
    put_in(copy.graph.output, [stated.get(name) or onnx.ValueInfoProto(name=name) for name in wanted])
    given = [value for value in copy.graph.input if value.name in read and value.name not in tensors]
    put_in(copy.graph.input, [*given, *(_input(name, kind) for name, kind in tensors.items())])
    del copy.graph.value_info[:]
    return copy, [value.name for value in given]


def _input(name: str, kind: int) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, kind, None)


def _computed(graph: onnx.GraphProto) -> dict[str, None]:
    """What depends on the inputs of a graph, in order."""
    known = set(fed_names(graph))
    found: dict[str, None] = {}
    for node in graph.node:
        if any(name in known for name in names_read(node)):
            outputs = [name for name in node.output if name]
            known.update(outputs)
            found.update(dict.fromkeys(outputs))
    return found


def _piece(
    name: str, found: Mapping[str, onnx.NodeProto], ends: Collection[str], computed: Collection[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The layers and the ends that a tensor is computed from, those nearest to it first."""
    waiting, seen = [name], {name}
    layers: dict[str, None] = {}
    reads: dict[str, None] = {}
    while waiting:
        node = found.get(waiting.pop(0))
        if node is None:
            continue
        if _is_layer(node, computed):
            layers[called(node)] = None
        for read in names_read(node):
            if read in seen:
                continue
            seen.add(read)
            if read in ends:
                reads[read] = None
            else:
                waiting.append(read)
    return tuple(layers), tuple(reads)


def _layers(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    computed = _computed(graph)
    return [node for node in graph.node if _is_layer(node, computed)]


def _unmatched(graph: onnx.GraphProto, layers: Sequence[onnx.NodeProto], names: Collection[str]) -> tuple[str, ...]:
    """Layers behind which no matched tensor stands before the next layers."""
    behind, outputs = readers(graph.node), {node.output[0] for node in layers}
    found = []
    for layer in layers:
        waiting, seen = [layer.output[0]], set[str]()
        while waiting:
            name = waiting.pop()
            if name in names:
                break
            if name not in seen:
                seen.add(name)
                given = [output for reader in behind.get(name, ()) for output in reader.output]
                waiting.extend(output for output in given if output not in outputs)
        else:
            found.append(called(layer))
    return tuple(found)


def _is_layer(node: onnx.NodeProto, computed: Collection[str]) -> bool:
    """Whether a node computes with a weight. computed: what depends on the inputs of the network."""
    if op_of(node) in RUNTIME_LAYERS:
        return True
    return op_of(node) in WEIGHTED_OPERATORS and len(node.input) > 1 and node.input[1] not in computed
