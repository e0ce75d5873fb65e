"""How long networks, and the nodes of each as onnxruntime really runs them, take on this machine.

Networks are run in turns, each round in another order, so that whatever else the machine does falls on all alike; the
median of the rounds counts. Nodes are timed by onnxruntime's own profiler, on the graph after all of its fusions: so
a QuantizeLinear that is left, a step between layouts and an integer kernel each have a time of their own. Nodes of
equal operator, attributes and shapes share their samples. What the profiler itself takes, which is more than a small
kernel does, is measured on a chain of tiny nodes and taken off.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.model.protos import RUNTIME_DOMAINS, WEIGHTED_OPERATORS, makers, op_of
from dfmpc_onnx.runtime.session import Feeds, Loadable, Session
from dfmpc_onnx.runtime.threads import thread_count

FEWEST_ROUNDS, MOST_ROUNDS = 5, 40
SECONDS = 2.0  # for each network, after which no further round begins
LONGEST_RUN = 20.0  # seconds: a few rounds of such a network take minutes
TINY_NODES = 64
WARM_RUNS = 2  # that do not count: memory is laid out, weights are packed
LAYER_KERNELS = ("Conv", "Gemm", "MatMul")  # in the names of kernels, fused ones and those for integers
FROM_AND_TO_CODES = ("QuantizeLinear", "DequantizeLinear")
RENAMED = re.compile(r"(_nchwc|_nhwc|_token_\d+)+$")  # what onnxruntime adds to the name of a node that it rewrites


@dataclasses.dataclass(frozen=True)
class Span:
    """Seconds: the median of a number of samples, and half of what the middle half of them spans."""

    seconds: float
    spread: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Span:
        low, middle, high = np.percentile(np.asarray(samples, np.float64), (25, 50, 75))
        return cls(float(middle), float(high - low) / 2)


@dataclasses.dataclass(frozen=True)
class NodeTime:
    """A node of the graph as onnxruntime runs it, and what it takes in a run. file_name: its name in the file."""

    name: str
    kernel: str
    span: Span

    @property
    def file_name(self) -> str:
        return RENAMED.sub("", self.name)


@dataclasses.dataclass(frozen=True)
class Profile:
    """A network as it runs: its graph without the values of weights, the time of each node, in the order of the graph.

    Nodes without a name are left out; those within control flow count with the node around them.
    """

    graph: onnx.GraphProto
    nodes: tuple[NodeTime, ...]

    @property
    def total(self) -> float:
        """Seconds of all nodes."""
        return sum(node.span.seconds for node in self.nodes)

    def by_name(self) -> dict[str, float]:
        """Seconds of each node by its name in the graph that runs."""
        return {node.name: node.span.seconds for node in self.nodes}

    def file_nodes(self, model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
        """The nodes of a file that each node of the graph as it runs computes, by that node's name.

        A kernel is called as the last node that it took in, or as the tensor that it gives; what it took in beside that
        is what stands in front of it and has no kernel of its own.
        """
        made, named = makers(model.graph.node), {node.name: node for node in model.graph.node}
        last = {node.name: named.get(node.file_name) or made.get(node.file_name) for node in self.nodes}
        taken = {node.output[0] for node in last.values() if node is not None}
        found = {}
        for name, node in last.items():
            waiting, reached = [node] if node is not None else [], []
            while waiting:
                reached.append(waiting.pop())
                for tensor in reached[-1].input:
                    before = made.get(tensor)
                    if before is None or before.output[0] in taken:
                        continue
                    if op_of(before, RUNTIME_DOMAINS) not in FROM_AND_TO_CODES:
                        taken.add(before.output[0])
                        waiting.append(before)
            found[name] = reached
        return found

    def layers(self, model: onnx.ModelProto) -> dict[str, str]:
        """The layer of a file that each node of the graph as it runs computes, by that node's name."""
        kernels = {node.name for node in self.nodes if any(op in node.kernel for op in LAYER_KERNELS)}
        return {
            name: node.name or node.output[0]
            for name, nodes in self.file_nodes(model).items()
            for node in nodes
            if name in kernels and op_of(node) in WEIGHTED_OPERATORS
        }


Runner = Callable[[], object]


