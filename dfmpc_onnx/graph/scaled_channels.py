"""The layers that can take back a factor a channel, behind pooling, Concat, Flatten and products with gates."""

from __future__ import annotations

import dataclasses
from collections.abc import Container

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.affine import (
    apply_in_front,
    apply_to_columns,
    columns_of,
    takes_column_factor,
    takes_input_factor,
)
from dfmpc_onnx.graph.channels import MOST_PATHS, channel_count, joins_channels, keeps_factors, offsets
from dfmpc_onnx.graph.edit import Namer
from dfmpc_onnx.graph.operators import flattens_each, op_of
from dfmpc_onnx.graph.query import consumers, describe, is_output
from dfmpc_onnx.numerics.arrays import Float


@dataclasses.dataclass(frozen=True)
class Absorber:
    """A Conv or Gemm that reads channels. offset: where they begin among its own; channels: how many it reads."""

    node: gs.Node
    offset: int
    channels: int

    def multiply(self, factor: Float, names: Namer) -> None:
        """Multiply in its weight what it reads of the channels, ``[those channels]``."""
        whole = np.ones(self.channels)
        whole[self.offset : self.offset + len(factor)] = factor
        if op_of(self.node) == "Conv":
            apply_in_front(self.node, whole, np.zeros(1), names)
        else:
            apply_to_columns(self.node, np.repeat(whole, columns_of(self.node) // self.channels), names)


@dataclasses.dataclass(frozen=True)
class _Here:
    """A tensor on the way. offset: of the channels in it; flat: of how many channels it is rows, behind a Flatten."""

    tensor: gs.Tensor
    offset: int
    flat: int | None = None


def absorbers(graph: gs.Graph, tensor: gs.Tensor, shared: Container[str]) -> list[Absorber] | str:
    """The layers that can take back what a tensor's channels are multiplied by, or why not all that reads it can.

    shared: names of the layers whose weights others read too.
    """
    found: list[Absorber] = []
    ahead, scaled, products = [_Here(tensor, 0)], {id(tensor)}, []
    while ahead:
        here = ahead.pop(0)
        if is_output(graph, here.tensor):
            return "the output of the model reads it"
        for node in consumers(here.tensor):
            if op_of(node) in ("Conv", "Gemm"):
                total = _channels_read(node, here)
                if total is None or node.name in shared:
                    return f"{describe(node)} that reads it takes no factor"
                found.append(Absorber(node, here.offset, total))
                continue
            onward = _onward(node, here)
            if isinstance(onward, str):
                return onward
            ahead.extend(onward)
            scaled.add(id(node.outputs[0]))
            products += [node] if op_of(node) == "Mul" else []
        if len(found) + len(ahead) > MOST_PATHS:
            return f"it is read in more than {MOST_PATHS} ways"
    if any(all(id(t) in scaled for t in node.inputs) for node in products):
        return "it is multiplied by itself"
    return found


def _onward(node: gs.Node, here: _Here) -> list[_Here] | str:
    """The output of a node that has the same factors, once for each place where the channels begin; else why not."""
    made = node.outputs[0]
    if joins_channels(node) and here.flat is None:
        starts = offsets(node)
        if isinstance(starts, str):
            return starts
        return [
            _Here(made, here.offset + start) for t, start in zip(node.inputs, starts, strict=True) if t is here.tensor
        ]
    if op_of(node) == "Flatten" and flattens_each(node) and here.flat is None:
        return [_Here(made, here.offset, channel_count(here.tensor))]
    passes = keeps_factors(node) and node.inputs[0] is here.tensor
    if passes or (op_of(node) == "Mul" and _keeps_shape(node, here.tensor)):
        return [dataclasses.replace(here, tensor=made)]
    return f"{describe(node)} reads it"


def _keeps_shape(node: gs.Node, here: gs.Tensor) -> bool:
    """Whether a product has the channels of one of its operands, in the second dimension."""
    other = next((t for t in node.inputs if t is not here), here)
    channels = channel_count(here)
    if len(node.inputs) != 2 or here.shape is None or other.shape is None or channels is None:
        return False
    return len(other.shape) <= len(here.shape) and channels > 1


def _channels_read(node: gs.Node, here: _Here) -> int | None:
    """How many channels a layer reads whose factors it can take; None where it cannot."""
    if node.inputs[0] is not here.tensor:
        return None
    if takes_input_factor(node):
        return int(node.inputs[1].values.shape[1]) * int(node.attrs.get("group", 1))
    if not takes_column_factor(node):
        return None
    total = here.flat or columns_of(node)
    return total if columns_of(node) % total == 0 else None
