"""The top of the page: how good the file is, where the loss is, and what to change, each in a few plain sentences."""

from __future__ import annotations

from dfmpc_onnx.errors import printable
from dfmpc_onnx.evaluation.verdict import KEEP_CLASS, Verdict
from dfmpc_onnx.report.html import advice_section
from dfmpc_onnx.report.html.blocks import Answers, Section
from dfmpc_onnx.report.html.file_sections import speed_of
from dfmpc_onnx.report.html.names import names_of
from dfmpc_onnx.report.html.ranking import Ranking, by_effect, by_own_error, weights_matter
from dfmpc_onnx.report.html.schema import ReportPage
from dfmpc_onnx.report.html.tensor_sections import LOOSE
from dfmpc_onnx.report.html.words import as_sentence, joined, percent, signed_kilobytes, verb
from dfmpc_onnx.report.tables import megabytes
from dfmpc_onnx.report.verdict_text import finding_of

HEADS = {"good": "Good.", "check": "Not sure yet.", "bad": "Bad.", "not known": "Not known."}
Change = tuple[str, list[str]]  # sentences, and the commands that they are about


def summary(page: ReportPage) -> Section:
    """The three answers."""
    change, commands = _change(page)
    entries = [
        ("How good is it?", " ".join([*_quality(page), *_size_and_time(page)]), []),
        ("Where is the loss?", _place_of_loss(page), []),
        ("What would you change?", change, commands),
    ]
    return Section("summary", "In short", [Answers(entries)])


def _quality(page: ReportPage) -> list[str]:
    verdict = page.verdict
    if verdict is None:
        return [as_sentence(f"not known: {page.untold.get('outcome', 'the files were not compared')}")]
    head = HEADS[verdict.level]
    if verdict.level == "not known":
        return [head, as_sentence(verdict.not_known), "So the outputs of both files were not compared."]
    return [head, quality_of(verdict)]


def quality_of(verdict: Verdict) -> str:
    """What to expect of real inputs, as one sentence; without classes, what was measured."""
    if verdict.agreement is None or verdict.interval is None:
        return as_sentence(printable(finding_of(verdict)))
    low, high = verdict.interval
    rests = "estimated without real images" if verdict.basis == "generated" else f"counted on {verdict.origin}"
    return (
        f"About {verdict.agreement:g} % of real inputs should {KEEP_CLASS}; with a certainty of 95 % between {low:g} "
        f"and {high:g} % ({printable(rests)})."
    )


def _size_and_time(page: ReportPage) -> list[str]:
    before, after = page.float_file.bytes, page.quantized_file.bytes
    smaller = f"{before / max(after, 1):.1f} times smaller than" if after <= before else "larger than"
    said = f"The file takes {megabytes(after)}, {smaller} the float file"
    if page.times is None:
        return [f"{said}."]
    return [f"{said}, and a run on this machine is {speed_of(page.times)}."]


def _place_of_loss(page: ReportPage) -> str:
    """Weights or activations, then the places by name."""
    effect, own = by_effect(page.places, are_parts=page.effect_by == "plan"), by_own_error(page.places)
    if effect.order and (weights_matter(page) or not own.order):
        return " ".join([_of_weights_or_all(page), _costly(page, effect)]).strip()
    if not own.order:
        reason = page.untold.get("losses", "")
        return as_sentence(f"not known: {reason}" if reason else "no layer adds an error that could be measured")
    said = [] if weights_matter(page) else [_of_roundings(page)]
    several = len(own.named) > 1
    said.append(
        f"{_names(page, own)} {'make' if several else 'makes'} {percent(own.share)} of the error that is made along "
        "the network."
    )
    return " ".join([*said, *_too_wide(page, own), *_cause(page)])


def _of_weights_or_all(page: ReportPage) -> str:
    if page.effect_by != "plan":
        return ""
    whole = percent(sum(place.effect or 0.0 for place in page.places))
    if page.diagnosis is None:
        return f"Only the bits of the weights were measured, before they were chosen: they lose {whole}."
    return f"The bits of the weights lose {whole}, of {percent(page.diagnosis.damage)} that all errors together lose."


def _of_roundings(page: ReportPage) -> str:
    """Of a page whose weights make little of the loss."""
    whole = sum(layer.planned or 0.0 for layer in page.layers)
    lost = page.diagnosis.damage if page.diagnosis is not None else 0.0
    return (
        f"In rounded activations: the bits of the weights make only {percent(whole / lost)} of the loss."
        if lost > 0
        else ""
    )


def _costly(page: ReportPage, effect: Ranking) -> str:
    several = len(effect.named) > 1
    names = _names(page, effect)
    if page.effect_by == "blame":
        which = "the first of them" if several else "it"
        return (
            f"{names} {'cost' if several else 'costs'} the output most: {percent(effect.share)} of its error goes away "
            f"with {which} in float."
        )
    return f"{names} {'make' if several else 'makes'} {percent(effect.share)} of that."


def _names(page: ReportPage, ranking: Ranking) -> str:
    """The named places with their bits, as a sentence begins."""
    short = names_of(page)
    parts = []
    for index in ranking.named:
        place = page.places[index]
        bits = f"{place.bits} bits" if place.bits.isdigit() else place.bits
        parts.append(f"{short(place.name)} (no. {index + 1}{f', {bits}' if bits else ''})")
    return joined(parts)


