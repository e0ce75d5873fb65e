"""Layers and places of a report: where errors enter, what they cost the output, and what other widths would cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import msgspec

from dfmpc_onnx.evaluation.diagnosis.schema import Diagnosis
from dfmpc_onnx.evaluation.layer_errors import LayerErrors
from dfmpc_onnx.evaluation.weight_grids import WeightGrid
from dfmpc_onnx.pipeline.settings import FLOAT
from dfmpc_onnx.pipeline.weight_plan import PlanRow, Width
from dfmpc_onnx.report.html.schema import PageLayer, Place, WidthStep

DRAWN_LAYERS = 6  # whose weights are drawn: those that lose most


def places_of(layers: Sequence[PageLayer], errors: LayerErrors | None) -> tuple[Place, ...]:
    """Where errors enter, in order: the tensors that were compared, each with the layer that computes it; without them
    the layers."""
    by_name = {layer.name: layer for layer in layers}
    if errors is None:
        return tuple(Place(row.name, row.op, row.bits, row.weights, effect=row.planned) for row in layers)
    total = sum(row.own_error**2 for row in errors.rows)
    found = []
    for row in errors.rows:
        own = [by_name[name] for name in row.layers if name in by_name]
        planned = [layer.planned for layer in own if layer.planned is not None]
        found.append(
            Place(
                name=row.layers[0] if row.layers else row.tensor,
                op=row.op,
                bits=own[0].bits if own else "",
                weights=sum(layer.weights for layer in own),
                sqnr_db=row.sqnr_db,
                added=row.own_error**2 / total if total > 0 else 0.0,
                tensor=row.tensor,
                effect=sum(planned) if planned else None,
            )
        )
    return tuple(found)


def with_blame(places: Sequence[Place], found: Diagnosis) -> tuple[Place, ...]:
    """The places with what restoring each gained: the larger of its weights and its rounding, as a share of all that
    the outputs lose."""
    gains: dict[str, float] = {}
    for suspect in found.suspects:
        if suspect.gain is not None and found.damage > 0:
            gains[suspect.tensor] = max(gains.get(suspect.tensor, 0.0), suspect.gain / found.damage)
    return tuple(msgspec.structs.replace(place, effect=gains.get(place.tensor)) for place in places)


def with_places(
    layers: Sequence[PageLayer], places: Sequence[Place], errors: LayerErrors | None
) -> tuple[PageLayer, ...]:
    """The layers with their places."""
    where = {place.name: number for number, place in enumerate(places, 1)}
    if errors is not None:
        where = {name: number for number, row in enumerate(errors.rows, 1) for name in row.layers}
    return tuple(msgspec.structs.replace(layer, place=where.get(layer.name)) for layer in layers)


def with_steps(layers: Sequence[PageLayer], planned: Sequence[tuple[PlanRow, Width]]) -> tuple[PageLayer, ...]:
    """The layers with what one width less and one more would cost, by the table that their bits were planned from.

    planned: its rows, with the width that each got.
    """
    steps = {name: (row.layers, *_steps(row, width)) for row, width in planned for name in row.layers}
    nothing = ((), None, None)
    return tuple(
        msgspec.structs.replace(layer, less=less, more=more, alike=alike)
        for layer in layers
        for alike, less, more in (steps.get(layer.name, nothing),)
    )


def _steps(row: PlanRow, width: Width) -> tuple[WidthStep | None, WidthStep | None]:
    """The widths next below and above in bytes, of those that lose more and less."""
    now = row.widths.index(width)
    others = [index for index, other in enumerate(row.widths) if other != FLOAT and index != now]
    below = [i for i in others if row.sizes[i] < row.sizes[now] and row.damages[i] > row.damages[now]]
    above = [i for i in others if row.sizes[i] > row.sizes[now] and row.damages[i] < row.damages[now]]

    def step(index: int) -> WidthStep:
        bits = row.widths[index]
        text = bits if isinstance(bits, str) else f"{bits:g}"
        return WidthStep(text, row.damages[index], row.sizes[index] - row.sizes[now])

    less = step(max(below, key=lambda i: row.sizes[i])) if below else None
    more = step(min(above, key=lambda i: row.sizes[i])) if above else None
    return less, more


def drawn_grids(
    places: Sequence[Place], layers: Collection[str], grids_of: Callable[[Collection[str]], Sequence[WeightGrid]]
) -> tuple[WeightGrid, ...]:
    """The grids of the layers that cost most, of those that have a grid. layers: of the file, with codes or without;
    grids_of: the grids of some of them and maybe others, which takes its time for each."""
    ranked = sorted(places, key=lambda place: (-(place.effect or 0.0), -(place.added or 0.0)))
    names = list(dict.fromkeys(place.name for place in ranked if place.name in layers))
    chosen = _in_order(names[:DRAWN_LAYERS], grids_of(names[:DRAWN_LAYERS]))
    if len(chosen) < min(DRAWN_LAYERS, len(layers)):
        grids = grids_of(layers)
        by_noise = sorted(grids, key=lambda grid: math.inf if grid.sqnr_db is None else grid.sqnr_db)
        chosen = _in_order([*names, *(grid.layer for grid in by_noise)], grids)
    return tuple(chosen[:DRAWN_LAYERS])


def _in_order(names: Sequence[str], grids: Sequence[WeightGrid]) -> list[WeightGrid]:
    by_layer = {grid.layer: grid for grid in grids}
    return [by_layer[name] for name in dict.fromkeys(names) if name in by_layer]