def in_turns(runs: Sequence[Runner], seconds: float = SECONDS) -> list[list[float]]:
    """Seconds of each of these in each round, ``[runs][rounds]``, in turns and each round in another order.

    With one thread it is the processor's time: what the machine gives to others in between does not count.
    seconds: for each of them; FEWEST_ROUNDS rounds are run in any case, unless one takes longer than LONGEST_RUN.
    Raises ModelError where one does.
    """
    clock = time.thread_time if thread_count() == 1 else time.perf_counter
    for run in runs:
        for _ in range(WARM_RUNS):
            began = clock()
            run()
            if clock() - began > LONGEST_RUN:
                raise ModelError(f"a run takes over {LONGEST_RUN:g} s; that is not timed")
    taken: list[list[float]] = [[] for _ in runs]
    order, spent = np.random.default_rng(0), 0.0
    while len(taken[0]) < FEWEST_ROUNDS or (len(taken[0]) < MOST_ROUNDS and spent < seconds * len(runs)):
        for index in order.permutation(len(runs)):
            began = clock()
            runs[index]()
            taken[index].append(clock() - began)
            spent += taken[index][-1]
    return taken


def run_times(networks: Sequence[tuple[Session, Feeds]], seconds: float = SECONDS) -> list[list[float]]:
    """Seconds of a whole run of each network in each round, ``[networks][rounds]``, measured in turns.

    seconds: for each network. Raises ModelError where one cannot be run, or takes too long to be timed.
    """
    return in_turns([_runner(session, feeds) for session, feeds in networks], seconds)


def profiles(
    networks: Sequence[tuple[Loadable, Feeds]], label: str = "the model", seconds: float = SECONDS
) -> list[Profile]:
    """The nodes of networks and their times, measured in turns. Raises ModelError where one cannot be loaded or run."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        sessions, graphs = [], []
        for number, (model, _) in enumerate(networks):
            path = pathlib.Path(folder) / f"{number}.onnx"
            sessions.append(Session(model, label=label, profile=path.with_suffix(""), rewritten=path, spinning=True))
            graphs.append(onnx.load(path, load_external_data=False).graph)
            path.unlink()

        in_turns([_runner(s, feeds) for s, (_, feeds) in zip(sessions, networks, strict=True)], seconds)
        noted = [session.profile_events() for session in sessions]
        overhead = _overhead(pathlib.Path(folder))
        return [_profile(graph, events, overhead) for graph, events in zip(graphs, noted, strict=True)]


def _runner(session: Session, feeds: Feeds) -> Runner:
    return lambda: session.run(feeds)


def _overhead(folder: pathlib.Path) -> float:
    """Seconds that a node takes longer in a profile than it does without one."""
    names = [f"t{i}" for i in range(TINY_NODES + 1)]
    nodes = [onnx.helper.make_node("Sin", [a], [b], f"sin_{b}") for a, b in itertools.pairwise(names)]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in (names[0], names[-1])]
    graph = onnx.helper.make_graph(nodes, "tiny", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 13)])
    feeds: Feeds = {names[0]: np.zeros(1, np.float32)}
    watched, alone = Session(model, profile=folder / "tiny", spinning=True), Session(model, spinning=True)
    _, whole = in_turns([_runner(watched, feeds), _runner(alone, feeds)])
    noted = _profile(graph, watched.profile_events(), 0.0).total
    return max(noted - Span.of(whole).seconds, 0.0) / TINY_NODES


def _profile(graph: onnx.GraphProto, events: Iterable[Mapping[str, Any]], overhead: float) -> Profile:
    """The times of a graph's nodes out of a profile; samples of nodes that are equal count for each of them.

    overhead: seconds of each sample that are the profiler's.
    """
    named = {node.name: node for node in graph.node}
    for tensor in graph.initializer:  # weights take memory, and nobody asks for their values
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
    samples: dict[str, list[float]] = {}
    kinds: dict[str, tuple[object, ...]] = {}
    for event in events:
        name = str(event.get("name", "")).removesuffix("_kernel_time")
        args = event.get("args", {})
        if event.get("cat") != "Node" or name == event["name"] or name not in named:
            continue
        samples.setdefault(name, []).append(max(event["dur"] / 1e6 - overhead, 0.0))
        shapes = (str(args.get("input_type_shape")), str(args.get("output_type_shape")))
        kinds[name] = (named[name].op_type, *sorted(map(str, named[name].attribute)), *shapes)
    alike: dict[tuple[object, ...], list[float]] = {}
    for name, taken in samples.items():
        alike.setdefault(kinds[name], []).extend(taken[WARM_RUNS:] or taken)
    spans = {kind: Span.of(taken) for kind, taken in alike.items()}
    return Profile(
        graph,
        tuple(
            NodeTime(name, op_of(node, RUNTIME_DOMAINS), spans[kinds[name]])
            for name, node in named.items()
            if name in samples
        ),
    )
