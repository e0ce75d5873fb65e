"""The sections that say how much is lost, and where."""

from __future__ import annotations

from dfmpc_onnx.evaluation.diagnosis.schema import Diagnosis, Suspect
from dfmpc_onnx.evaluation.verdict import (
    DOUBTFUL_DB,
    GOOD_AGREEMENT,
    GOOD_DB_OF_OTHERS,
    LEAST_AGREEMENT,
    RUINED_DB,
    RUINED_SHARE,
    Verdict,
)
from dfmpc_onnx.report.diagnosis_text import finding
from dfmpc_onnx.report.html.blocks import (
    Block,
    Bullets,
    Cell,
    Column,
    Drawn,
    Figures,
    Paragraph,
    Rows,
    Section,
    cells,
)
from dfmpc_onnx.report.html.charts import CHART_WIDTH, NARROW_WIDTH, NoiseBars, noise_chart
from dfmpc_onnx.report.html.file_sections import speed_of
from dfmpc_onnx.report.html.names import names_of
from dfmpc_onnx.report.html.ranking import (
    LEAST_OF_WEIGHTS,
    Ranking,
    by_effect,
    by_own_error,
    share_of_weights,
    weights_matter,
)
from dfmpc_onnx.report.html.schema import ReportPage
from dfmpc_onnx.report.html.words import as_sentence, decibels_text, percent
from dfmpc_onnx.report.tables import megabytes
from dfmpc_onnx.report.verdict_text import verdict_sentence

OWN_LISTED = 3  # places that make most error, beside those that cost the output most
WHAT_DECIBELS_ARE = (
    "SQNR is the power of the signal over that of the error. Errors are amplitudes, beside the values, where power is "
    "not named: an error of {error:.2g} % is {power:.2g} % of the power, {decibels:.3g} dB."
)
OF_WHAT_DIFFERS = "of the power by which outputs differ from input to input"
WHY_NOT_THE_SAME = "what all outputs have in common counts in the SQNR, and not here"
SQNR_CURVE = (
    "Above: SQNR behind each place, with all that went wrong in front of it. It may rise: a sum with a branch of less "
    "error, a ReLU or a mean takes part of the error away. "
)
BARS = {
    "plan": "Below: what the bits of a place's weights were measured to add to the loss before they were chosen; the "
    "rounding of activations is not in it.",
    "blame": "Below: how much of the output's error goes away where the weights of a place, or the rounding of what it "
    "computes, is restored to float; the larger of both.",
    "": "Below: the error made here, fed as in the float network: by a layer's weights and the rounding of its input, "
    "or by the rounding of a tensor between layers; in % of the power of what all places make, each beside its own "
    "signal.",
}
NAMED_IN_RED = " In red, with their numbers: the places named above."
EFFECT_HEADINGS = {
    "plan": "its bits add to the loss",
    "blame": "of the output's error, gone without it",
}
BADGES = {
    "good": "Good",
    "check": "Check it on images of yours",
    "bad": "Bad: much is lost",
    "not known": "Not known",
}


def badge_meaning(verdict: Verdict | None) -> str:
    """What the badge rests on, and what each level takes."""
    if verdict is None or verdict.level == "not known":
        return ""
    rests = {
        "generated": "Estimated, without real images",
        "images": "Counted on images of yours",
        "images of the statistics": "Counted on images of yours that the statistics saw",
    }[verdict.basis]
    low, high = (
        f"{LEAST_AGREEMENT:g} % at the lower end of the interval",
        f"under {LEAST_AGREEMENT:g} % at the upper end",
    )
    if verdict.kind == "boxes":
        kept = f"{GOOD_AGREEMENT:g} % of the boxes or more are found again"
        return f"{rests}. Good: {kept}, at least {low}. Bad: {high}, or an SQNR under {RUINED_DB:g} dB."
    if verdict.kind == "labels" and verdict.agreement is None:
        return f"{rests}. Bad: fewer than {100 * RUINED_SHARE:g} % of the labels are the same; else check it."
    if verdict.agreement is None:
        return f"{rests}. Good: {GOOD_DB_OF_OTHERS:g} dB or more. Bad: under {DOUBTFUL_DB:g} dB."
    kept = f"{GOOD_AGREEMENT:g} % of real inputs or more keep their class"
    return (
        f"{rests}. Good: {kept}, at least {low}, with an SQNR of {DOUBTFUL_DB:g} dB or more. Bad: {high}, or an SQNR "
        f"under {RUINED_DB:g} dB."
    )


