"""Scale and zero point of an activation as a target wants them, from its range; of few bits, from its grid."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Literal

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues

from dfmpc_onnx.graph.operators import meaning_of
from dfmpc_onnx.graph.operators import op_of as op_of_node
from dfmpc_onnx.graph.query import nodes_by_name
from dfmpc_onnx.model.protos import op_of
from dfmpc_onnx.numerics.arrays import Array
from dfmpc_onnx.numerics.few_levels import FewLevels
from dfmpc_onnx.numerics.ranges import QParams, Range, power_of_two_qparams, signed_qparams, unsigned_qparams
from dfmpc_onnx.pipeline.facts import FewBitGrids, Placement
from dfmpc_onnx.pipeline.settings import Settings
from dfmpc_onnx.pipeline.target_rules import LEAST_INTEGER_BITS
from dfmpc_onnx.pipeline.workspace import Workspace

NARROW_BITS = 4  # the fewest that ONNX has codes of activations for
NARROW_TYPES = frozenset({"int4", "uint4"})  # of codes; numpy has none of them


def activation_qparams(settings: Settings, bits: Literal[8, 16] | None = None) -> Callable[[float, float], QParams]:
    """What makes scale and zero point of the least and greatest value of a tensor.

    bits: of codes with any zero point; those of the settings where not given.
    """
    if settings.target.scales == "power-of-two":
        return power_of_two_qparams
    if settings.target.signed:
        return signed_qparams
    return functools.partial(unsigned_qparams, bits=bits or settings.activation_bits)


def fixed_ranges(graph: gs.Graph, settings: Settings, bits: Literal[8, 16]) -> dict[str, Range]:
    """The ranges of what operators give whose scale the target fixes: their bounds, in steps of a power of two.

    The greatest value is a step below the upper bound, so that 256 or 65536 steps fill the bounds.
    """
    found = {}
    for node in graph.nodes:
        if op_of_node(node) in settings.target.fixed_scales:
            low, high = meaning_of(node).bounds
            found[node.outputs[0].name] = low, high - (high - low) / 2**bits
    return found


def few_bit_qparams(workspace: Workspace, integer: Collection[str]) -> dict[str, QParams]:
    """Scale and zero point of the tensors that layers read with few bits.

    integer: the layers that read codes; a tensor that none of them reads has none.
    """
    found = workspace.find(FewBitGrids)
    if workspace.settings.few_bits is None or found is None:
        return {}
    nodes = nodes_by_name(workspace.graph)
    read = {nodes[name].inputs[0].name for name in integer}
    return {name: qparams_of(grid) for name, grid in found.tensors.items() if name in read}


def activation_bits_of(workspace: Workspace, made: Mapping[str, QParams]) -> dict[str, int]:
    """The bits of quantized tensors: those of their grids where these have few levels, else of their codes.

    made: scale and zero point, by tensor.
    """
    grids = found.tensors if (found := workspace.find(FewBitGrids)) is not None else {}
    few = {name: grids[name] for name, given in made.items() if name in grids and given == qparams_of(grids[name])}
    return {n: few[n].bits if n in few else ml_dtypes.iinfo(zero.dtype).bits for n, (_, zero) in made.items()}


def few_activation_bits(workspace: Workspace) -> dict[str, int]:
    """The bits of the quantized tensors, by name, that have fewer than 8."""
    placed = workspace.find(Placement)
    return {name: bits for name, bits in placed.bits.items() if bits < LEAST_INTEGER_BITS} if placed is not None else {}


def qparams_of(grid: FewLevels) -> QParams:
    """Scale and zero point of a grid of few levels, in the narrowest type that holds its codes."""
    signed, unsigned = (ml_dtypes.int4, ml_dtypes.uint4) if grid.bits <= NARROW_BITS else (np.int8, np.uint8)
    kind = signed if grid.lowest < 0 else unsigned
    return np.float32(grid.scale), kind(grid.zero_point)


def rounds_to_4_bits(model: onnx.ModelProto) -> bool:
    """Whether a QuantizeLinear of a model gives 4-bit codes."""
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    zeros = [node.input[2] for node in model.graph.node if op_of(node) == "QuantizeLinear" and len(node.input) > 2]
    return any(kinds.get(name) in (onnx.TensorProto.UINT4, onnx.TensorProto.INT4) for name in zeros)


def constant_of(name: str, values: Array) -> gs.Constant:
    """An initializer of values of any type; graphsurgeon makes none of the narrow ones from numpy."""
    if values.dtype.name in NARROW_TYPES:
        return gs.Constant(name, LazyValues(numpy_helper.from_array(values, name)))
    return gs.Constant(name, values)
