"""The sections that say how much is lost, where, and what to do about it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from dfmpc_onnx.errors import shown
from dfmpc_onnx.evaluation.matched_tensors import RUNTIME_LAYERS
from dfmpc_onnx.report.diagnosis_text import finding
from dfmpc_onnx.report.html.blocks import (
    Block,
    Bullets,
    Cell,
    Column,
    Drawn,
    Figures,
    Gallery,
    Paragraph,
    Rows,
    Section,
    cells,
)
from dfmpc_onnx.report.html.charts import CLIPPED_MUCH, noise_chart, range_chart, weight_chart
from dfmpc_onnx.report.html.schema import Place, ReportPage
from dfmpc_onnx.report.tables import megabytes
from dfmpc_onnx.report.verdict_text import verdict_sentence

MOST_WORST = 8  # layers that are listed as those that lose most
MOST_MARKED = 3  # of them, that charts mark
HALF_OF_ERROR = 0.5  # of the error: how many places add so much is said
HOW_TO_READ = (
    "Above: signal over noise behind each place, with all that went wrong in front of it. Below: what each place adds "
    "by itself where its input is that of the float network: a layer by its weights and the rounding of its input, a "
    "tensor between layers by its own rounding. Shares are of what all places add, each beside its own signal; what is "
    "added early may fade or grow on its way. In red: those that add most."
)
RANGES_LISTED = 10
SAME_TIME = 0.03  # by which times may differ that count as the same
LOOSE = 0.4  # share of a range that is used, below which the range is far too wide
WHAT_DECIBELS_ARE = (
    "SQNR is the network's signal over the error in it: 10 dB is an error of 32 % of the values, 20 dB of 10 %, 30 dB "
    "of 3 %, 40 dB of 1 %."
)
BADGES = {
    "good": "Good",
    "check": "Check it on images of yours",
    "bad": "Bad: much is lost",
    "not known": "Not known",
}


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
        entries.append((f"{found.sqnr_db:g} dB", "signal over noise", "at the output"))
        if page.verdict is not None and page.verdict.agreement is not None and page.verdict.interval is not None:
            low, high = page.verdict.interval
            entries.append(
                (f"{page.verdict.agreement:g} %", "keep their class", f"95 % interval {low:g} to {high:g} %")
            )
        if found.top1 is not None:
            entries.append((f"{found.top1:g} %", "correct", f"{found.float_top1:g} % of the float network"))
    if page.times is not None:
        entries.append((f"{page.times.quantized_ms:.2f} ms", "a run on this machine", _faster(page)))
    blocks: list[Block] = [Figures(entries)]
    if page.verdict is not None:
        said = verdict_sentence(page.verdict)
        blocks.append(Paragraph(_sentence(said if page.verdict.not_known else said.partition(": ")[2])))
        blocks.append(Paragraph(WHAT_DECIBELS_ARE, quiet=True))
    elif reason := page.untold.get("outcome"):
        blocks.append(Paragraph(_sentence(reason)))
    if page.warnings:
        blocks.append(Bullets([("Warning", warning) for warning in page.warnings]))
    return Section("outcome", "How good is it?", blocks)


def _faster(page: ReportPage) -> str:
    assert page.times is not None
    ratio = page.times.float_ms / max(page.times.quantized_ms, 1e-9)
    times = f"{ratio:.2f} times faster than" if ratio >= 1 else f"{1 / ratio:.2f} times slower than"
    if abs(ratio - 1) < SAME_TIME:
        times = "as fast as"
    threads = f"{page.times.threads} thread{'' if page.times.threads == 1 else 's'}"
    return f"{times} the float file, of {page.times.float_ms:.2f} ms, {threads}"


def _sentence(text: str) -> str:
    """Words as a sentence of their own."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"


def advice(page: ReportPage) -> Section:
    """What to try next, of what was tried."""
    found = page.diagnosis
    if found is None:
        reason = page.untold.get("advice", "no change was tried")
        return Section("advice", "What to try next", [Paragraph(_sentence(reason))])
    if found.no_advice:
        return Section("advice", "What to try next", [Paragraph(_sentence(found.no_advice))])
    if not found.blamed:
        said = "No change was tried. This restores each layer to float in turn, and tries what helps:"
        files = _paths(page) or "FLOAT QUANTIZED"
        command = f"dfmpc-onnx report {files} --blame -o report.html"
        return Section("advice", "What to try next", [Paragraph(said), Bullets([("", command)])])
    if not found.advice:
        said = "No change is known that could help."
        if found.tried:
            said = f"{found.tried} change{' was' if found.tried == 1 else 's were'} tried, and none helps."
        return Section("advice", "What to try next", [Paragraph(said)])
    rows = [
        cells(
            entry.text,
            f"{entry.before_db:.1f}",
            f"{entry.after_db:.1f}",
            f"{entry.after_db - entry.before_db:+.1f}",
            _signed(entry.bytes),
        )
        for entry in found.advice
    ]
    columns = [
        Column("change", long=True),
        *(Column(name, right=True) for name in ("dB now", "dB then", "gain, dB", "file grows by")),
    ]
    blocks: list[Block] = [
        Paragraph("Each change was made, and the file measured with it on the same inputs."),
        Rows("Changes that help, the best first", columns, rows),
    ]
    if command := found.advice[0].command:
        blocks.append(Paragraph("This writes the file with the first of them:"))
        blocks.append(Bullets([("", command)]))
    return Section("advice", "What to try next", blocks)