def outcome(page: ReportPage) -> Section:
    """The verdict, and the figures of the whole."""
    before, after = page.float_file.bytes, page.quantized_file.bytes
    entries = [
        (megabytes(after), "size", f"{before / max(after, 1):.2f} times smaller than {megabytes(before)}")
        if after <= before
        else (megabytes(after), "size", f"larger than the float file, of {megabytes(before)}"),
        (f"{page.mean_bits:g}", "bits a weight", "on average, as stored; 32 before"),
    ]
    found = page.fidelity
    if found is not None and not found.not_known:
        entries.append((f"{found.sqnr_db:g} dB", "SQNR, signal over noise", "at the output"))
        entries += _classes_kept(page.verdict)
        if found.top1 is not None:
            entries.append((f"{found.top1:g} %", "correct", f"{found.float_top1:g} % of the float network"))
    if page.times is not None:
        entries.append((f"{page.times.quantized_ms:.2f} ms", "a run on this machine", _faster(page)))
    blocks: list[Block] = [Figures(entries)]
    if page.verdict is not None:
        said = verdict_sentence(page.verdict)
        blocks.append(Paragraph(as_sentence(said if page.verdict.not_known else said.partition(": ")[2])))
        if page.verdict.sqnr_db is not None:
            blocks.append(Paragraph(_conversion(page.verdict.sqnr_db), quiet=True))
        if meaning := badge_meaning(page.verdict):
            blocks.append(Paragraph(meaning, quiet=True))
    elif reason := page.untold.get("outcome"):
        blocks.append(Paragraph(as_sentence(reason)))
    if page.warnings:
        blocks.append(Bullets([("Warning", warning) for warning in page.warnings]))
    return Section("outcome", "How good is it?", blocks)


def _classes_kept(verdict: Verdict | None) -> list[tuple[str, str, str]]:
    """The figure on classes, if there are any."""
    if verdict is None or verdict.agreement is None or verdict.interval is None:
        return []
    low, high = verdict.interval
    what = "keep their class" if verdict.basis != "generated" else "keep their class, estimated"
    return [(f"{verdict.agreement:g} %", what, f"of real inputs; 95 % interval {low:g} to {high:g} %")]


def _conversion(decibels: float) -> str:
    """Amplitude, power and decibels by the error of this file."""
    amplitude = 10 ** (-decibels / 20)
    return WHAT_DECIBELS_ARE.format(error=100 * amplitude, power=100 * amplitude**2, decibels=decibels)


def _faster(page: ReportPage) -> str:
    assert page.times is not None
    speed = speed_of(page.times)
    threads = f"{page.times.threads} thread{'' if page.times.threads == 1 else 's'}"
    return f"{speed}; float {page.times.float_ms:.2f} ms; {threads}"


def losses(page: ReportPage) -> Section:
    """Where along the network the loss comes from: what costs the output first, what is made where second."""
    effect = by_effect(page.places, are_parts=page.effect_by == "plan")
    own = by_own_error(page.places)
    if not weights_matter(page) and own.order:  # what the weights cost is in the table of all layers
        effect = Ranking((), (), 0.0)
    first = effect if effect.order else own
    blocks: list[Block] = [Paragraph(sentence) for sentence in _where(page, effect, own)]
    if any(place.sqnr_db is not None for place in page.places):
        blocks += _curve(page, first, by=page.effect_by if effect.order else "")
    else:
        reason = page.untold.get("losses", "")
        compared = "the layers were not compared one by one"
        blocks.append(Paragraph(as_sentence(f"{compared}: {reason}" if reason else compared)))
    if first.order:
        blocks.append(_worst(page, effect, own))
    return Section("losses", "Where is the loss?", blocks)


