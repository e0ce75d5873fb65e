"""Channels through Concat: which nodes read a tensor's, and whose a tensor holds, each at its offset.

In a DenseNet every Conv's output is read by the BatchNormalizations of all later layers, each of which sees its
channels at another place among those of others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import shown
from dfmpc_onnx.graph.operators import meaning_of, op_of, pools
from dfmpc_onnx.graph.query import consumers, describe, input_constant, is_output, producer

Through = Callable[[gs.Node], bool]
MOST_PATHS = 1000  # ways on which a tensor is read, so that Concats of a tensor with itself do not multiply without end


def nothing(node: gs.Node) -> bool:
    """Looks through no node."""
    return False


@dataclasses.dataclass(frozen=True)
class Reading:
    """A node, no Concat, that reads a tensor's channels. offset: which of the node's input channels is their first."""

    node: gs.Node
    offset: int


def joins_channels(node: gs.Node) -> bool:
    """Whether a node is a Concat along the second dimension."""
    if op_of(node) != "Concat":
        return False
    axis, shape = node.attrs.get("axis"), node.outputs[0].shape
    return axis == 1 or (shape is not None and axis is not None and int(axis) == 1 - len(shape))


def channel_count(tensor: gs.Tensor) -> int | None:
    """Length of the second dimension; None where it is not known."""
    shape = tensor.shape
    size = shape[1] if shape is not None and len(shape) > 1 else None
    if isinstance(size, int) and size > 0:
        return size
    node = producer(tensor)
    weight = input_constant(node, 1) if node is not None and op_of(node) == "Conv" else None
    return None if weight is None else len(weight)


def offsets(concat: gs.Node) -> list[int] | str:
    """Where the channels of each input begin in the output, or why that is not known."""
    starts, total = [], 0
    for tensor in concat.inputs:
        starts.append(total)
        size = channel_count(tensor)
        if size is None and tensor is not concat.inputs[-1]:
            return f"the number of channels of '{shown(tensor.name)}' is not known"
        total += size or 0
    return starts


def channel_readings(graph: gs.Graph, tensor: gs.Tensor, through: Through = nothing) -> list[Reading] | str:
    """The nodes that read a tensor's channels, as they are or through Concats, or why they are not all known.

    through: what else is looked through, of the nodes whose output has the channels of their first input.
    """
    found: list[Reading] = []
    ahead = [(tensor, 0)]
    while ahead:
        here, offset = ahead.pop(0)
        if is_output(graph, here):
            return f"'{shown(here.name)}' is an output of the model"
        readers = consumers(here)
        if not readers:
            return f"nothing reads '{shown(here.name)}'"
        for node in readers:
            if joins_channels(node):
                starts = offsets(node)
                if isinstance(starts, str):
                    return f"{describe(node)}: {starts}"
                inputs = zip(node.inputs, starts, strict=True)
                ahead.extend((node.outputs[0], offset + start) for joined, start in inputs if joined is here)
            elif through(node) and node.inputs[0] is here:
                ahead.append((node.outputs[0], offset))
            else:
                found.append(Reading(node, offset))
        if len(found) + len(ahead) > MOST_PATHS:
            return f"it is read in more than {MOST_PATHS} ways"
    return found


def channel_sources(tensor: gs.Tensor, through: Through) -> list[tuple[gs.Node | None, int]]:
    """The nodes whose output channels a tensor holds, each with the first of its channels in the tensor.

    None stands for what no node computes: an input of the model, or a constant. What lies behind a Concat whose
    channels are not known is left out.
    """
    found: list[tuple[gs.Node | None, int]] = []
    ahead = [(tensor, 0)]
    while ahead and len(found) + len(ahead) <= MOST_PATHS:
        here, offset = ahead.pop(0)
        node = producer(here)
        starts = offsets(node) if node is not None and joins_channels(node) else None
        if node is not None and isinstance(starts, list):
            ahead.extend((t, offset + start) for t, start in zip(node.inputs, starts, strict=True))
        elif node is not None and through(node):
            ahead.append((node.inputs[0], offset))
        elif starts is None:
            found.append((node, offset))
    return found


def pools_without_zeros(node: gs.Node) -> bool:
    """Whether a node only chooses or averages values of a channel: a constant added to it comes out as it is."""
    zeros = op_of(node) == "AveragePool" and node.attrs.get("count_include_pad", 0) and any(node.attrs.get("pads", ()))
    return pools(node) and not zeros


def keeps_factors(node: gs.Node) -> bool:
    """Whether a positive factor a channel in front of a node is the same factor behind it."""
    return meaning_of(node).homogeneous
