"""What settings of all layers together do to a network's outputs, by one run for each setting."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dfmpc_onnx.graph.query import constant, nodes_by_name
from dfmpc_onnx.numerics.arrays import Float32
from dfmpc_onnx.numerics.output_loss import damage
from dfmpc_onnx.pipeline.facts import BitPlan, Layers
from dfmpc_onnx.pipeline.settings import FLOAT, BitWidth
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.layer_rebuilder import ReconstructLayersOptions
from dfmpc_onnx.quantization.pooled_uses import pool_uses
from dfmpc_onnx.quantization.rounding_task import nearest
from dfmpc_onnx.quantization.sensitivity import ChangedWeights, centred_layers
from dfmpc_onnx.quantization.width_losses import ROUNDED_WIDTHS, WidthLosses
from dfmpc_onnx.statistics.engines import StatisticsSource
from dfmpc_onnx.statistics.walk import walk

TOGETHER = "all"  # the one variant, to which all layers belong


class JointDamage:
    """Rounds each weight once to each width and then tries settings: the damage of all that they change, together.

    Wide weights are rounded to the nearest level; narrow ones with error feedback, as they are in a file. Nothing is
    compensated, so it is more than what a rebuilt network loses.
    """

    def __init__(
        self, workspace: Workspace, rounded_on: StatisticsSource, judged_on: StatisticsSource | None = None
    ) -> None:
        """rounded_on: the statistics that weights are rounded by. judged_on: those whose inputs are run; other inputs
        of the same where None."""
        self._workspace = workspace
        self._judged_on = judged_on or rounded_on
        self._layers = workspace.get(Layers).by_name()
        self._plan = dict(workspace.get(BitPlan).layers)
        names = frozenset(name for name in self._layers if self._plan[name].bits != FLOAT)
        options = ReconstructLayersOptions()
        self._visitor = WidthLosses(workspace, options, dict(self._layers), dict(self._plan), ROUNDED_WIDTHS)
        self._visitor.pooled = pool_uses(workspace, options, self._layers, self._plan, rounded_on.engine)
        self._first = {name: self._visitor.first.get(name, name) for name in names}
        self._centred = centred_layers(workspace, names)
        walk(workspace.graph, rounded_on.probe() or rounded_on.engine(), self._visitor, names)

    def __call__(self, settings: Mapping[str, BitWidth]) -> float:
        """The damage, 0 to 1 and beyond. settings: widths by layer; layers that it leaves out stay float."""
        weights = {name: self._weight(self._first[name], bits) for name, bits in settings.items()}
        engine = self._judged_on.variants(variant_of=lambda layer: TOGETHER, centred=self._centred)
        walk(self._workspace.graph, engine, ChangedWeights(weights), frozenset(weights))
        return damage(engine.losses_of().get(TOGETHER, []))

    def _weight(self, name: str, bits: BitWidth) -> Float32:
        if bits in ROUNDED_WIDTHS:
            return self._visitor.rounded[bits][name]
        node = nodes_by_name(self._workspace.graph)[name]
        return nearest(np.asarray(constant(node.inputs[1]), np.float32), self._layers[name], bits).dequantize()
