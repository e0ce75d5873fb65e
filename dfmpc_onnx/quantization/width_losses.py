"""What rounding each weight to each width costs what the next layer reads, and the weights as they are then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.query import constant
from dfmpc_onnx.numerics.arrays import Float, Float32
from dfmpc_onnx.numerics.batch_norm import BatchNormParameters
from dfmpc_onnx.numerics.granularity import PerAxis
from dfmpc_onnx.numerics.grids import ASYMMETRIC_BITS
from dfmpc_onnx.numerics.least_squares import PatchMoments
from dfmpc_onnx.pipeline.deadline import ESTIMATED
from dfmpc_onnx.pipeline.facts import Layer, LayerBits
from dfmpc_onnx.pipeline.settings import TERNARY, BitWidth
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.codebook_tables import NetworkTables
from dfmpc_onnx.quantization.grid_rules import GridRules
from dfmpc_onnx.quantization.layer_reach import from_rows
from dfmpc_onnx.quantization.layer_rebuilder import Rebuilder, ReconstructLayersOptions
from dfmpc_onnx.quantization.rounding_estimates import COARSE_RASTER, RoundingEstimates
from dfmpc_onnx.quantization.rounding_task import FEWEST_PATCHES, Candidate
from dfmpc_onnx.quantization.weight_grids import forms_at, nearest, weight_grid
from dfmpc_onnx.statistics.channel_statistics import ChannelStatistics
from dfmpc_onnx.statistics.error_at_next_layer import Known

PLANNED_WIDTHS: tuple[BitWidth, ...] = (TERNARY, 1.6, 2, 2.67, 3, 4, 5, 6, 7, 8)
CHANNELS_WITHOUT_STATISTICS = 128  # of a weight, that tell what rounding loses of it
FINEST_ROUNDED = ASYMMETRIC_BITS + 1  # of finer grids the loss follows from this one's: they have no zero point either
ROUNDED_WIDTHS = PLANNED_WIDTHS[: PLANNED_WIDTHS.index(FINEST_ROUNDED) + 1]
# Of normally distributed weights on the best even levels (Max 1960, table II): where there is no time to round any.
TYPICAL_LOSSES: Mapping[BitWidth, float] = {
    TERNARY: 0.190,
    1.6: 0.190,
    2: 0.1188,
    2.67: 0.1188,
    3: 0.0374,
    4: 0.0115,
    5: 0.00349,
}


def finer(loss: float, bits: float) -> float:
    """The loss at so many bits from that at `FINEST_ROUNDED`: it falls with the square of the step."""
    return loss * float(((2**FINEST_ROUNDED - 2) / (2**bits - 2)) ** 2)


class WidthLosses(Rebuilder):
    """Changes nothing: rounds each weight at the widths, notes what each loses, and keeps those of the probes."""

    def __init__(
        self,
        workspace: Workspace,
        options: ReconstructLayersOptions,
        layers: dict[str, Layer],
        plan: dict[str, LayerBits],
        probes: Sequence[BitWidth],
        *,
        thorough: bool = True,
    ) -> None:
        """probes: the widths to keep the rounded weights of, in rising order; the last is for what is coarse at the
        others, and made of levels. thorough: on the best grid at each width; else on good ones at some widths, and the
        others follow."""
        super().__init__(workspace, options, layers, plan)
        self._tables = NetworkTables(workspace.graph, layers.values(), self.rules)
        self._thorough = thorough
        self._probes = probes
        self.losses: dict[str, dict[BitWidth, float]] = {}
        self.blocks: dict[str, frozenset[BitWidth]] = {}  # widths at which codes are blocks of a codebook
        self.rounded: dict[BitWidth, dict[str, Float32]] = {bits: {} for bits in probes}
        self.probed: dict[BitWidth, dict[str, float]] = {bits: {} for bits in probes}  # what these lose

    def layer(self, node: gs.Node, moments_of: Callable[[], PatchMoments], known: Known) -> None:
        first = self.first.get(node.name, node.name)
        if first in self.losses:
            return
        if self._deadline.past(ESTIMATED):
            self.take_typical(node.name)
            return
        self._tell(node.name)
        layer = self._layers[node.name]
        task = self.task(node, moments_of, known, self.pooled.get(first))
        if isinstance(task, str) or task.moments.count < FEWEST_PATCHES:
            self.without_statistics(node)
            return
        if self._thorough:
            self._take_rounded(first, layer, {width: task.rounded(width) for width in ROUNDED_WIDTHS})
        else:
            self._take_estimates(first, layer, RoundingEstimates(task, self._probes[:-1]))

    def _take_rounded(self, name: str, layer: Layer, found: Mapping[BitWidth, Candidate]) -> None:
        self.blocks[name] = frozenset(width for width, one in found.items() if one.quantized.book is not None)
        self._note(name, {width: one.lost for width, one in found.items()}, found[FINEST_ROUNDED].on_levels)
        for bits in self._probes:
            self._keep(name, bits, from_rows(found[bits].rows, layer), found[bits].lost)

    def _take_estimates(self, name: str, layer: Layer, found: RoundingEstimates) -> None:
        by_width = found.by_width()
        self.blocks[name] = frozenset(width for width, one in by_width.items() if one.blocks)
        losses = {width: one.lost for width, one in by_width.items()}
        self._note(name, losses, found.lost_on_levels(FINEST_ROUNDED))
        for bits in self._probes:
            rows, lost = found.rounded(bits)
            self._keep(name, bits, from_rows(rows, layer), lost)

    def take_typical(self, name: str) -> None:
        """Note what rounding a usual weight loses, without a look at this one. No probe can be made of it."""
        first = self.first.get(name, name)
        if first not in self.losses:
            self._deadline.count("layers whose loss by rounding was assumed, not measured")
            self._note(first, TYPICAL_LOSSES)

    def without_statistics(self, node: gs.Node) -> None:
        """Note what rounding each number of a weight by itself loses of the weight."""
        first, layer = self.first.get(node.name, node.name), self._layers[node.name]
        if first not in self.losses:
            weight = np.asarray(constant(node.inputs[1]), np.float32)
            losses = _nearest_losses(weight, layer, self.rules)
            self._note(first, losses)
            for bits in self._probes:
                self._keep(
                    first, bits, nearest(weight, layer, bits, self.rules, COARSE_RASTER).dequantize(), losses[bits]
                )

    def _note(self, name: str, losses: Mapping[BitWidth, float], on_levels: float | None = None) -> None:
        """on_levels: what levels lose at `FINEST_ROUNDED` bits; None where nothing else was tried there."""
        found = dict(losses)
        for width in PLANNED_WIDTHS:
            if width not in found:
                found[width] = finer(found[FINEST_ROUNDED] if on_levels is None else on_levels, float(width))
        least = 0.0
        for width in reversed(PLANNED_WIDTHS):  # shares are cut at 1, so a coarse grid may seem to lose less
            least = found[width] = max(found[width], least)
        self.losses[name] = found

    def _keep(self, name: str, bits: BitWidth, weight: Float32, lost: float) -> None:
        """The rounded weight of a probe, and what it loses."""
        self.rounded[bits][name] = weight
        self.probed[bits][name] = lost

    def after_layer(self, node: gs.Node, shift_of: Callable[[], Float] | None) -> None:
        return None

    def batch_norm(self, node: gs.Node, norm: BatchNormParameters, statistics: ChannelStatistics) -> None:
        return None

    def observe(self, tensor: str, values: Float32) -> None:
        """Ranges are taken by the walk that quantizes."""


def _nearest_losses(weight: Float32, layer: Layer, rules: GridRules) -> dict[BitWidth, float]:
    """Error over energy of a weight that is rounded without statistics; of some channels where each has its scale."""
    rows = np.asarray(PerAxis(layer.axis).rows(weight), np.float32)
    if layer.op in rules.per_channel:
        rows = rows[:: -(-len(rows) // CHANNELS_WITHOUT_STATISTICS)]
    energy = max(float(np.square(rows, dtype=np.float64).sum()), 1e-30)
    alike = np.ones((1, rows.shape[1]))

    def lost(levels: BitWidth) -> float:
        grid = weight_grid(rows, alike, levels, rules, layer.op, COARSE_RASTER)
        return min(float(np.square(grid.nearest(rows) - rows, dtype=np.float64).sum()) / energy, 1.0)

    levels = {width: forms_at(width, codebooks=False)[0][-1] for width in ROUNDED_WIDTHS}
    found = {own: lost(own) for own in dict.fromkeys(levels.values())}
    return {width: found[own] for width, own in levels.items()}
