"""What a plan of widths is made from, and what it says: the table of losses and bytes, and one width for each row."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from dfmpc_onnx.pipeline.measured_noise import NOT_MEASURED, MeasuredNoise
from dfmpc_onnx.pipeline.settings import FLOAT, TERNARY, BitWidth

Width = BitWidth | Literal["float"]
FLOAT_BITS = 32
TRIT_BITS = 1.6  # five to a byte


def bits_of(width: Width) -> float:
    """Bits that a weight of this width takes: 1.6 for ternary, 32 for float."""
    return FLOAT_BITS if width == FLOAT else TRIT_BITS if width == TERNARY else float(width)


@dataclasses.dataclass(frozen=True)
class PlanRow:
    """A weight whose width is free, with what each width costs.

    layers: all that read it, the first of which stands for them. shape: the weight's. channels: outputs, of which each
    has a scale. widths: in rising order, float last. losses, damages: as in `WidthLoss`, 0 for float. sizes: bytes in
    the file. runs: by width, how many codes an output channel has where they are blocks of a codebook, 0 where they
    are levels; empty where they always are.
    """

    layers: tuple[str, ...]
    shape: tuple[int, ...]
    channels: int
    widths: tuple[Width, ...]
    losses: tuple[float, ...]
    damages: tuple[float, ...]
    sizes: tuple[int, ...]
    runs: tuple[int, ...] = ()

    def run_at(self, width: Width) -> int:
        """Of `runs`, that of a width."""
        return self.runs[self.widths.index(width)] if self.runs else 0

    @property
    def weights(self) -> int:
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class PlanTable:
    """All that planning needs: any budget is met from it without the model.

    other_bytes: of the file without these rows. other_weights, other_bits: how many weights lie in other layers, and
    the bits that their codes take. floor: the damage that those do. opset: the newest whose types weights may have.
    integer: whether activations are quantized. float_bytes: of the float file. estimator, inputs: how the damages were
    found. noise: what a file that was built from it showed.
    """

    rows: tuple[PlanRow, ...]
    other_bytes: int
    other_weights: int
    other_bits: float
    floor: float
    opset: int
    integer: bool
    float_bytes: int
    estimator: str
    inputs: str
    noise: MeasuredNoise = NOT_MEASURED


@dataclasses.dataclass(frozen=True)
class WeightPlan:
    """One width for each row of a table. damage: of all layers together, as predicted. size: bytes of the file, as
    predicted. mean_bits: of all weights of the network, those in float included. noise: what damages come to."""

    widths: tuple[Width, ...]
    damage: float
    size: int
    mean_bits: float
    noise: MeasuredNoise = NOT_MEASURED

    @property
    def sqnr_db(self) -> float:
        """The signal-to-noise ratio that the damage stands for, in dB; infinite where nothing is lost."""
        return self.noise.sqnr_db(self.damage)


@dataclasses.dataclass(frozen=True)
class StatedWidths:
    """The fact that a plan file stated the widths. path: where it lies. rows: the rows of its table, as far as it holds
    one, with the width that each got."""

    path: str
    rows: tuple[tuple[PlanRow, Width], ...] = ()


@dataclasses.dataclass(frozen=True)
class PlannedWidths:
    """The fact that widths were planned: from which table, and which."""

    table: PlanTable
    plan: WeightPlan

    @property
    def rows(self) -> tuple[tuple[PlanRow, Width], ...]:
        """The rows of the table with the width that each got."""
        return tuple(zip(self.table.rows, self.plan.widths, strict=True))