def _too_wide(page: ReportPage, own: Ranking) -> list[str]:
    """Of the named places, those whose range is much wider than what they compute."""
    used = {r.tensor: r.used for r in page.ranges}
    wide = [used[page.places[i].tensor] for i in own.named if used.get(page.places[i].tensor, 1.0) < LOOSE]
    if not wide:
        return []
    count = len(own.named)
    of_them = f"the values of {'all' if len(wide) == count else f'{len(wide)} of the'} {count} use"
    of_them = "its values use" if count == 1 else of_them
    least, most = percent(min(wide)), percent(max(wide))
    share = least if least == most else f"{least.removesuffix(' %')} to {most}"
    return [as_sentence(f"{of_them} {share} of the range that they are rounded in, on these images")]


def _cause(page: ReportPage) -> list[str]:
    """The cause by name, where one stands out."""
    culprit = page.diagnosis.culprit if page.diagnosis is not None else None
    if culprit is None or culprit.cause is None:
        return []
    return [as_sentence(f"the cause at {names_of(page)(culprit.layer)}: {printable(culprit.cause.text)}")]


def _change(page: ReportPage) -> Change:
    """The first that applies: measured, then to know more, then proposed."""
    head = "Nothing has to change. " if page.verdict is not None and page.verdict.level == "good" else ""
    offer = f"{head}To lose less still: " if head else ""
    found = page.diagnosis
    if found is None and page.verdict is not None and page.verdict.level == "not known":
        return _say_what_it_takes(page)
    if found is not None and found.advice:
        best = found.advice[0]
        gain = f"{best.before_db:.1f} to {best.after_db:.1f} dB of SQNR for {_growth(page, best.bytes)}, measured"
        return f"{offer}{as_sentence(f'{printable(best.text)}: {gain}')}", [best.command] if best.command else []
    if found is not None and found.blamed:
        return f"{head}{advice_section.none_helps(found)}", []
    for proposed in (_more_bits(page), _fitting_ranges(page), _planned_step(page)):
        if proposed is not None:
            return f"{offer}{proposed[0]}", proposed[1]
    if found is None or found.no_advice:
        reason = found.no_advice if found is not None else page.untold.get("advice", "no change was tried")
        return f"{head}{as_sentence(reason)}", []
    return f"{head}No change is proposed yet. This tries some and measures them:", [advice_section.blame_command(page)]


def _say_what_it_takes(page: ReportPage) -> Change:
    said = (
        "Say what the input holds: give images of yours, or the preprocess if you know it. It costs no bytes. The loss "
        "is measured then, and activations are quantized as well, without which nothing runs in integers."
    )
    return said, advice_section.commands_to_know(page)


def _more_bits(page: ReportPage) -> Change | None:
    """For layers that have too few, where no plan predicts what that gains."""
    layers = advice_section.layers_with_few_bits(page)
    if not layers:
        return None
    short = names_of(page)
    grows = round(sum((advice_section.MORE_BITS - layer.stored_bits) * layer.weights / 8 for layer in layers))
    made = sum(page.places[layer.place - 1].added or 0.0 for layer in layers if layer.place)
    gains = (
        f" {verb(len(layers), 'It makes', 'They make')} {percent(made)} of the error that is made along the network."
    )
    said = (
        f"Give {joined([short(layer.name) for layer in layers])} {advice_section.MORE_BITS} bits. That costs about "
        f"{_growth(page, grows)}.{gains if made else ''} What the output gains is not known before this makes and "
        "measures the file:"
    )
    return said, [advice_section.command_of_more_bits(page, layers)]


def _fitting_ranges(page: ReportPage) -> Change | None:
    """Images of the user's, where rounded activations make the loss and nothing of the user's fitted their ranges."""
    if weights_matter(page) or not advice_section.has_no_images(page):
        return None
    said = (
        "Give images of yours: the ranges of activations are then fitted to them, and what is lost is counted, not "
        "estimated. It costs no bytes; what it gains is not known before. More bits for the weights gain little."
    )
    return said, [advice_section.images_command(page)]


def _planned_step(page: ReportPage) -> Change | None:
    """The step of the plan that helps most."""
    found = advice_section.proposals(page.layers)
    if not found or not weights_matter(page) or not page.plan_options[0]:
        return None
    layer = found[0]
    assert layer.more is not None
    lost = page.diagnosis.damage if page.diagnosis is not None else 0.0
    of_all = f" of the {percent(lost)} that is lost" if lost else " of the loss"
    said = (
        f"Give {names_of(page)(layer.name)} {layer.more.bits} bits in place of {layer.bits}: predicted to take away "
        f"{percent((layer.planned or 0.0) - layer.more.loss)}{of_all} for {_growth(page, layer.more.bytes)}."
    )
    return said, advice_section.commands_of_step(page, layer)


def _growth(page: ReportPage, count: int) -> str:
    """Bytes and the share of the file: ``+41.0 kB, 2.1 % of the file``."""
    share = percent(abs(count) / max(page.quantized_file.bytes, 1))
    return f"{signed_kilobytes(count)} ({share} of the file)" if count else "no bytes"
