"""The sections on the file itself: its layers, bytes, time, what stayed in float, the images, and how it was made."""

from __future__ import annotations

from dfmpc_onnx.errors import shown
from dfmpc_onnx.evaluation.island_times import TimeTable
from dfmpc_onnx.pipeline.manager import Refusal
from dfmpc_onnx.pipeline.refusals import UNSTATED
from dfmpc_onnx.qdq.stored_bytes import CONTENTS
from dfmpc_onnx.report.html.blocks import (
    Block,
    Bullets,
    Cell,
    Column,
    KeyValues,
    Paragraph,
    Pictures,
    Rows,
    Section,
    cells,
)
from dfmpc_onnx.report.html.loss_sections import decibels_text, percent
from dfmpc_onnx.report.html.schema import ReportPage

ISLANDS_LISTED, SLOW_LISTED, OPERATORS_LISTED = 8, 8, 4
REASONS_LISTED = 40


def layers(page: ReportPage) -> Section:
    """Every layer."""
    with_planned = any(layer.planned is not None for layer in page.layers)
    with_why = any(layer.why for layer in page.layers)
    with_errors = any(place.sqnr_db is not None for place in page.places)
    most = max((place.added or 0.0 for place in page.places), default=0.0)
    columns = [
        Column("no.", right=True),
        Column("layer", name=True),
        Column("operator"),
        Column("weights", right=True),
        Column("bits", right=True),
        Column("stored bits", right=True),
        Column("role"),
        Column("computes in"),
        *([Column("loss as planned", right=True)] if with_planned else []),
        *([Column("share of the error", right=True), Column("SQNR, dB", right=True)] if with_errors else []),
        *([Column("why", long=True)] if with_why else []),
    ]
    rows = []
    for layer in page.layers:
        row = cells(
            layer.place or "-",
            shown(layer.name),
            layer.op,
            f"{layer.weights:,}",
            layer.bits,
            f"{layer.stored_bits:g}",
            layer.role,
            layer.computes or "-",
        )
        if with_planned:
            row.append(Cell("-" if layer.planned is None else percent(layer.planned)))
        if with_errors:
            place = page.places[layer.place - 1] if layer.place else None
            row.append(_added(place.added if place is not None else None, most))
            row.append(Cell(decibels_text(place.sqnr_db if place is not None else None)))
        rows.append([*row, Cell(layer.why or "-")] if with_why else row)
    legend = (
        "Role: low is ternary or has 2 or 3 bits, and the next layer is adjusted to repair its error where one can; "
        "high has more; 8-bit has 8; float is not quantized. Loss as planned: what the layer's bits were measured to "
        "add to the error of the output before they were chosen."
    )
    blocks: list[Block] = [Rows("All layers, from input to output", columns, rows), Paragraph(legend, quiet=True)]
    return Section("layers", "All layers", blocks)


def _added(share: float | None, most: float) -> Cell:
    return Cell("-") if share is None else Cell(percent(share), share / most if most else 0.0)


def sizes(page: ReportPage) -> Section:
    """Bytes by what they hold."""
    before, after = page.float_file, page.quantized_file
    most = max(after.contents.values(), default=0)
    rows = [
        cells(
            content,
            _kilobytes(before.contents.get(content, 0)),
            Cell(_kilobytes(count), count / most if most else 0.0),
            percent(count / max(after.bytes, 1)),
        )
        for content in CONTENTS
        if (count := after.contents.get(content, 0)) or before.contents.get(content, 0)
    ]
    rows.append(cells("all", _kilobytes(before.bytes), _kilobytes(after.bytes), percent(1.0)))
    columns = [
        Column("what"),
        Column("float file, kB", right=True),
        Column("quantized file, kB", right=True),
        Column("share", right=True),
    ]
    legend = "Graph: nodes, names and what the file says of itself, which no quantization makes smaller."
    return Section(
        "sizes", "What the bytes hold", [Rows("Bytes by what they hold", columns, rows), Paragraph(legend, quiet=True)]
    )


def _kilobytes(count: int) -> str:
    return f"{count / 1000:,.1f}"