def _where(page: ReportPage, effect: Ranking, own: Ranking) -> list[str]:
    """Which places cost the output most, which make most error, and whether these are the same."""
    said = _weights_and_roundings(page)
    if effect.order:
        said.append(_of_effect(page, effect))
    if own.order:
        local = "1 place makes" if len(own.named) == 1 else f"{len(own.named)} places make"
        what = f"{percent(own.share)} of what all {len(page.places)} make, each beside its own signal"
        said.append(f"Error made at the place itself: {local} {what}: {own.numbers}.")
    elif not effect.order:
        return ["No place adds an error that could be measured."] if page.places else []
    if not effect.order:
        said.append("How much of each reaches the output was not measured; --blame measures it.")
    elif own.order and set(own.named) != set(effect.named):
        said.append(
            f"The two differ, since errors fade or grow on their way: change {effect.numbers} first, which the output "
            "suffers from."
        )
    return said


def _weights_and_roundings(page: ReportPage) -> list[str]:
    """How much of the loss comes from the bits of weights, where that was measured; the rest is rounded activations."""
    share = share_of_weights(page)
    if share is None or page.diagnosis is None:
        return []
    lost = page.diagnosis.damage
    said = f"All errors together: {percent(lost)} {OF_WHAT_DIFFERS} ({WHY_NOT_THE_SAME}). "
    said += "The bits of all weights were measured to add "
    if share >= 1:
        return [f"{said}as much and more by themselves, {percent(share * lost)}."]
    rest = "most of the loss comes" if share < LEAST_OF_WEIGHTS else "the rest comes"
    return [f"{said}{percent(share * lost)} of it; {rest} from the rounding of activations."]


def _of_effect(page: ReportPage, effect: Ranking) -> str:
    several = len(effect.named) > 1
    numbers = f"{effect.numbers[:1].upper()}{effect.numbers[1:]}"
    if page.effect_by == "blame":
        gone = (
            f"{percent(effect.share)} of its error goes away with {'the first of them' if several else 'it'} in float"
        )
        return f"{numbers} cost{'' if several else 's'} the output most: {gone}."
    whole = sum(place.effect or 0.0 for place in page.places)
    which = f", which is {percent(whole)} {OF_WHAT_DIFFERS}" if page.diagnosis is None else ""
    return (
        f"{numbers} cost{'' if several else 's'} the output most: {percent(effect.share)} of what the bits of all "
        f"weights were measured to add{which}."
    )


def _curve(page: ReportPage, first: Ranking, by: str) -> list[Block]:
    """The chart, drawn for wide and for narrow windows, and how to read it."""
    decibels = [place.sqnr_db for place in page.places]
    heights = [place.effect if by else place.added for place in page.places]
    bars = NoiseBars(tuple(heights), {"plan": "to output, %", "blame": "gone, %", "": "made here, %"}[by])
    wide, narrow = (noise_chart(decibels, bars, first.named, width) for width in (CHART_WIDTH, NARROW_WIDTH))
    return [Drawn(wide, narrow), Paragraph(SQNR_CURVE + BARS[by] + NAMED_IN_RED, quiet=True)]