def _paths(page: ReportPage) -> str:
    """Both files as a shell takes them; "" where one is in memory."""
    paths = page.float_file.path, page.quantized_file.path
    return " ".join(map(shlex.quote, paths)) if all(paths) else ""


def _signed(count: int) -> str:
    return f"{'+' if count > 0 else '-' if count < 0 else ''}{abs(count) / 1000:,.1f} kB"


def losses(page: ReportPage) -> Section:
    """Where along the network the error enters."""
    places = page.places
    worst = worst_places(places)
    blocks: list[Block] = []
    if any(place.sqnr_db is not None for place in places):
        blocks.append(Paragraph(_where(places, worst)))
        chart = noise_chart([p.sqnr_db for p in places], [p.added for p in places], worst[:MOST_MARKED])
        blocks += [Drawn(chart), Paragraph(HOW_TO_READ, quiet=True)]
    else:
        blocks.append(Paragraph(_sentence(page.untold.get("losses", "the layers were not compared one by one"))))
    if worst:
        most = places[worst[0]].added or 1.0
        rows = [
            cells(
                index + 1,
                shown(place.name),
                place.bits or "-",
                Cell(percent(place.added or 0.0), (place.added or 0.0) / most, rank < MOST_MARKED),
                decibels_text(place.sqnr_db),
                f"{place.weights:,}" if place.weights else f"none ({shown(place.op)})",
            )
            for rank, index in enumerate(worst)
            for place in (places[index],)
        ]
        columns = [
            Column("no.", right=True),
            Column("layer or tensor", name=True),
            Column("bits", right=True),
            Column("share of the error", right=True),
            Column("SQNR behind it, dB", right=True),
            Column("weights", right=True),
        ]
        blocks.append(Rows("Where most is lost", columns, rows))
    return Section("losses", "Where is the loss?", blocks)


def worst_places(places: Sequence[Place]) -> list[int]:
    """The indices of the places that add most, those first."""
    order = sorted(range(len(places)), key=lambda index: -(places[index].added or 0.0))
    return [index for index in order[:MOST_WORST] if places[index].added]


def _where(places: Sequence[Place], worst: Sequence[int]) -> str:
    if not worst:
        return "No place adds an error that could be measured."
    total, count = 0.0, 0
    for index in worst:
        total, count = total + (places[index].added or 0.0), count + 1
        if total >= HALF_OF_ERROR:
            break
    if total < HALF_OF_ERROR:
        return f"The error comes from many places: the {count} that add most make {percent(total)} of what is added."
    names = "; ".join(f"no. {index + 1}, {shown(places[index].name)}" for index in worst[: min(count, MOST_MARKED)])
    more = f"; and {count - MOST_MARKED} more" if count > MOST_MARKED else ""
    which = f"1 of {len(places)} places adds" if count == 1 else f"{count} of {len(places)} places add"
    return f"{which} {percent(total)} of the error: {names}{more}."


def causes(page: ReportPage) -> Section:
    """Causes by name, with the evidence."""
    found = page.diagnosis
    if found is None:
        reason = page.untold.get("causes", "no causes were looked for")
        return Section("causes", "What causes it?", [Paragraph(_sentence(reason))])
    blocks: list[Block] = [Paragraph(_sentence(finding(found)))]
    looked_into = [suspect for suspect in found.suspects if suspect.cause is not None]
    if looked_into:
        with_gains = [Column("SQNR without it, dB", right=True), Column("gain, dB", right=True)] if found.blamed else []
        columns = [
            Column("layer or tensor", name=True),
            Column("what"),
            Column("own error", right=True),
            *with_gains,
            Column("cause", long=True),
        ]
        rows = []
        for suspect in looked_into:
            row = cells(shown(suspect.layer), suspect.kind)
            row.append(Cell("-" if suspect.own_error is None else percent(suspect.own_error)))
            if found.blamed:
                gain = "-" if suspect.gain_db is None else f"{suspect.gain_db:+.1f}"
                row += cells(decibels_text(suspect.sqnr_db), gain)
            rows.append([*row, Cell("" if suspect.cause is None else suspect.cause.text)])
        what = "Restored to float, what gains most first" if found.blamed else "Largest errors of their own"
        blocks.append(Rows(what, columns, rows))
    return Section("causes", "What causes it?", blocks)


