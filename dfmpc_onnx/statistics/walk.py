"""One walk through a graph with two networks side by side, float and quantized.

At each layer and BatchNormalization a visitor is shown what the two networks make of its input, and returns what to put
in its place; from there on the quantized network continues with that. The walk changes nothing but through a
`GraphWriter`, and nothing at all without one.

What a tensor is in the two networks (values on images, a covariance function) is an engine's, which has a rule for
each kind of node. Common to all are the order, which tensors are still read, biases, and BatchNormalizations: they take
the statistics of the batch, so that behind each of them the float network has exactly the mean and deviation that it
had in training, and only the correlations come from the engine (docs/method.md, section 3).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.edit import Namer
from dfmpc_onnx.graph.operators import batch_norm_parameters, op_of
from dfmpc_onnx.graph.query import constant, has_input, reads
from dfmpc_onnx.numerics.arrays import Array, Float, Float32
from dfmpc_onnx.numerics.batch_norm import BatchNormParameters
from dfmpc_onnx.numerics.least_squares import PatchMoments
from dfmpc_onnx.numerics.moments import MeanVariance
from dfmpc_onnx.numerics.output_loss import OutputLoss
from dfmpc_onnx.numerics.quantized import QuantizedWeight
from dfmpc_onnx.statistics.channel_statistics import ChannelStatistics
from dfmpc_onnx.statistics.error_at_next_layer import Known

Value = TypeVar("Value")  # what a tensor is in both networks
Affine = tuple[Float, Float]  # x -> factor x + offset, one of each a channel


@dataclasses.dataclass(frozen=True)
class BatchNormUpdate:
    """What the quantized network continues with behind a BatchNormalization: ``[channels]`` float64 each.

    scale, shift: its output is ``scale x + shift``. mean, variance: what the node is given in the graph.
    """

    scale: Float
    shift: Float
    mean: Float
    variance: Float


class Visitor(Protocol):
    """Decides, at each layer and BatchNormalization, what the quantized network continues with.

    None, from any of the three, leaves a node as it is.
    """

    def layer(
        self, node: gs.Node, moments: Callable[[], PatchMoments], known: Known
    ) -> QuantizedWeight | Float32 | None:
        """A Conv, Gemm or MatMul is about to run; returns the quantized network's weight.

        moments: second moments of what it reads. known: moments of tensors that live in the float network.
        """

    def after_layer(self, node: gs.Node, shift: Callable[[], Float] | None) -> Float32 | None:
        """It has run; returns the quantized network's bias.

        shift: by how much the mean of its output fell short, ``[channels]``; None where it is the same in both.
        """

    def batch_norm(
        self, node: gs.Node, norm: BatchNormParameters, statistics: ChannelStatistics
    ) -> BatchNormUpdate | None:
        """What the quantized network continues with behind a BatchNormalization of these parameters."""

    def observe(self, tensor: str, values: Float32) -> None:
        """The values of a tensor in the float network, from an engine that has values."""


class Live(Mapping[str, Value]):
    """The tensors that are still to be read, by name; a tensor is forgotten when its last reader has run.

    bytes: what they take now, counted as they come and go: a sum at each node would be quadratic. peak: at most.
    """

    def __init__(self, graph: gs.Graph, size: Callable[[Value], int], kept: Iterable[gs.Tensor] = ()) -> None:
        """size: bytes of a value. kept: tensors that live until the end."""
        self._size = size
        self._values: dict[str, Value] = {}
        self._sizes: dict[str, int] = {}
        self._left: dict[str, int] = {}
        for tensor in [*(t for node in graph.nodes for t in reads(node)), *kept]:
            self._left[tensor.name] = self._left.get(tensor.name, 0) + 1
        self.bytes = self.peak = 0

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def readers(self, name: str) -> int:
        """How many readers of a tensor have not run yet."""
        return self._left.get(name, 0)

    def put(self, name: str, value: Value) -> None:
        """A tensor's value, in place of an earlier one."""
        self._values[name] = value
        self.bytes -= self._sizes.get(name, 0)
        self._sizes[name] = self._size(value)
        self.bytes += self._sizes[name]

    def drop(self, name: str) -> None:
        """Forget a tensor, whoever may still read it."""
        self._values.pop(name, None)
        self.bytes -= self._sizes.pop(name, 0)

    def keep(self, node: gs.Node, outputs: list[Value]) -> None:
        """The outputs of a node that are read; an engine may follow no more than the first."""
        for tensor, value in zip(outputs_of(node), outputs, strict=False):
            if self.readers(tensor.name):
                self.put(tensor.name, value)
        self.peak = max(self.peak, self.bytes)

    def forget(self, node: gs.Node) -> None:
        """What a node that has run was the last to read."""
        for tensor in reads(node):
            self._left[tensor.name] -= 1
            if self._left[tensor.name] == 0:
                self.drop(tensor.name)


