"""Biases of 8 bits at a power of two of their own, for targets that have no others."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.edit import Namer
from dfmpc_onnx.graph.query import has_input, input_constant, nodes_by_name
from dfmpc_onnx.numerics.arrays import Float32
from dfmpc_onnx.numerics.grids import Grid, with_powers_of_two


def int8_bias_grid(bias: Float32) -> Grid:
    """The grid of a bias ``[1, channels]``: one scale, the power of two of least squared error."""
    one = np.ones((1, 1), np.float32)
    return with_powers_of_two(Grid(one, 0 * one, -127, 127, 8, shared=True), bias, np.ones_like(bias))


def quantize_int8_biases(graph: gs.Graph, layers: Collection[str], names: Namer) -> dict[int, list[gs.Node]]:
    """The nodes to put in front of each layer, by its id; a bias that is computed stays as it is.

    The layer reads the dequantized codes from then on.
    """
    nodes, before = nodes_by_name(graph), dict[int, list[gs.Node]]()
    for index, name in enumerate(sorted(layers)):
        bias = input_constant(nodes[name], 2) if has_input(nodes[name], 2) else None
        if bias is None:
            continue
        row = np.asarray(bias, np.float32).reshape(1, -1)
        grid = int8_bias_grid(row)
        stem = names(f"b{index}")
        inputs = [
            gs.Constant(names(f"{stem}.codes"), grid.codes(row).astype(np.int8).reshape(bias.shape)),
            gs.Constant(names(f"{stem}.scale"), np.array(grid.scale[0, 0])),
            gs.Constant(names(f"{stem}.zp"), np.array(0, np.int8)),
        ]
        decoded = gs.Variable(stem)
        before[id(nodes[name])] = [gs.Node("DequantizeLinear", stem, {}, inputs, [decoded])]
        nodes[name].inputs[2] = decoded
    return before
