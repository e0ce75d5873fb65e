"""The sections on what lies inside the file: weights beside their grids, activations beside their ranges."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dfmpc_onnx.evaluation.activation_ranges import ActivationRange
from dfmpc_onnx.evaluation.matched_tensors import RUNTIME_LAYERS
from dfmpc_onnx.evaluation.weight_grids import WeightGrid
from dfmpc_onnx.report.html.blocks import Block, Cell, Column, Drawn, Gallery, Paragraph, Rows, Section, cells
from dfmpc_onnx.report.html.charts import CHART_WIDTH, CLIPPED_MUCH, NARROW_WIDTH, range_chart, weight_chart
from dfmpc_onnx.report.html.names import ShortNames, names_of
from dfmpc_onnx.report.html.schema import PageLayer, ReportPage
from dfmpc_onnx.report.html.words import as_sentence, bits_words, percent, verb

RANGES_LISTED = 5  # of those that are clipped, and of those that are loose
LOOSE = 0.4  # share of a range that is used, below which the range is far too wide
OVERLAID = (
    "All channels of a layer are drawn over each other, each in steps of its own grid and about its own zero point: so "
    "2 bits, which are 4 levels in each channel, may show more than 4 here. Blue: the float weights, brought to the "
    "scale of the quantized ones. Orange: the weights on the grid. Dotted: the ends of the grid. "
)


def weights(page: ReportPage) -> Section:
    """Histograms of weights before and after."""
    layers, short = {layer.name: layer for layer in page.layers}, names_of(page)
    entries = []
    for index, grid in enumerate(page.drawn):
        layer = layers.get(grid.layer)
        number = layer.place or index + 1 if layer is not None else index + 1
        entries.append((f"{number}. {short(grid.layer)}", weight_chart(grid, index), _of_grid(grid, layer)))
    if not entries:
        why = "the file holds no codes that could be read"
        if any(layer.op in RUNTIME_LAYERS for layer in page.layers):
            why = "integer operators, such as QLinearConv, are compared as a whole, and their weights are not drawn"
        reason = page.untold.get("weights", why)
        return Section("weights", "Weights before and after", [Paragraph(as_sentence(reason))])
    which = f"Shown are the {len(entries)} of {len(page.layers)} layers that cost most."
    if not any(place.added or place.effect for place in page.places):  # nothing tells which cost most
        which = f"Shown are the first {len(entries)} of {len(page.layers)} layers."
    return Section("weights", "Weights before and after", [Paragraph(OVERLAID + which, quiet=True), Gallery(entries)])


def _of_grid(grid: WeightGrid, layer: PageLayer | None) -> str:
    """Bits and levels, what the weights keep, and what lies beyond the grid."""
    bits = layer.bits if layer is not None else ""
    if layer is not None and layer.block:
        text = (
            f"{bits_words(bits)}: an index into a codebook stands for {layer.block} weights; drawn are the "
            f"{len(grid.levels)} levels that its vectors hold"
        )
    elif bits.isdigit():
        text = f"{bits} bits: up to {2 ** int(bits)} levels a channel, {len(grid.levels)} over all channels"
    else:
        text = f"{bits_words(bits)}, {len(grid.levels)} levels over all channels"
    if grid.sqnr_db is not None:
        text += f"; the weights keep {grid.sqnr_db:g} dB"
    if grid.beyond:
        text += f"; {percent(grid.beyond)} lie beyond the grid"
    return text


def activations(page: ReportPage) -> Section:
    """Ranges: what is clipped, and what of them is unused."""
    ranges = page.ranges
    if not ranges:
        reason = page.untold.get("activations", "the file quantizes no activations")
        return Section("activations", "Activations and their ranges", [Paragraph(as_sentence(reason))])
    clipped = sorted((r for r in ranges if r.clipped > CLIPPED_MUCH), key=lambda r: -r.clipped)
    loose = sorted((r for r in ranges if r.used < LOOSE), key=lambda r: r.used)
    blocks: list[Block] = [
        Paragraph(
            f"Of {len(ranges)} quantized tensors {len(clipped) or 'none'} {verb(len(clipped), 'has', 'have')} more "
            f"than {percent(CLIPPED_MUCH)} of the values beyond the range, and {len(loose) or 'none'} "
            f"{verb(len(loose), 'uses', 'use')} less than {percent(LOOSE)} of it."
        )
    ]
    names = _Tensors(page)
    if clipped or loose:
        wide, narrow = (range_chart(ranges, width, names.numbers(ranges)) for width in (CHART_WIDTH, NARROW_WIDTH))
        legend = (
            "Each line is what a tensor held on the images, beside the band, which is the range of its codes: what "
            "reaches out of it is clipped, and a short line leaves steps unused. Red: much is clipped."
        )
        blocks += [Drawn(wide, narrow), Paragraph(legend, quiet=True)]
    if clipped:
        blocks.append(names.rows("Clipped", clipped, "clipped"))
    if loose:
        blocks.append(names.rows("Range unused", loose, "range in use"))
    return Section("activations", "Activations and their ranges", blocks)


class _Tensors:
    """Tensors by the numbers and names of the places that compute them."""

    def __init__(self, page: ReportPage) -> None:
        self._places = {place.tensor: (number, place.name) for number, place in enumerate(page.places, 1)}
        self._short: ShortNames = names_of(page)

    def numbers(self, ranges: Sequence[ActivationRange]) -> list[float]:
        """Those of the places; a tensor that is computed at none stands halfway behind the one before. Empty where no
        place is known."""
        found: list[float] = []
        for r in ranges:
            before = found[-1] if found else 0.0
            found.append(self._places[r.tensor][0] if r.tensor in self._places else math.floor(before) + 0.5)
        return found if any(r.tensor in self._places for r in ranges) else []

    def rows(self, caption: str, ranges: Sequence[ActivationRange], measure: str) -> Rows:
        """The first few. measure: the heading of the last column."""
        more = f", {len(ranges) - RANGES_LISTED} more beside these" if len(ranges) > RANGES_LISTED else ""
        columns = [
            Column("no.", right=True),
            Column("computed by", name=True),
            Column("range of its codes", right=True),
            Column("values", right=True, minor=True),
            Column(measure, right=True),
        ]
        return Rows(f"{caption}{more}", columns, [self._row(r, measure) for r in ranges[:RANGES_LISTED]])

    def _row(self, found: ActivationRange, measure: str) -> list[Cell]:
        number, name = self._places.get(found.tensor, ("-", found.tensor))
        share = Cell(percent(found.clipped), bad=True)
        if measure != "clipped":
            share = Cell(percent(min(found.used, 1.0)), min(found.used, 1.0))
        held = f"{found.least:.3g} to {found.largest:.3g}"
        return cells(number, self._short(name), f"{found.low:.3g} to {found.high:.3g}", held, share)
