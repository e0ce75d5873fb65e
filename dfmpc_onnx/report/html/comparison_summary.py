"""The top of a comparison: which of the files to take, in plain sentences."""

from __future__ import annotations

import pathlib
import shlex

from dfmpc_onnx.errors import shown
from dfmpc_onnx.report.html.blocks import Answers, Section
from dfmpc_onnx.report.html.schema import Comparison, QuantizedFile
from dfmpc_onnx.report.html.summary_section import quality_of
from dfmpc_onnx.report.html.words import joined, signed_kilobytes
from dfmpc_onnx.report.tables import megabytes


def summary(found: Comparison) -> Section:
    """The file to take, what another would gain or cost, and how to be sure."""
    choice = " ".join([*_best(found), *_others(found)])
    sure = (
        "Compare them on images of yours, whose answers count:"
        if any(file.verdict is None or file.verdict.basis == "generated" for file in found.files)
        else "These answers were counted on images of yours. For one file, see where its loss is:"
    )
    entries = [
        ("Which file should you take?", choice, []),
        ("How can you be surer?", sure, [_command(found, sure.startswith("Compare"))]),
    ]
    return Section("summary", "In short", [Answers(entries)])


def _chosen(found: Comparison) -> QuantizedFile | None:
    """The smallest that is good, else the one nearest to the float network; None where nothing is known."""
    good = [file for file in found.files if file.verdict is not None and file.verdict.level == "good"]
    known = [file for file in found.files if not file.fidelity.not_known]
    if good:
        return min(good, key=lambda file: file.bytes)
    return max(known, key=lambda file: file.fidelity.sqnr_db, default=None)


def _best(found: Comparison) -> list[str]:
    file = _chosen(found)
    if file is None:
        return ["Not known: what the files lose could not be measured."]
    name = f"{file.letter} ({shown(pathlib.Path(file.label).name or file.label)}, {megabytes(file.bytes)})"
    if file.verdict is None or file.verdict.level == "not known":
        return [f"{name} is nearest to the float network, at {file.fidelity.sqnr_db:.1f} dB of SQNR."]
    if file.verdict.level == "good":
        return [f"Take {name}: the smallest that is good.", quality_of(file.verdict)]
    return [f"None is good for sure. {name} is nearest to the float network.", quality_of(file.verdict)]


def _others(found: Comparison) -> list[str]:
    """What the others gain and cost beside it."""
    chosen = _chosen(found)
    if chosen is None:
        return []
    said = [
        f"Beside it {file.letter} has {file.fidelity.sqnr_db - chosen.fidelity.sqnr_db:+.1f} dB of SQNR for "
        f"{signed_kilobytes(file.bytes - chosen.bytes)}."
        for file in found.files
        if file.letter in found.front and file is not chosen and not file.fidelity.not_known
    ]
    beaten = [file.letter for file in found.files if file.letter not in found.front and file is not chosen]
    if beaten:
        said.append(
            f"Leave {joined(beaten)}: another file is as small or smaller, and as near or nearer to the float network."
        )
    return said


def _command(found: Comparison, all_files: bool) -> str:
    model = shlex.quote(found.float_label)
    labels = [shlex.quote(file.label) for file in found.files]
    if all_files:
        return f"dfmpc-onnx report {' '.join(labels)} --against {model} --images FOLDER -o compared.html"
    chosen = _chosen(found) or found.files[0]
    return f"dfmpc-onnx report {model} {shlex.quote(chosen.label)} --images FOLDER -o report.html"
