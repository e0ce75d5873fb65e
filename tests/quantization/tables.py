"""Tables of sensitivities made by hand, for networks that nothing was measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dfmpc_onnx.pipeline.facts import BitPlan, Layers, LayerSensitivity, Sensitivity, WidthLoss
from dfmpc_onnx.pipeline.settings import TERNARY, BitWidth
from dfmpc_onnx.pipeline.workspace import Workspace

WIDTHS: tuple[BitWidth, ...] = (TERNARY, 1.6, 2, 2.67, 3, 4, 5, 6, 7, 8)


def loss_at(width: BitWidth) -> float:
    """About what a uniform grid loses of a weight: a quarter for each bit more."""
    return 0.5 if width == TERNARY else 4.0 ** (1 - float(width))


def row(
    layers: Sequence[str], gain: float, *, blocks: bool = False, levels_at: BitWidth | None = None
) -> LayerSensitivity:
    """blocks: whether codes are blocks of a codebook; levels_at: the width at which they are not."""
    widths = tuple(
        WidthLoss(width, loss_at(width), gain * loss_at(width), blocks and width != levels_at) for width in WIDTHS
    )
    return LayerSensitivity(tuple(layers), gain, widths)


def sensitivity(workspace: Workspace, gains: Mapping[str, float] | None = None, floor: float = 0.0) -> Sensitivity:
    """A row for each layer whose width is free; the gains that are not given are 1."""
    plan = workspace.get(BitPlan).layers
    free = [layer.name for layer in workspace.get(Layers).quantizable if plan[layer.name].role == "auto"]
    rows = tuple(row([name], (gains or {}).get(name, 1.0)) for name in free)
    return Sensitivity(rows, "by hand", "no inputs", floor)
