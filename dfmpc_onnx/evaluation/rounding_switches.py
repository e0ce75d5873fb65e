"""What rounding activations costs at a network's outputs, for any choice of them, in one session.

Each activation is rounded to whole multiples of its scale and, beside that, left as it is; a Where takes one or the
other by an input of its own. So thousands of choices can be measured without a graph being built again. Nothing is
clipped: procedural images may go beyond the ranges that a BatchNormalization tells of the training images, and what is
lost there says nothing of those. Few bits are clipped all the same, since their grids do so to lose less.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx

from dfmpc_onnx.graph.compared_outputs import ComparedTensors, compared_tensors
from dfmpc_onnx.graph.edit import Namer
from dfmpc_onnx.graph.exchange import to_model
from dfmpc_onnx.inputs.batches import free_batch
from dfmpc_onnx.model.protos import WEIGHTED_OPERATORS, op_of, put_in
from dfmpc_onnx.numerics.output_loss import JudgedOutput, OutputLoss, output_loss
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.runtime.session import Session

REPEATS = 1e-6  # of an output's variance: sums may be taken in another order
Outputs = list[npt.NDArray[np.generic]]


class ToggledRounding:
    """The network of a workspace, its activations rounded or not as asked for each run.

    scales: of the tensors by name. groups: names that are switched together. feeds: what the
    network is run on. Raises ModelError where onnxruntime cannot load or run it.
    """

    def __init__(
        self,
        workspace: Workspace,
        scales: Mapping[str, np.float32],
        groups: Sequence[Collection[str]],
        feeds: Mapping[str, npt.NDArray[np.generic]],
        ends: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        """ends: of tensors of few bits, the least and the greatest level. They are clipped, and rounded for layers
        alone."""
        names = Namer(workspace.graph)
        self._switches = [names(f"switch{i}") for i in range(len(groups))]
        self._feeds = feeds
        model = to_model(workspace.graph)
        by_tensor = {name: switch for group, switch in zip(groups, self._switches, strict=True) for name in group}
        switched = {name: names(f"{name}.switched") for name in by_tensor}
        _insert(model, by_tensor, switched, scales, names, ends or {})
        found = compared_tensors(workspace.graph)
        self.notes = found.notes
        self._outputs = _add_compared_outputs(model, found, switched)
        stated = {spec.name: spec.batch for spec in workspace.inputs if spec.batch is not None}
        free_batch(model, {name for name, count in stated.items() if name in feeds and len(feeds[name]) != count})
        self._session = Session(model, label="the network with switched activations")
        self._exact = self._run(())
        again = self._run(()) if any(map(_numbers, self._exact)) else self._exact
        # What is drawn at random differs from run to run, whatever is rounded.
        self._compared = [
            _numbers(a) and a.shape == b.shape and output_loss(a, b).share_of_variance <= REPEATS
            for a, b in zip(self._exact, again, strict=True)
        ]
        self._judged = [
            JudgedOutput(out) if whether else None for out, whether in zip(self._exact, self._compared, strict=True)
        ]

    @property
    def comparable(self) -> bool:
        """Whether any output is of numbers that can be compared, the same in every run."""
        return any(self._compared)

    @property
    def passed_over(self) -> tuple[str, ...]:
        """The outputs that cannot be compared."""
        return tuple(name for name, whether in zip(self._outputs, self._compared, strict=True) if not whether)

    def losses(self, groups: Sequence[int]) -> list[OutputLoss]:
        """What each output that can be compared loses where the groups of these numbers are rounded.

        A channel that does not vary counts nothing. An output whose size depends on values is not compared from the
        first time on that its size changes.
        """
        rounded = self._run(groups)
        self._compared = [
            whether and a.shape == b.shape for a, b, whether in zip(self._exact, rounded, self._compared, strict=True)
        ]
        pairs = zip(self._judged, rounded, self._compared, strict=True)
        return [judged.loss(hat) for judged, hat, whether in pairs if whether and judged is not None]

    def agreeing(self, groups: Sequence[int]) -> int:
        """On how many inputs the largest value of the first output that is compared is where it is without rounding.

        0 where no output is compared, or its rows are no inputs.
        """
        first = next((i for i, whether in enumerate(self._compared) if whether), None)
        count = min((len(x) for x in self._feeds.values() if x.ndim), default=0)
        if first is None or not count or len(self._exact[first]) != count:
            return 0
        pair = (self._exact[first], self._run(groups)[first])
        one, other = (np.argmax(output.reshape(count, -1), axis=1) for output in pair)
        return int((one == other).sum())

    def _run(self, groups: Sequence[int]) -> Outputs:
        if not self._outputs:
            return []
        chosen = set(groups)
        switches = {name: np.array(i in chosen) for i, name in enumerate(self._switches)}
        return self._session.run({**self._feeds, **switches}, self._outputs)


def _numbers(output: object) -> bool:
    """Whether an output is a tensor of finite numbers."""
    if not isinstance(output, np.ndarray) or output.dtype.kind != "f" or not output.size:
        return False
    return bool(np.isfinite(output).all())


def _insert(
    model: onnx.ModelProto,
    by_tensor: Mapping[str, str],
    switched: Mapping[str, str],
    scales: Mapping[str, np.float32],
    names: Namer,
    ends: Mapping[str, tuple[float, float]],
) -> None:
    graph = model.graph
    first: list[onnx.NodeProto] = []
    after: dict[str, list[onnx.NodeProto]] = {}
    inputs = {value.name for value in graph.input}
    for name, switch in by_tensor.items():
        scale = names(f"{name}.scale")
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(scales[name]), scale))
        bounds = [names(f"{name}.end") for _ in ends.get(name, ())]
        for bound, end in zip(bounds, ends.get(name, ()), strict=True):
            graph.initializer.append(onnx.numpy_helper.from_array(np.array(end, np.float32), bound))
        nodes = [_switch(name, scale, switch, switched[name], names, bounds)]
        if name in inputs:
            first += nodes
        else:
            after[name] = nodes
    ordered = list(first)
    for node in graph.node:
        layer = op_of(node) in WEIGHTED_OPERATORS
        node.input[:] = [name if name in ends and not layer else switched.get(name, name) for name in node.input]
        ordered.append(node)
        for name in node.output:
            ordered += after.get(name, ())
    put_in(graph.node, ordered)
    graph.input.extend(
        onnx.helper.make_tensor_value_info(switch, onnx.TensorProto.BOOL, [])
        for switch in dict.fromkeys(by_tensor.values())
    )


def _switch(name: str, scale: str, switch: str, switched: str, names: Namer, ends: Sequence[str]) -> onnx.NodeProto:
    """A tensor as it is or rounded: an If, which copies it once where it is left alone. ends: what it is clipped to."""
    steps, whole, rounded, left = (names(f"{name}.{stem}") for stem in ("steps", "whole", "rounded", "left"))
    nodes = [
        onnx.helper.make_node("Div", [name, scale], [steps], steps),
        onnx.helper.make_node("Round", [steps], [whole], whole),
        onnx.helper.make_node("Mul", [whole, scale], [rounded], rounded),
    ]
    if ends:
        clipped = names(f"{name}.clipped")
        nodes.append(onnx.helper.make_node("Clip", [rounded, *ends], [clipped], clipped))
    same = onnx.helper.make_node("Identity", [name], [left], left)
    branches = {
        branch: onnx.helper.make_graph(
            inner, branch, [], [onnx.helper.make_empty_tensor_value_info(inner[-1].output[0])]
        )
        for branch, inner in (("then_branch", nodes), ("else_branch", [same]))
    }
    return onnx.helper.make_node("If", [switch], [switched], switched, **branches)


def _add_compared_outputs(model: onnx.ModelProto, compared: ComparedTensors, switched: Mapping[str, str]) -> list[str]:
    """The names of the tensors to compare, which become outputs; behind the switch where they have one."""
    made = {name for node in model.graph.node for name in node.output}
    listed = {value.name for value in model.graph.output}
    found = []
    for tensor in compared.tensors:
        name = tensor.name if tensor.name in listed else switched.get(tensor.name, tensor.name)
        if name not in made and name not in listed:
            continue
        if name not in listed:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
            listed.add(name)
        found.append(name)
    return list(dict.fromkeys(found))
