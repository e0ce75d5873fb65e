"""The sections on the file itself: its bytes, its time, the images, and how it was made."""

from __future__ import annotations

from collections.abc import Sequence

from dfmpc_onnx.errors import shown
from dfmpc_onnx.evaluation.island_times import IslandTime, TimeTable
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
from dfmpc_onnx.report.html.names import ShortNames, names_of
from dfmpc_onnx.report.html.schema import ReportPage, RunTimes
from dfmpc_onnx.report.html.words import percent, verb

ISLANDS_LISTED, SLOW_LISTED, OPERATORS_LISTED = 8, 8, 4
SAME_TIME = 0.03  # by which times may differ that count as the same
MOST_OF_A_RUN = 0.7  # that kernels take where nothing disturbs them
ALL_IN_FLOAT = "No kernel computes in integers: codes of weights make the file smaller, and not faster."
LEAST_ISLAND = 3.0  # per cent of a run, below which islands are not listed one by one


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
        f"A run takes {times.quantized_ms:.2f} ms on {page.processor or 'this machine'}, and {times.float_ms:.2f} ms "
        f"in float, with {times.threads} thread{'' if times.threads == 1 else 's'}, fed {times.fed}."
    )
    blocks: list[Block] = [Paragraph(said)]
    table = times.table
    if table is None:
        if why := page.untold.get("islands"):
            blocks.append(Paragraph(f"Where the time goes is not known: {why}.", quiet=True))
        return Section("time", "Time and float islands", blocks)
    more = ", more than the run, since profiling takes time for each" if table.ms > times.quantized_ms else ""
    if table.ms < MOST_OF_A_RUN * times.quantized_ms:
        more = ", the rest of a run lies between them, or waits for a processor that is busy with other work"
    blocks.append(
        Paragraph(
            f"By onnxruntime's profiler kernels sum to {table.ms:.2f} ms{more}: {table.integer_ms:.2f} in integers, "
            f"and {table.ms - table.integer_ms:.2f} in float and in steps from and to it."
        )
    )
    short = names_of(page)
    if not table.integer_ms and all(island.saves_ms is None for island in table.islands):
        blocks.append(Paragraph(ALL_IN_FLOAT))
    elif table.islands:
        blocks += _islands(table, short)
    between = page.diagnosis.between if page.diagnosis is not None else ()
    if between:
        blocks.append(Paragraph("Layers that compute in float between integer ones:"))
        blocks.append(Bullets([(short(entry.layer), entry.why) for entry in between[:ISLANDS_LISTED]]))
    if table.layers:
        numbers = {layer.name: layer.place or "-" for layer in page.layers}
        slow = [
            cells(numbers.get(row.name, "-"), short(row.name), _kernel(row.kernel), f"{row.ms:.3f}")
            for row in table.layers[:SLOW_LISTED]
        ]
        columns = [Column("no.", right=True), Column("layer", name=True), Column("kernel"), Column("ms", right=True)]
        blocks.append(Rows("The slowest layers", columns, slow))
    return Section("time", "Time and float islands", blocks)


def speed_of(times: RunTimes) -> str:
    """How a run compares with that of the float file. Without integer kernels none is called faster: it is chance."""
    ratio = times.float_ms / max(times.quantized_ms, 1e-9)
    in_float = times.table is not None and not times.table.integer_ms
    if abs(ratio - 1) < SAME_TIME or (in_float and ratio > 1):
        return f"as fast as in float{', since no kernel computes in integers' if in_float else ''}"
    slower = f"{1 / ratio:.2f} times slower{', since no kernel computes in integers' if in_float else ''}"
    return f"{ratio:.2f} times faster" if ratio > 1 else slower


def _kernel(name: str) -> str:
    """A kernel without the domain where it is onnxruntime's own."""
    return shown(name.rpartition("::")[2] if name.startswith("com.microsoft") else name)


def _islands(table: TimeTable, short: ShortNames) -> list[Block]:
    """What is in float between integers, and what it takes; the many that take little as a sentence."""
    listed = [island for island in table.islands if island.share >= LEAST_ISLAND or island.saves_ms is not None]
    listed = listed[:ISLANDS_LISTED]
    blocks: list[Block] = [_island_rows(listed, short)] if listed else []
    rest = [island for island in table.islands if island not in listed]
    if rest:
        count = f"{len(rest)} {'more ' if listed else ''}{verb(len(rest), 'island', 'islands')} of float"
        ms, share = sum(island.ms for island in rest), sum(island.share for island in rest)
        blocks.append(
            Paragraph(
                f"{count} between integers {verb(len(rest), 'takes', 'together take')} {ms:.3f} ms, "
                f"{percent(share / 100)} of the sum, {verb(len(rest), '', 'each ')}under {LEAST_ISLAND:g} %."
            )
        )
    return blocks


def _island_rows(islands: Sequence[IslandTime], short: ShortNames) -> Rows:
    saves = any(island.saves_ms is not None for island in islands)
    columns = [
        Column("island", name=True),
        Column("ms", right=True),
        Column("share of the sum", right=True),
        *([Column("integers would save, ms", right=True)] if saves else []),
        Column("kernels", long=True),
    ]
    rows = []
    for island in islands:
        name = short(island.layers[0]) if island.layers else "between layers"
        more = f" and {len(island.layers) - 1} more" if len(island.layers) > 1 else ""
        row = cells(f"{name}{more}", f"{island.ms:.3f}", Cell(percent(island.share / 100), island.share / 100))
        if saves:
            row.append(Cell("-" if island.saves_ms is None else f"{island.saves_ms:.3f}"))
        made = sorted(island.operators.items(), key=lambda item: -item[1])
        listed = ", ".join(f"{count} {_kernel(op)}" for op, count in made[:OPERATORS_LISTED])
        rows.append([*row, Cell(listed + (", ..." if len(made) > OPERATORS_LISTED else ""))])
    return Rows("Islands of float between integers, the slowest first", columns, rows)


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
        *([("command", page.command)] if page.command else []),
        ("report by", f"dfmpc-onnx {page.version}"),
        *([("date", page.date)] if page.date else []),
        *([("machine", page.machine)] if page.machine else []),
    ]
    return Section("making", "How it was made", [KeyValues(entries)])
