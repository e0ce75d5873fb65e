"""The grid that suits a weight at a width, and codes on it in the layout of its layer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dfmpc_onnx.numerics.arrays import Float, Float32
from dfmpc_onnx.numerics.codebook import Blocks
from dfmpc_onnx.numerics.granularity import PerAxis, unrows
from dfmpc_onnx.numerics.grids import Grid, ternary_grid, uniform_grid
from dfmpc_onnx.numerics.quantized import QuantizedWeight
from dfmpc_onnx.numerics.ternary import ternary_optimal
from dfmpc_onnx.pipeline.facts import Layer
from dfmpc_onnx.pipeline.settings import TERNARY, BitWidth
from dfmpc_onnx.quantization.codebook_tables import BLOCKS
from dfmpc_onnx.quantization.grid_rules import GridRules

FINE_RASTER = 3  # of the ranges that grids of few levels are sought among
# Levels that may take a width's place: those of no more bits, where a codebook cannot, and where it can.
NARROWER: Mapping[BitWidth, tuple[BitWidth, ...]] = {1.6: (TERNARY,), 2: (TERNARY, 2), 2.67: (TERNARY, 2)}


def forms_at(width: BitWidth, codebooks: bool) -> tuple[tuple[BitWidth, ...], tuple[Blocks, ...]]:
    """The levels to try at a width, and the sizes of blocks. codebooks: whether the layer takes any."""
    blocks = (BLOCKS[width],) if codebooks and width in BLOCKS else ()
    if blocks and width == 2.67:
        return (), blocks
    return NARROWER.get(width, (width,)), blocks


def nearest(
    weight: Float32, layer: Layer, bits: BitWidth, rules: GridRules, raster: int = FINE_RASTER
) -> QuantizedWeight:
    """A weight on the grid that suits it, each number at the level nearest to it; no codebook serves for that.

    raster: as in `weight_grid`.
    """
    flat, levels = np.asarray(PerAxis(layer.axis).rows(weight), np.float32), forms_at(bits, codebooks=False)[0][-1]
    grid = weight_grid(flat, np.ones((1, flat.shape[1])), levels, rules, layer.op, raster)
    return as_weight(grid.codes(flat), grid, layer)


def as_weight(codes: Float32, grid: Grid, layer: Layer) -> QuantizedWeight:
    """Codes of rows and their grid in the layout of the layer's weight."""
    whole = codes.astype(np.int8)
    granularity = PerAxis(layer.axis)
    shaped = np.ascontiguousarray(unrows(whole.reshape(layer.shape[layer.axis], -1), layer.shape, granularity))
    shape = (1,) * len(layer.shape) if grid.shared else granularity.scale_shape(layer.shape)
    scale, zero = (values[: 1 if grid.shared else None].reshape(shape) for values in (grid.scale, grid.zero_point))
    return QuantizedWeight(shaped, scale, zero, grid.bits, grid.ternary, grid.book)


def weight_grid(
    rows: Float32, importance: Float, width: BitWidth, rules: GridRules, op: str, raster: int = FINE_RASTER
) -> Grid:
    """The grid of a width that suits rows ``[rows, k]``. importance: ``[groups, k]``, each of as many rows that follow
    each other. raster: as in `uniform_grid`."""
    if width == TERNARY:
        each = np.repeat(importance.astype(np.float32), len(rows) // len(importance), axis=0)
        grid = ternary_grid(ternary_optimal(rows, each, PerAxis(0)).scale)
    else:
        grid = uniform_grid(rows, importance, int(width), raster, zero_points=rules.zero_points)
    return rules.constrained(grid, rows, importance, op)