def time(page: ReportPage) -> Section:
    """Time of a run, and the islands of float that take it."""
    times = page.times
    if times is None:
        reason = page.untold.get("time", "it was not measured")
        return Section("time", "Time and float islands", [Paragraph(f"Not known: {reason}.")])
    said = (
        f"A run takes {times.quantized_ms:.2f} ms on this machine, and {times.float_ms:.2f} ms in float, with "
        f"{times.threads} thread{'' if times.threads == 1 else 's'}, fed {times.fed}."
    )
    blocks: list[Block] = [Paragraph(said)]
    table = times.table
    if table is None:
        if why := page.untold.get("islands"):
            blocks.append(Paragraph(f"Where the time goes is not known: {why}.", quiet=True))
        return Section("time", "Time and float islands", blocks)
    blocks.append(
        Paragraph(
            f"Of {table.ms:.2f} ms in kernels {table.integer_ms:.2f} are in integers, and "
            f"{table.ms - table.integer_ms:.2f} in float and in steps from and to it."
        )
    )
    if table.islands:
        blocks.append(_islands(table))
    between = page.diagnosis.between if page.diagnosis is not None else ()
    if between:
        blocks.append(Paragraph("Layers that compute in float between integer ones:"))
        blocks.append(Bullets([(shown(entry.layer), entry.why) for entry in between[:ISLANDS_LISTED]]))
    if table.layers:
        numbers = {layer.name: layer.place or "-" for layer in page.layers}
        slow = [
            cells(numbers.get(row.name, "-"), shown(row.name), _kernel(row.kernel), f"{row.ms:.3f}")
            for row in table.layers[:SLOW_LISTED]
        ]
        columns = [Column("no.", right=True), Column("layer", name=True), Column("kernel"), Column("ms", right=True)]
        blocks.append(Rows("The slowest layers", columns, slow))
    return Section("time", "Time and float islands", blocks)


def _kernel(name: str) -> str:
    """A kernel without the domain where it is onnxruntime's own."""
    return shown(name.rpartition("::")[2] if name.startswith("com.microsoft") else name)


def _islands(table: TimeTable) -> Rows:
    """What is in float between integers, and what it takes."""
    saves = any(island.saves_ms is not None for island in table.islands)
    columns = [
        Column("island", name=True),
        Column("ms", right=True),
        Column("share of the run", right=True),
        *([Column("integers would save, ms", right=True)] if saves else []),
        Column("kernels", long=True),
    ]
    rows = []
    for island in table.islands[:ISLANDS_LISTED]:
        name = shown(island.layers[0]) if island.layers else "between layers"
        more = f" and {len(island.layers) - 1} more" if len(island.layers) > 1 else ""
        row = cells(f"{name}{more}", f"{island.ms:.3f}", Cell(percent(island.share / 100), island.share / 100))
        if saves:
            row.append(Cell("-" if island.saves_ms is None else f"{island.saves_ms:.3f}"))
        made = sorted(island.operators.items(), key=lambda item: -item[1])
        listed = ", ".join(f"{count} {_kernel(op)}" for op, count in made[:OPERATORS_LISTED])
        rows.append([*row, Cell(listed + (", ..." if len(made) > OPERATORS_LISTED else ""))])
    hidden = len(table.islands) - ISLANDS_LISTED
    more = f"; {hidden} more take less" if hidden > 0 else ""
    return Rows(f"Islands of float between integers, the slowest first{more}", columns, rows)


def refusals(page: ReportPage) -> Section:
    """What was left as it was, and why: reasons of one code and pass are one entry."""
    alike: dict[tuple[str, str, str], list[Refusal]] = {}
    for refusal in page.refusals:
        said = refusal.reason if refusal.code == UNSTATED else ""
        alike.setdefault((refusal.by, refusal.code, said), []).append(refusal)
    blocks: list[Block] = []
    floats = [layer for layer in page.layers if layer.role == "float"]
    slow = [layer for layer in page.layers if layer.role != "float" and layer.computes == "float"]
    blocks.append(
        Paragraph(
            f"{len(floats) or 'None'} of {len(page.layers)} layers {'is' if len(floats) < 2 else 'are'} left in float; "
            f"{len(slow) or 'none'} with integer weights {'computes' if len(slow) < 2 else 'compute'} in float."
        )
    )
    if alike:
        entries = [
            (
                shown(found[0].site) + (f" and {len(found) - 1} more" if len(found) > 1 else ""),
                f"{found[0].by + ': ' if found[0].by else ''}{found[0].reason}",
            )
            for found in list(alike.values())[:REASONS_LISTED]
        ]
        blocks.append(Bullets(entries))
        if len(alike) > REASONS_LISTED:
            blocks.append(Paragraph(f"{len(alike) - REASONS_LISTED} reasons more are in --json.", quiet=True))
    return Section("refusals", "What was left as it was, and why", blocks)


def images(page: ReportPage) -> Section:
    """What both files ran on."""
    blocks: list[Block] = [Paragraph(f"Both files ran on {page.images.origin}.")]
    if page.images.pictures:
        count = len(page.images.pictures)
        blocks.append(
            Pictures([(a, f"Procedural image {i} of {count}") for i, a in enumerate(page.images.pictures, 1)])
        )
    if page.images.note:
        blocks.append(Paragraph(page.images.note, quiet=True))
    return Section("images", "Images that were used", blocks)


def making(page: ReportPage) -> Section:
    """How the file was made."""
    entries = [
        ("float file", page.float_file.label),
        ("quantized file", page.quantized_file.label),
        *page.made,
        ("report by", f"dfmpc-onnx {page.version}"),
    ]
    return Section("making", "How it was made", [KeyValues(entries)])
