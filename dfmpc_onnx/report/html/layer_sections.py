"""The sections with every layer, and with the reasons of those that were left in float or not paired."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dfmpc_onnx.pipeline.manager import Refusal
from dfmpc_onnx.pipeline.refusals import NOT_LOW, UNSTATED
from dfmpc_onnx.report.html.blocks import Block, Bullets, Cell, Column, Paragraph, Rows, Section, cells
from dfmpc_onnx.report.html.names import names_of
from dfmpc_onnx.report.html.schema import PageLayer, Place, ReportPage, WidthStep
from dfmpc_onnx.report.html.words import decibels_text, percent, signed_kilobytes, verb
from dfmpc_onnx.report.width_words import layers_by_bits

REASONS_LISTED = 40
SITES_NAMED = 3  # of one reason
WHOLE_MODEL = "model"  # as the site of a refusal
OF_TENSORS = ("costly-activation", "operator-not-taken")  # refusals that matter to a reader; others follow from layers
UNIFORM = "The same for all"


def layers(page: ReportPage) -> Section:
    """Every layer, a line each. What is the same for all is a sentence and no column."""
    same: list[str] = []
    columns, texts = [Column("no.", right=True), Column("layer", name=True), Column("bits", right=True)], []
    for column, cell in _measures(page):
        found = [cell(layer) for layer in page.layers]
        if {entry.text for entry in found} == {"-"}:
            continue
        if column.heading in ("operator", "computes in", "stored bits") and len({entry.text for entry in found}) == 1:
            same.append(f"{column.heading} {found[0].text}")
            continue
        columns.append(column)
        texts.append(found)
    short = names_of(page)
    rows = [
        [*cells(layer.place or "-", short(layer.name), layer.bits), *(found[index] for found in texts)]
        for index, layer in enumerate(page.layers)
    ]
    legend = (
        f"{len(page.layers)} layers: {layers_by_bits(layer.bits for layer in page.layers)}. Names are without what all "
        "have in common in front, and without the operator."
    )
    if same:
        legend += f" {UNIFORM}: {', '.join(same)}."
    if any(layer.planned is not None for layer in page.layers):
        legend += (
            " Adds to the output: the loss that the layer's bits alone were measured to add, before they were chosen; "
            "the same for one step less and one step more. Narrow windows leave columns out."
        )
    blocks: list[Block] = [Rows("All layers, from input to output", columns, rows), Paragraph(legend, quiet=True)]
    return Section("layers", "All layers", blocks)


def _measures(page: ReportPage) -> list[tuple[Column, Callable[[PageLayer], Cell]]]:
    """The columns behind name and bits, the most telling first, each with what it says of a layer."""
    most_planned = max((layer.planned or 0.0 for layer in page.layers), default=0.0) or 1.0
    most_made = max((place.added or 0.0 for place in page.places), default=0.0) or 1.0

    def place_of(layer: PageLayer) -> Place | None:
        number = layer.place or 0
        return page.places[number - 1] if 0 < number <= len(page.places) else None

    def made(layer: PageLayer) -> Cell:
        place = place_of(layer)
        return _bar(place.added if place is not None else None, most_made)

    def sqnr(layer: PageLayer) -> Cell:
        place = place_of(layer)
        return Cell(decibels_text(place.sqnr_db if place is not None else None))

    def grows(layer: PageLayer) -> Cell:
        return Cell("-" if layer.more is None else signed_kilobytes(layer.more.bytes).removesuffix(" kB"))

    usual = {layer.bits for layer in page.layers if _stored_text(layer) != layer.bits and layer.bits != "float"}
    return [
        (Column("adds to the output", right=True), lambda layer: _bar(layer.planned, most_planned)),
        (Column("one step less", right=True, minor=True), lambda layer: _step(layer.less)),
        (Column("one step more", right=True, minor=True), lambda layer: _step(layer.more)),
        (Column("kB for it", right=True, minor=True), grows),
        (Column("error made here", right=True), made),
        (Column("SQNR, dB", right=True, minor=True), sqnr),
        (Column("weights", right=True, minor=True), lambda layer: Cell(f"{layer.weights:,}")),
        (Column("stored bits", right=True, minor=True), lambda layer: Cell(_stored_text(layer) if usual else "-")),
        (Column("operator", minor=True), lambda layer: Cell(layer.op)),
        (Column("computes in", minor=True), lambda layer: Cell(layer.computes or "-")),
    ]


def _stored_text(layer: PageLayer) -> str:
    return f"{layer.stored_bits:.3g}"


def _step(step: WidthStep | None) -> Cell:
    """What another width adds: ``0.23 % at 4``."""
    return Cell("-" if step is None else f"{percent(step.loss)} at {step.bits}")


def _bar(share: float | None, most: float) -> Cell:
    return Cell("-") if share is None else Cell(percent(share), share / most)


def refusals(page: ReportPage) -> Section:
    """Which layers compute in float and why; why layers have no partner that repairs them; what else was left."""
    floats = [layer for layer in page.layers if layer.role == "float"]
    slow = [layer for layer in page.layers if layer.role != "float" and layer.computes == "float"]
    blocks: list[Block] = [
        Paragraph(
            f"{len(floats) or 'None'} of {len(page.layers)} layers {'is' if len(floats) < 2 else 'are'} left in float; "
            f"{len(slow) or 'none'} with integer weights {'computes' if len(slow) < 2 else 'compute'} in float."
        )
    ]
    in_float = {layer.name for layer in (*floats, *slow)}
    unpaired = [refusal for refusal in page.refusals if refusal.code in NOT_LOW]
    others = [refusal for refusal in page.refusals if refusal.code not in NOT_LOW]
    blocks += _reasons(page, "", [refusal for refusal in others if refusal.site in in_float])
    if any(layer.role == "low" for layer in page.layers):
        low = {layer.name for layer in page.layers if layer.role == "low"}
        alone = len({refusal.site for refusal in unpaired} & low)
        said = "Why layers are not paired: the error of few bits is repaired in the next layer where that is possible. "
        said += (
            f"These cannot be repaired so, and {alone} of them {verb(alone, 'has', 'have')} few bits all the same:"
            if alone
            else "These cannot be repaired so:"
        )
        blocks += _reasons(page, said, unpaired)
    sites = {layer.name for layer in page.layers} - in_float | {WHOLE_MODEL}
    rest = [refusal for refusal in others if refusal.site in sites or refusal.code in OF_TENSORS]
    blocks += _reasons(page, "What else was left as it was:", rest)
    return Section("refusals", "Layers left in float or not paired, and why", blocks)


def _reasons(page: ReportPage, said: str, found: Sequence[Refusal]) -> list[Block]:
    """Refusals of one code as one entry."""
    short = names_of(page)
    alike: dict[tuple[str, str, str], dict[str, Refusal]] = {}
    for refusal in found:
        key = (refusal.by, refusal.code, refusal.reason if refusal.code == UNSTATED else "")
        alike.setdefault(key, {}).setdefault(refusal.site, refusal)
    if not alike:
        return []
    entries = []
    for sites in list(alike.values())[:REASONS_LISTED]:
        names = ", ".join(short(site) for site in list(sites)[:SITES_NAMED])
        more = f" and {len(sites) - SITES_NAMED} more" if len(sites) > SITES_NAMED else ""
        first = next(iter(sites.values()))
        entries.append((f"{names}{more}", f"{first.reason}{' (of the first)' if len(sites) > 1 else ''}"))
    blocks: list[Block] = [*([Paragraph(said)] if said else []), Bullets(entries)]
    if len(alike) > REASONS_LISTED:
        blocks.append(Paragraph(f"{len(alike) - REASONS_LISTED} reasons more are in --json.", quiet=True))
    return blocks
