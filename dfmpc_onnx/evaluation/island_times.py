"""Where the time of a run goes: the islands of float between integer kernels, and what closing each would save."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence

import msgspec
import onnx

from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.evaluation.closed_twin import closed_twin
from dfmpc_onnx.evaluation.kernel_census import INTEGER_KERNELS
from dfmpc_onnx.graph.exchange import to_graph
from dfmpc_onnx.model.protos import RUNTIME_DOMAINS, initializer_names, op_of
from dfmpc_onnx.model.source import Source, load
from dfmpc_onnx.runtime.latency import NodeTime, Profile, profiles
from dfmpc_onnx.runtime.session import Feeds, Loadable, optimized_model

MOST_CLOSED = 8  # islands, the slowest first, of which it is measured what closing them saves
SECONDS_EACH = 1.0  # of runs of each network
FLOAT_RESULTS = ("MatMulIntegerToFloat", "DynamicQuantizeMatMul")  # integer kernels that give floats


class IslandTime(msgspec.Struct, frozen=True):
    """A connected part of a network as it runs that is in float, with the steps from and to integers at its ends.

    layers: the names in the file of its layers. operators: its nodes, counted. ms: of a run; share: per cent of all.
    saves_ms: what integers in its place save, below 0 where they are slower; None where it has no integer kernels, or
    is none of the slowest. costs: the share of the output that suffers most which is error then, 0 to 1, as 8-bit
    activations there make it on generated inputs; None where that was not asked, or is not known.
    """

    layers: tuple[str, ...]
    operators: dict[str, int]
    ms: float
    share: float
    saves_ms: float | None = None
    costs: float | None = None


class LayerTime(msgspec.Struct, frozen=True):
    """A layer as the file has it: its kernel and milliseconds of a run, and in integers where that was tried."""

    name: str
    kernel: str
    ms: float
    spread_ms: float
    integer_ms: float | None = None


class TimeTable(msgspec.Struct, frozen=True):
    """Milliseconds of a run, the sum of all kernels; of those in integers; the islands and layers, the slowest first.

    fed: what was fed, as text.
    """

    ms: float
    integer_ms: float
    islands: tuple[IslandTime, ...]
    layers: tuple[LayerTime, ...]
    fed: str


CostsOf = Callable[[Sequence[Collection[str]]], Sequence[float | None]]


def no_costs(islands: Sequence[Collection[str]]) -> Sequence[float | None]:
    """For a table of times alone."""
    return [None] * len(islands)


def time_table(
    source: Source,
    feeds: Feeds,
    closed_islands: int = MOST_CLOSED,
    seconds: float = SECONDS_EACH,
    costs_of: CostsOf = no_costs,
) -> TimeTable:
    """Measure a model on this machine. Raises ModelError where it cannot be run.

    Each of the slowest islands, `closed_islands` at most, is closed by itself and timed beside the model as it is, in
    turns. seconds: of runs of each network. costs_of: what each of those costs, by the names of the tensors that it
    makes.
    """
    model = _with_names(source)
    (now,) = profiles([(model, feeds)], source.label, seconds)
    parts = sorted(_islands(now), key=lambda part: -_seconds(part))
    named, nodes = now.layers(source.model), now.file_nodes(source.model)
    closed: dict[str, float] = {}
    rows = []
    made = [{t for run in part for node in nodes[run.name] for t in node.output} for part in parts[:closed_islands]]
    costs = costs_of(made) if made else []
    for number, part in enumerate(parts):
        saved = None
        if number < closed_islands:
            pair = _closed(model, source.label, feeds, made[number])
            if pair is not None:
                beside, twin = pair
                # The rest of a network takes the same either way; where it did not, something else ran meanwhile.
                saved = round(1000 * min(beside.total - twin.total, _seconds(part)), 4)
                closed.update(_layer_seconds(twin, {named[run.name] for run in part if run.name in named}))
        rows.append(_row(part, named, now.total, saved, None if saved is None else costs[number]))
    slow = sorted((node for node in now.nodes if node.name in named), key=lambda node: -node.span.seconds)
    layers = tuple(_layer(node, named[node.name], closed.get(named[node.name])) for node in slow)
    floats = sum(map(_seconds, parts))
    fed = ", ".join(f"{name} {'x'.join(map(str, value.shape))}" for name, value in feeds.items())
    return TimeTable(round(1000 * now.total, 4), round(1000 * (now.total - floats), 4), tuple(rows), layers, fed)


def _seconds(nodes: list[NodeTime]) -> float:
    return sum(node.span.seconds for node in nodes)


def _row(
    part: list[NodeTime], named: dict[str, str], total: float, saved: float | None, costs: float | None
) -> IslandTime:
    layers = tuple(dict.fromkeys(named[node.name] for node in part if node.name in named))
    share = round(100 * _seconds(part) / total, 2) if total else 0.0
    return IslandTime(
        layers, dict(Counter(node.kernel for node in part)), round(1000 * _seconds(part), 4), share, saved, costs
    )


def _layer(node: NodeTime, name: str, integer: float | None) -> LayerTime:
    seconds = None if integer is None else round(1000 * integer, 4)
    return LayerTime(name, node.kernel, round(1000 * node.span.seconds, 4), round(1000 * node.span.spread, 4), seconds)


def _with_names(source: Source) -> Loadable:
    """A model whose nodes all have names, by which their times are found: else those of the tensors that they make."""
    if all(node.name for node in source.model.graph.node):
        return source.path or source.model
    named = onnx.ModelProto()
    named.CopyFrom(source.model)
    taken = {node.name for node in named.graph.node}
    for node in named.graph.node:
        if not node.name and node.output and node.output[0] not in taken:
            node.name = node.output[0]
    return named


def _closed(model: Loadable, label: str, feeds: Feeds, made: set[str]) -> tuple[Profile, Profile] | None:
    """Profiles of a model as it is, and with what makes these tensors closed; None where that has no integer kernel."""
    try:
        graph = to_graph(load(optimized_model(model, label, fused=False)))
        twin = closed_twin(graph, made)
        if twin is None:
            return None
        beside, other = profiles([(model, feeds), (twin, feeds)], label, SECONDS_EACH)
    except ModelError:  # what onnxruntime makes of a file need not be a valid one, and no numbers are worth a stop
        return None
    return (beside, other) if _integers(other) > _integers(beside) else None


def _integers(profile: Profile) -> int:
    """How many kernels compute in integers."""
    return sum(node.kernel.startswith("QLinear") or node.kernel in INTEGER_KERNELS for node in profile.nodes)


def _layer_seconds(twin: Profile, wanted: set[str]) -> Iterator[tuple[str, float]]:
    """What layers take in integers."""
    for node in twin.nodes:
        if node.file_name in wanted and node.kernel in INTEGER_KERNELS:
            yield node.file_name, node.span.seconds


def _islands(profile: Profile) -> list[list[NodeTime]]:
    """The nodes that are not integer, in parts that share no tensor that is float."""
    times = {node.name: node for node in profile.nodes}
    codes, constants = _codes(profile.graph), initializer_names(profile.graph)
    part_of: dict[str, list[str]] = {}
    touching: dict[str, str] = {}
    for node in profile.graph.node:
        if node.name not in times or _is_integer(node, codes):
            continue
        part = part_of[node.name] = [node.name]
        for name in (*node.input, *node.output):
            if not name or name in codes or name in constants:
                continue
            if name in touching and part_of[touching[name]] is not part:
                joined = part_of[touching[name]]
                joined.extend(part)
                part_of.update((member, joined) for member in part)
                part = joined
            touching[name] = node.name
    return [[times[name] for name in part] for part in {id(part): part for part in part_of.values()}.values()]


def _codes(graph: onnx.GraphProto) -> set[str]:
    """The tensors that hold codes, moved ones included."""
    codes: set[str] = set()
    for node in graph.node:
        op = op_of(node, RUNTIME_DOMAINS)
        floats = op in FLOAT_RESULTS or (op == "QGemm" and len(node.input) < 8)
        if op == "QuantizeLinear" or (_is_integer(node, codes) and not floats):
            codes.update(node.output)
    return codes


def _is_integer(node: onnx.NodeProto, codes: set[str]) -> bool:
    """Whether a node computes in integers, or moves codes."""
    op = op_of(node, RUNTIME_DOMAINS)
    if op in ("QuantizeLinear", "DequantizeLinear"):
        return False
    return op.startswith("QLinear") or op in INTEGER_KERNELS or (bool(node.input) and node.input[0] in codes)
