"""What the next layer reads of a layer's output: which errors it sees, and how large they are beside what it sees.

Between two layers stand a BatchNormalization, an activation and, in residual networks, a sum. They pass on the error of
one channel and stifle that of another: a ReLU hides it where the channel is negative, a BatchNormalization scales it
with its channel, a sum sets it beside what came by the other branch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.operators import Function, activation, batch_norm_parameters, elementwise, is_weighted, op_of
from dfmpc_onnx.graph.query import constant, consumers, input_constant, is_output
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.moments import MeanVariance, error_through

GATES = frozenset({"Sigmoid", "HardSigmoid"})
Known = Callable[[gs.Tensor], MeanVariance | None]  # of tensors of the float network that have been computed


@dataclasses.dataclass(frozen=True)
class NextInput:
    """Of each channel of what is read next, ``[channels]`` float64.

    error: variance that an error as large as the layer's own output varies has there. variance: of the float network's
    values. layer: whether a layer reads it, which sums over its channels.
    """

    error: Float
    variance: Float
    layer: bool

    def share(self, lost: Float) -> float:
        """The share of what the next layer reads that is lost, 0 to 1.

        lost: of each channel of the layer's own output, error over variance. What a layer reads counts by its
        energy; elsewhere, as at the outputs of a network, each channel that varies counts alike.
        """
        live = self.variance > 0
        if not live.any():  # no Gaussian gets through; what does is not known, so the layer's own output counts
            share = float(np.minimum(lost, 1.0).mean())
        elif self.layer:
            share = min(float((lost * self.error).sum() / self.variance.sum()), 1.0)
        else:
            share = float(np.minimum((lost * self.error)[live] / self.variance[live], 1.0).mean())
        return share if np.isfinite(share) else 1.0


def next_input(graph: gs.Graph, node: gs.Node, mean: Float, variance: Float, known: Known) -> NextInput:
    """Follow a layer's output, of given moments ``[channels]``, to where it is read other than value by value.

    Channels are Gaussian in front of a function of one value. A BatchNormalization takes the statistics of the batch.
    """
    tensor, error = node.outputs[0], variance.copy()
    while not is_output(graph, tensor):
        readers = consumers(tensor)
        gate = _gate_function(readers, tensor)
        if gate is None and len(readers) != 1:
            break
        reader = readers[0] if gate is None else gate[0]
        norm = batch_norm_parameters(reader) if gate is None and op_of(reader) == "BatchNormalization" else None
        function = gate[1] if gate is not None else _function(reader, node, len(mean))
        if norm is not None and len(norm.gamma) == len(mean):
            live = variance > 0
            error = np.where(live, error * np.square(norm.gamma) / np.where(live, variance, 1.0), 0.0)
            mean, variance = norm.beta, np.where(live, np.square(norm.gamma), 0.0)
        elif function is not None:
            left, mean, variance = error_through(mean, variance, function)
            error = error * left
        elif (other := _addend(reader, tensor, known, node, len(mean))) is not None:
            mean, variance = mean + other[0], variance + other[1]
        else:
            break
        tensor = reader.outputs[0]
    readers = consumers(tensor)
    return NextInput(error, variance, not is_output(graph, tensor) and any(is_weighted(r) for r in readers))


def read_next(graph: gs.Graph, node: gs.Node) -> gs.Tensor:
    """The tensor at which `next_input` ends where all moments are known: it is read other than value by value."""
    tensor = node.outputs[0]
    while not is_output(graph, tensor):
        readers = consumers(tensor)
        if (gate := _gate_function(readers, tensor)) is not None:
            tensor = gate[0].outputs[0]
            continue
        passes = len(readers) == 1 and (
            op_of(readers[0]) in ("BatchNormalization", "Add", "PRelu") or activation(readers[0]) is not None
        )
        if not passes:
            break
        tensor = readers[0].outputs[0]
    return tensor


def _gate_function(readers: list[gs.Node], tensor: gs.Tensor) -> tuple[gs.Node, Function] | None:
    """The Mul of ``x * gate(x)`` and that function, where nothing else reads x."""
    if len(readers) != 2:
        return None
    for gate, product in (readers, readers[::-1]):
        function = elementwise(gate) if op_of(gate) in GATES else None
        if function is not None and op_of(product) == "Mul" and len(consumers(gate.outputs[0])) == 1:
            operands = list(product.inputs)
            if any(t is gate.outputs[0] for t in operands) and any(t is tensor for t in operands):
                return product, lambda x, of=function: x * of(x)
    return None


def _function(node: gs.Node, layer: gs.Node, channels: int) -> Function | None:
    """An activation as a function on ``[channels, points]``; None for what is none."""
    if op_of(node) == "PRelu":
        slope = input_constant(node, 1)
        slopes = None if slope is None else _per_channel(slope, layer, channels)
        return None if slopes is None else lambda x: np.where(x > 0, x, slopes[:, None] * x)
    return activation(node)


def _addend(node: gs.Node, tensor: gs.Tensor, known: Known, layer: gs.Node, channels: int) -> MeanVariance | None:
    """Moments of what is added to a tensor, a constant or another tensor; None where they are not known."""
    others = [t for t in node.inputs if t is not tensor] if op_of(node) == "Add" else []
    if len(others) != 1:
        return None
    values = constant(others[0])
    if values is None:
        found = known(others[0]) if op_of(layer) in ("Conv", "ConvTranspose") else None  # their channels come second
        return found if found is not None and len(found[0]) == channels else None
    shift = _per_channel(values, layer, channels)
    return None if shift is None else (shift, np.zeros(channels))


def _per_channel(values: npt.NDArray[np.generic], layer: gs.Node, channels: int) -> Float | None:
    """A constant as one number for each of a layer's output channels, ``[channels]``; None where it is not."""
    if values.size != 1:
        rank = layer.inputs[1].values.ndim
        shape = (1,) * (rank - values.ndim) + values.shape
        axis = 1 if op_of(layer) in ("Conv", "ConvTranspose") else len(shape) - 1
        if values.size != channels or len(shape) <= axis or shape[axis] != channels:
            return None
    result: Float = np.broadcast_to(np.asarray(values, np.float64).reshape(-1), (channels,))
    return result
