"""Give every layer the width that a plan states for it."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterator, Mapping
from typing import ClassVar

import msgspec

from dfmpc_onnx.errors import RecipeError, shown
from dfmpc_onnx.pipeline.facts import BitPlan, LayerBits, Layers
from dfmpc_onnx.pipeline.manager import Pass, PassResult, Rewrite
from dfmpc_onnx.pipeline.plan_file import PlannedLayer, TableEntry, plan_rows, shown_layers
from dfmpc_onnx.pipeline.settings import ASKED, FLOAT, TERNARY
from dfmpc_onnx.pipeline.weight_plan import PlanRow, StatedWidths, Width
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.budget_planner import planned_bits, width_name


class ApplyPlanOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """layers: a width for each name or pattern. whys: what decided it, by the entry. sha256: of the model that they are
    for, empty for any. model: its name. shapes: of the weights by layer, to say what differs. file, lines: where the
    entries stand, for messages; path: all of the file's. table, widths: what the plan was made from, if it says."""

    layers: list[PlannedLayer] = []
    whys: dict[str, str] = {}
    shapes: dict[str, list[int]] = {}
    file: str = "plan"
    lines: list[int] = []
    model: str = ""
    sha256: str = ""
    path: str = ""
    table: list[TableEntry] = []
    widths: list[int | float | str] = []


class ApplyPlan(Pass[ApplyPlanOptions]):
    """Before: a bit plan whose free layers wait for their width
    After: the widths of a plan file; what the user asked for with --layer stays

    Why: a plan was chosen once, looked at, and perhaps changed; then nothing is measured again. Of several entries that
    match a layer the last counts, a name before a pattern.

    Requires: a bit plan, the layers.

    Refuses when: never; a plan for another model, an entry that names no layer, and a layer that no entry names are
    mistakes of the user's.

    Reference: docs/plans.md.
    """

    name = "apply_plan"
    Options = ApplyPlanOptions
    requires: ClassVar = (BitPlan, Layers)
    provides: ClassVar = (BitPlan, StatedWidths)

    def run(self, workspace: Workspace) -> PassResult:
        self._check_model(workspace)
        names = [layer.name for layer in workspace.get(Layers).with_nested]
        chosen: dict[str, PlannedLayer] = {}
        for index, entry in enumerate(self.options.layers):
            matching = [entry.layer] if entry.layer in names else fnmatch.filter(names, entry.layer)
            if not matching:
                what = f"layer '{shown(entry.layer)}' matches no layer"
                raise RecipeError(f"{self._where(index)}: {what}; there are {shown_layers(names)}")
            exact = entry.layer in names
            chosen.update((name, entry) for name in matching if exact or not _named(chosen.get(name), name))
        layers = dict(workspace.get(BitPlan).layers)
        free = [name for name, bits in layers.items() if bits.role != "float" and bits.why != ASKED]
        missing = [name for name in free if name not in chosen]
        if missing:
            raise RecipeError(f"{self.options.file}: says nothing of {shown_layers(missing)}; add an entry for each")
        given = {name: _bits(chosen[name], self.options.whys) for name in free}
        workspace.put(dataclasses.replace(workspace.get(BitPlan), layers=layers | given))
        workspace.put(StatedWidths(self.options.path, tuple(self._rows(layers | given))))
        idle = [
            f"{self.options.file}: the entry of '{shown(name)}' has no effect; the layer stays in float: {bits.why}"
            for name, bits in layers.items()
            if bits.role == "float"
            and bits.why != ASKED
            and _named(chosen.get(name), name)
            and chosen[name].bits != FLOAT
        ]
        return PassResult(
            self.name,
            tuple(Rewrite(name, width_name(bits.bits), {"why": bits.why}) for name, bits in given.items()),
            warnings=tuple(idle),
        )

    def _rows(self, layers: Mapping[str, LayerBits]) -> Iterator[tuple[PlanRow, Width]]:
        """The rows of the plan's table, as far as all layers of one have a width that it knows."""
        for row in plan_rows(self.options.table, self.options.widths):
            found = {layers[name].bits for name in row.layers if name in layers}
            if len(found) == 1 and (width := found.pop()) in row.widths:
                yield row, width

    def _where(self, index: int) -> str:
        lines = self.options.lines
        return f"{self.options.file}:{lines[index]}" if index < len(lines) else self.options.file

    def _check_model(self, workspace: Workspace) -> None:
        """Raise RecipeError, with the difference, where the plan is for another model."""
        options = self.options
        another = bool(options.sha256 and workspace.sha256 and options.sha256 != workspace.sha256)
        if options.sha256 and not another:
            return
        shapes = {layer.name: list(layer.shape) for layer in workspace.get(Layers).all}
        missing = [name for name in options.shapes if name not in shapes]
        differ = [name for name, shape in options.shapes.items() if name in shapes and shapes[name] != shape]
        parts = []
        if missing:
            parts.append(f"it has no layer {shown_layers(missing)}")
        if differ:
            name = differ[0]
            parts.append(f"'{shown(name)}' is {shapes[name]}, in the plan {options.shapes[name]}")
        if not another:
            if parts and options.shapes:
                raise RecipeError(f"{options.file}: does not fit this model: {'; '.join(parts)}")
            return
        what = "; ".join(parts) or "all layers of the plan fit; to use it, remove its line sha256"
        made_for = f"'{shown(options.model)}', " if options.model else ""
        raise RecipeError(
            f"{options.file}: made for another model ({made_for}sha256 {options.sha256[:12]}..., here "
            f"{workspace.sha256[:12]}...): {what}"
        )


def _named(entry: PlannedLayer | None, name: str) -> bool:
    return entry is not None and entry.layer == name


def _bits(entry: PlannedLayer, whys: Mapping[str, str]) -> LayerBits:
    width: Width = entry.bits if not isinstance(entry.bits, str) else FLOAT if entry.bits == FLOAT else TERNARY
    return planned_bits(width, whys.get(entry.layer, "as planned"))
