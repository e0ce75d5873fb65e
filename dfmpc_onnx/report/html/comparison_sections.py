"""The sections of a comparison of several files."""

from __future__ import annotations

import collections

from dfmpc_onnx.errors import shown
from dfmpc_onnx.report.comparison_text import ROW_HEADINGS, comparison_row
from dfmpc_onnx.report.html.blocks import Block, Bullets, Column, Drawn, KeyValues, Paragraph, Rows, Section, cells
from dfmpc_onnx.report.html.charts import front_chart
from dfmpc_onnx.report.html.names import ShortNames
from dfmpc_onnx.report.html.schema import Comparison
from dfmpc_onnx.report.html.words import bits_words, joined, verb
from dfmpc_onnx.report.tables import megabytes
from dfmpc_onnx.report.verdict_text import verdict_sentence

BITS_CAPTION = "Layers whose bits differ, by file"


def comparison_sections(found: Comparison) -> list[Section]:
    """The files side by side, the front, the bits of their layers, and what was compared."""
    return [_files(found), _front(found), _bits(found), _making(found)]


def _files(found: Comparison) -> Section:
    columns = [Column("file", name=True)]
    columns += [Column(name, right=name != "verdict") for name in ROW_HEADINGS[1:]]
    rows = [cells(*comparison_row(found, file)) for file in found.files]
    legend = (
        "* No other file is both smaller and nearer to the float network. Smaller, faster: than the float file. Bits: "
        "of a weight, on average. Agreement: of real inputs that keep their class, with its 95 % interval. Ms: of a "
        "run on this machine."
    )
    blocks: list[Block] = [Rows("Size, loss and time of each file", columns, rows), Paragraph(legend, quiet=True)]
    said = [(file.letter, verdict_sentence(file.verdict)) for file in found.files if file.verdict is not None]
    if said:
        blocks.append(Bullets(said))
    if found.warnings:
        blocks.append(Bullets([("Warning", warning) for warning in found.warnings]))
    return Section("files", "Files side by side", blocks)


def _front(found: Comparison) -> Section:
    points = [(file.letter, file.bytes, file.fidelity.sqnr_db) for file in found.files if not file.fidelity.not_known]
    if not points:
        return Section("front", "Size against loss", [Paragraph("What the files lose is not known.")])
    beaten = [file.letter for file in found.files if file.letter not in found.front]
    said = f"{', '.join(found.front)}: no other file is smaller and nearer to the float network as well."
    if beaten:
        said += f" {', '.join(beaten)}: another file is better in one and no worse in the other."
    return Section("front", "Size against loss", [Paragraph(said), Drawn(front_chart(points, found.front))])


def _bits(found: Comparison) -> Section:
    """The layers of all files, by name, in the order in which they come up."""
    names = dict.fromkeys(name for file in found.files for name in file.bits)
    columns = [Column("layer", name=True), *(Column(file.letter, right=True) for file in found.files)]
    short = ShortNames(names)
    differ = [name for name in names if len({file.bits.get(name) for file in found.files}) > 1]
    rows = [cells(short(name), *(file.bits.get(name, "-") for file in found.files)) for name in differ]
    count = len(differ)
    said = f"{count or 'None'} of {len(names)} layers {verb(count, 'has', 'have')} other bits in other files."
    same = collections.Counter(found.files[0].bits.get(name, "-") for name in names if name not in differ)
    if same:
        widths = joined([f"{number} at {bits_words(bits)}" for bits, number in same.most_common()])
        said += f" The rest is the same in all: {widths}."
    blocks: list[Block] = [Paragraph(said)]
    return Section("bits", "Bits of each layer", [*blocks, *([Rows(BITS_CAPTION, columns, rows)] if rows else [])])


def _making(found: Comparison) -> Section:
    entries = [
        ("float file", f"{shown(found.float_label)}, {megabytes(found.float_bytes)}"),
        *((file.letter, shown(file.label)) for file in found.files),
        ("compared on", found.origin),
        ("report by", f"dfmpc-onnx {found.version}"),
    ]
    return Section("making", "What was compared", [KeyValues(entries)])
