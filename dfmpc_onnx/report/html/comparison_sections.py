"""The sections of a comparison of several files."""

from __future__ import annotations

from dfmpc_onnx.errors import shown
from dfmpc_onnx.report.comparison_text import ROW_HEADINGS, comparison_row
from dfmpc_onnx.report.html.blocks import Block, Bullets, Column, Drawn, KeyValues, Paragraph, Rows, Section, cells
from dfmpc_onnx.report.html.charts import front_chart
from dfmpc_onnx.report.html.schema import Comparison
from dfmpc_onnx.report.tables import megabytes
from dfmpc_onnx.report.verdict_text import verdict_sentence


def comparison_sections(found: Comparison) -> list[Section]:
    """The files side by side, the front, the bits of their layers, and what was compared."""
    return [_files(found), _front(found), _bits(found), _making(found)]


def _files(found: Comparison) -> Section:
    columns = [Column("file", name=True)]
    columns += [Column(name, right=name != "verdict") for name in ROW_HEADINGS[1:]]
    rows = [cells(*comparison_row(found, file)) for file in found.files]
    blocks: list[Block] = [Rows("Size, loss and time of each file", columns, rows)]
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
    rows = [cells(shown(name), *(file.bits.get(name, "-") for file in found.files)) for name in names]
    different = sum(len({file.bits.get(name) for file in found.files}) > 1 for name in names)
    said = (
        f"{different or 'None'} of {len(names)} layers {'has' if different == 1 else 'have'} not the same bits in all."
    )
    return Section("bits", "Bits of each layer", [Paragraph(said), Rows("Bits of each layer, by file", columns, rows)])


def _making(found: Comparison) -> Section:
    entries = [
        ("float file", f"{shown(found.float_label)}, {megabytes(found.float_bytes)}"),
        *((file.letter, shown(file.label)) for file in found.files),
        ("compared on", found.origin),
        ("report by", f"dfmpc-onnx {found.version}"),
    ]
    return Section("making", "What was compared", [KeyValues(entries)])