def weights(page: ReportPage) -> Section:
    """Histograms of weights before and after."""
    layers = {layer.name: layer for layer in page.layers}
    entries = []
    for index, grid in enumerate(page.drawn):
        layer = layers.get(grid.layer)
        number = layer.place or index + 1 if layer is not None else index + 1
        bits = layer.bits if layer is not None else ""
        chart = weight_chart(grid, index)
        entries.append((f"{number}. {shown(grid.layer)}", chart, _of_grid(grid.sqnr_db, grid.beyond, bits)))
    if not entries:
        why = "the file holds no codes that could be read"
        if any(layer.op in RUNTIME_LAYERS for layer in page.layers):
            why = "integer operators, such as QLinearConv, are compared as a whole, and their weights are not drawn"
        reason = page.untold.get("weights", why)
        return Section("weights", "Weights before and after", [Paragraph(_sentence(reason))])
    which = f"the {len(entries)} of {len(page.layers)} layers that lose most"
    if not any(place.added for place in page.places):  # nothing tells which lose most
        which = f"the first {len(entries)} of {len(page.layers)} layers"
    legend = (
        "Blue: the float weights, brought to the scale of the quantized ones, in steps of the grid. Orange: the "
        f"weights on the grid. Dotted: the ends of the grid. Shown are {which}."
    )
    return Section("weights", "Weights before and after", [Paragraph(legend, quiet=True), Gallery(entries)])


def _of_grid(sqnr_db: float | None, beyond: float | None, bits: str) -> str:
    text = f"{bits} bits" if bits.isdigit() else bits
    if sqnr_db is not None:
        text += f"; the weights keep {sqnr_db:g} dB"
    if beyond:
        text += f"; {percent(beyond)} lie beyond the grid"
    return text


def activations(page: ReportPage) -> Section:
    """Ranges, and what is clipped."""
    ranges = page.ranges
    if not ranges:
        reason = page.untold.get("activations", "the file quantizes no activations")
        return Section("activations", "Activations and their ranges", [Paragraph(_sentence(reason))])
    clipped = [r for r in ranges if r.clipped > CLIPPED_MUCH]
    loose = [r for r in ranges if r.used < LOOSE]
    said = (
        f"Of {len(ranges)} quantized tensors {len(clipped) or 'none'} {'has' if len(clipped) == 1 else 'have'} more "
        f"than {percent(CLIPPED_MUCH)} of the values beyond the range, and {len(loose) or 'none'} "
        f"{'uses' if len(loose) == 1 else 'use'} less than {percent(LOOSE)} of it."
    )
    by_clipping = sorted((i for i, r in enumerate(ranges) if r.clipped), key=lambda i: -ranges[i].clipped)
    by_use = sorted(range(len(ranges)), key=lambda i: ranges[i].used)[: RANGES_LISTED // 2]
    notable = dict.fromkeys((*by_clipping[: RANGES_LISTED // 2], *by_use))
    rows = [
        cells(
            place + 1,
            shown(r.tensor),
            f"{r.low:.3g} to {r.high:.3g}",
            f"{r.least:.3g} to {r.largest:.3g}",
            Cell(percent(r.clipped), bad=r.clipped > CLIPPED_MUCH),
            Cell(percent(min(r.used, 1.0)), min(r.used, 1.0)),
        )
        for place in notable
        for r in (ranges[place],)
    ]
    columns = [
        Column("tensor no.", right=True),
        Column("tensor", name=True),
        Column("range of its codes", right=True),
        Column("values", right=True),
        Column("clipped", right=True),
        Column("range in use", right=True),
    ]
    legend = (
        "Each line is what a tensor held on the images, beside the band, which is the range of its codes: what reaches "
        "out of it is clipped, and a short line leaves steps unused. Red: much is clipped."
    )
    return Section(
        "activations",
        "Activations and their ranges",
        [
            Paragraph(said),
            Drawn(range_chart(ranges)),
            Paragraph(legend, quiet=True),
            Rows("The tensors that are clipped most, and use least of their range", columns, rows),
        ],
    )


def percent(share: float) -> str:
    """A share in per cent, of two digits and never an exponent."""
    value = 100 * share
    if value == 0:
        return "0 %"
    return "<0.001 %" if 0 < value < 1e-3 else f"{value:.2g} %" if abs(value) < 10 else f"{value:.0f} %"


def decibels_text(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