def _worst(page: ReportPage, effect: Ranking, own: Ranking) -> Rows:
    """The places that cost the output most, and those that make most error."""
    short, places = names_of(page), page.places
    listed = list(dict.fromkeys((*effect.order, *own.order[:OWN_LISTED]))) if effect.order else list(own.order)
    most_effect = max((places[i].effect or 0.0 for i in listed), default=0.0) or 1.0
    most_own = max((places[i].added or 0.0 for i in listed), default=0.0) or 1.0
    rows = []
    for index in listed:
        place = places[index]
        row = cells(index + 1, short(place.name), place.bits or "-")
        if effect.order:
            row.append(_share(place.effect, most_effect, index in effect.named))
        row.append(_share(place.added, most_own, index in own.named and not effect.order))
        weights = f"{place.weights:,}" if place.weights else f"none ({place.op})"
        rows.append([*row, *cells(decibels_text(place.sqnr_db), weights)])
    columns = [
        Column("no.", right=True),
        Column("layer or tensor", name=True),
        Column("bits", right=True),
        *([Column(EFFECT_HEADINGS[page.effect_by], right=True)] if effect.order else []),
        Column("error made here, of all made", right=True),
        Column("SQNR behind it, dB", right=True),
        Column("weights", right=True, minor=True),
    ]
    said = [index for index in range(len(columns)) if index < 2 or any(row[index].text != "-" for row in rows)]
    columns, rows = [columns[index] for index in said], [[row[index] for index in said] for row in rows]
    caption = "What costs the output most, then what makes most error" if effect.order else "Where most error is made"
    return Rows(caption, columns, rows)


def _share(share: float | None, most: float, bad: bool) -> Cell:
    return Cell("-") if share is None else Cell(percent(max(share, 0.0)), max(share, 0.0) / most, bad)


def causes(page: ReportPage) -> Section:
    """Causes by name, with the evidence; where nothing stands out the sentence alone."""
    found = page.diagnosis
    if found is None:
        reason = page.untold.get("causes", "")
        sought = "no causes were looked for"
        said = as_sentence(f"{sought}: {reason}" if reason else sought)
        return Section("causes", "What causes it?", [Paragraph(said)])
    blocks: list[Block] = [Paragraph(as_sentence(finding(found)))]
    looked_into = [suspect for suspect in found.suspects if suspect.cause is not None]
    if looked_into and (found.blamed or found.culprit is not None):
        blocks.append(_suspects(page, found, looked_into))
    return Section("causes", "What causes it?", blocks)


def _suspects(page: ReportPage, found: Diagnosis, looked_into: list[Suspect]) -> Rows:
    """One row a layer: what its weights and its rounding do."""
    short = names_of(page)
    by_layer: dict[str, dict[str, Suspect]] = {}
    for suspect in looked_into:
        by_layer.setdefault(suspect.layer, {})[suspect.kind] = suspect
    for suspect in found.suspects:  # what was not looked into has an error all the same
        if suspect.layer in by_layer:
            by_layer[suspect.layer].setdefault(suspect.kind, suspect)
    columns = [
        Column("layer or tensor", name=True),
        Column("own error", right=True),
        Column("by its weights", right=True),
        Column("by its rounding", right=True),
        *([Column("gain, dB: weights", right=True), Column("gain, dB: rounding", right=True)] if found.blamed else []),
        Column("cause", long=True),
    ]
    rows = []
    for layer, kinds in by_layer.items():
        both = [kinds.get("weights"), kinds.get("activation")]
        own = next((s.own_error for s in both if s is not None and s.own_error is not None), None)
        parts = [None if s is None or s.cause is None else s.cause.figures.get("error") for s in both]
        row = cells(short(layer), *("-" if error is None else percent(error) for error in (own, *parts)))
        if found.blamed:
            row += cells(*("-" if s is None or s.gain_db is None else f"{s.gain_db:+.1f}" for s in both))
        texts = [s.cause.text for s in both if s is not None and s.cause is not None]
        rows.append([*row, Cell("; ".join(dict.fromkeys(texts)))])
    what = "Restored to float, what gains most first" if found.blamed else "Largest errors of their own"
    return Rows(f"{what}; errors are amplitudes, beside the values", columns, rows)