class Engine(Protocol[Value]):
    """What tensors are in the two networks, and how each kind of node acts on them.

    A later one has these methods and a registration in `dfmpc_onnx.statistics.engines`; see there.
    """

    live: Live[Value]

    def guard(self) -> AbstractContextManager[None]:
        """What the walk runs in: limits and error states that the numerics need."""

    def check(self, node: gs.Node) -> None:
        """Raise where there is nothing to measure in what a layer reads."""

    def patch_moments(self, node: gs.Node) -> PatchMoments:
        """Second moments of the patches that a layer reads, in both networks."""

    def known(self, tensor: gs.Tensor) -> MeanVariance | None:
        """Mean and variance of each channel of a tensor that lives, in the float network; None where not known."""

    def layer(self, node: gs.Node, weight: Array, weight_hat: Float32 | None) -> Value:
        """A layer's output. weight_hat: of the quantized network; None where it is the same."""

    def shortfall(self, output: Value) -> Callable[[], Float] | None:
        """Mean of the float less the quantized output for each channel; None where the two are the same."""

    def with_bias(self, output: Value, old: Array | None, new: Float32) -> Value:
        """A layer's output, its bias replaced in the quantized network."""

    def normalizes(self, node: gs.Node) -> bool:
        """Whether a BatchNormalization can take the statistics of this batch; otherwise it is run as any other node."""

    def channel_statistics(self, node: gs.Node, norm: BatchNormParameters) -> ChannelStatistics:
        """Of what a BatchNormalization reads. Raises where there is nothing in it to measure."""

    def affine(self, node: gs.Node, plain: Affine, hat: Affine) -> Value:
        """A node's first input times a factor plus an offset, of each network."""

    def other(self, node: gs.Node) -> list[Value]:
        """The outputs of any other node."""

    def values(self, output: Value) -> Float32 | None:
        """A tensor's values in the float network, to be measured; None where there are none."""

    def advance(self, node: gs.Node) -> None:
        """A node has run, and what it was the last to read is forgotten."""

    def losses(self) -> list[OutputLoss]:
        """What each output has lost, after the walk; empty where that is not known."""


class GraphWriter:
    """Puts what a visitor returns into a graph.

    set_weight: writes codes and their dequantized values, which it returns (`Workspace.set_weight`).
    """

    def __init__(self, graph: gs.Graph, set_weight: Callable[[gs.Node, QuantizedWeight], Float32]) -> None:
        self._names = Namer(graph)
        self._set_weight = set_weight

    def weight(self, node: gs.Node, new: QuantizedWeight | Float32) -> Float32:
        """Returns the values."""
        if isinstance(new, QuantizedWeight):
            return self._set_weight(node, new)
        node.inputs[1].values = new
        return new

    def bias(self, node: gs.Node, new: Float32) -> None:
        node.inputs = [*node.inputs[:2], gs.Constant(self._names(f"{node.name}.bias"), new)]

    def batch_norm(self, node: gs.Node, update: BatchNormUpdate) -> None:
        node.inputs[3].values = update.mean.astype(np.float32)
        node.inputs[4].values = update.variance.astype(np.float32)


def walk(
    graph: gs.Graph,
    engine: Engine[Any],
    visitor: Visitor,
    layers: frozenset[str],
    writer: GraphWriter | None = None,
) -> None:
    """Go through a graph once, in order.

    layers: names of those that the visitor is shown. writer: puts what it returns into the graph; without one the graph
    stays as it is. Raises what the engine raises: ModelError, or Unknown where it has no rule.
    """
    steps = _Steps(engine, visitor, writer)
    with engine.guard():
        for node in graph.nodes:
            norm = batch_norm_parameters(node) if op_of(node) == "BatchNormalization" else None
            if node.name in layers:
                outputs = [steps.layer(node)]
            elif norm is not None and engine.normalizes(node):
                outputs = [steps.batch_norm(node, norm)]
            else:
                outputs = steps.other(node)
            engine.live.keep(node, outputs)
            engine.live.forget(node)
            engine.advance(node)


@dataclasses.dataclass(frozen=True)
class _Steps(Generic[Value]):
    """What is done at a node of each kind; all return its outputs."""

    engine: Engine[Value]
    visitor: Visitor
    writer: GraphWriter | None

    def layer(self, node: gs.Node) -> Value:
        weight, bias = constant(node.inputs[1]), bias_of(node)
        assert weight is not None  # a layer whose weight is computed is none that a visitor is shown
        self.engine.check(node)
        new = self.visitor.layer(node, lambda: self.engine.patch_moments(node), self.engine.known)
        output = self.engine.layer(node, weight, None if new is None else self._put_weight(node, new))
        self._measure(node, output)
        fresh = self.visitor.after_layer(node, self.engine.shortfall(output))
        if fresh is None:
            return output
        if self.writer is not None:
            self.writer.bias(node, fresh)
        return (
            output if bias is not None and np.array_equal(bias, fresh) else self.engine.with_bias(output, bias, fresh)
        )

    def batch_norm(self, node: gs.Node, norm: BatchNormParameters) -> Value:
        statistics = self.engine.channel_statistics(node, norm)
        update = self.visitor.batch_norm(node, norm, statistics)
        if update is not None and self.writer is not None:
            self.writer.batch_norm(node, update)
        factor = norm.gamma / norm.batch_std(statistics.variance)
        plain = factor, norm.beta - factor * statistics.mean
        output = self.engine.affine(node, plain, plain if update is None else (update.scale, update.shift))
        self._measure(node, output)
        return output

    def other(self, node: gs.Node) -> list[Value]:
        outputs = self.engine.other(node)
        if outputs:
            self._measure(node, outputs[0])
        return outputs

    def _put_weight(self, node: gs.Node, new: QuantizedWeight | Float32) -> Float32:
        if self.writer is not None:
            return self.writer.weight(node, new)
        return new.dequantize() if isinstance(new, QuantizedWeight) else new

    def _measure(self, node: gs.Node, output: Value) -> None:
        values = self.engine.values(output)
        if values is not None:
            self.visitor.observe(outputs_of(node)[0].name, values)


def outputs_of(node: gs.Node) -> list[gs.Tensor]:
    """The outputs that a node gives; optional ones may be left out."""
    return [tensor for tensor in node.outputs if not tensor.is_empty()]


def bias_of(node: gs.Node) -> Array | None:
    """A layer's constant bias; None where it has none, or a computed one."""
    return constant(node.inputs[2]) if has_input(node, 2) else None
