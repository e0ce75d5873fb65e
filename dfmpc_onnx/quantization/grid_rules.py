"""What a target allows of the grid of a weight: one scale for the whole tensor, and scales that are powers of two."""

from __future__ import annotations

import dataclasses

import numpy as np

from dfmpc_onnx.numerics.arrays import Float, Float32
from dfmpc_onnx.numerics.grids import Grid, tensor_grid, with_powers_of_two
from dfmpc_onnx.pipeline.target_rules import LAYER_OPERATORS, Target


@dataclasses.dataclass(frozen=True)
class GridRules:
    """per_channel: the operators whose weights may have a scale a channel. powers_of_two: whether scales are these.
    zero_points: whether few bits may have them. codebooks: whether codes may be blocks of a table."""

    per_channel: tuple[str, ...] = LAYER_OPERATORS
    powers_of_two: bool = False
    zero_points: bool = True
    codebooks: bool = True

    @classmethod
    def of(cls, target: Target) -> GridRules:
        tables = target.storage == "packed" and target.quantizers == "qdq"
        return cls(target.per_channel, target.scales == "power-of-two", target.weight_zero_points, tables)

    def leaves_free(self, op: str) -> bool:
        """Whether a weight of an operator may have any grid."""
        return op in self.per_channel and not self.powers_of_two

    def allow_codebooks(self, op: str) -> bool:
        """Whether the codes of a weight of an operator may be blocks of a table."""
        return self.codebooks and self.leaves_free(op)

    def allow(self, scale: Float32, op: str) -> bool:
        """Whether a weight of an operator may have these scales."""
        powers = not self.powers_of_two or bool(np.all(np.frexp(scale)[0] == 0.5))
        return powers and (op in self.per_channel or scale.size == 1)

    def constrained(self, grid: Grid, rows: Float32, importance: Float, op: str) -> Grid:
        """A grid as a weight of an operator may have it: the grid itself where it may have any.

        rows: ``[rows, k]``. importance: ``[groups, k]``, each of as many rows that follow each other.
        """
        if op not in self.per_channel:
            grid = tensor_grid(grid, rows, importance)
        return with_powers_of_two(grid, rows, importance) if self.powers_of_two else grid
