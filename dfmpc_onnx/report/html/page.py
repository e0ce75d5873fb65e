"""A report as the text of one HTML file, which opens without a network and holds no script."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Sequence

from dfmpc_onnx.errors import printable, shown
from dfmpc_onnx.report.html import (
    advice_section,
    comparison_summary,
    file_sections,
    layer_sections,
    loss_sections,
    summary_section,
    tensor_sections,
)
from dfmpc_onnx.report.html.blocks import Section
from dfmpc_onnx.report.html.comparison_sections import comparison_sections
from dfmpc_onnx.report.html.drawing import own_parameters
from dfmpc_onnx.report.html.schema import Comparison, ReportPage
from dfmpc_onnx.report.tables import megabytes

TEMPLATES = pathlib.Path(__file__).parent / "templates"


@dataclasses.dataclass(frozen=True)
class Badge:
    """The verdict in a word or two. level: as the style names it."""

    text: str
    level: str


def report_html(page: ReportPage) -> str:
    """The report on one quantized file."""
    with own_parameters():
        sections = [
            summary_section.summary(page),
            loss_sections.outcome(page),
            advice_section.advice(page),
            loss_sections.losses(page),
            loss_sections.causes(page),
            tensor_sections.weights(page),
            tensor_sections.activations(page),
            file_sections.time(page),
            layer_sections.refusals(page),
            file_sections.sizes(page),
            layer_sections.layers(page),
            file_sections.images(page),
            file_sections.making(page),
        ]
    level = page.verdict.level if page.verdict is not None else "not known"
    name = pathlib.Path(page.quantized_file.label).name or page.quantized_file.label
    float_name = pathlib.Path(page.float_file.label).name or page.float_file.label
    size = f"{megabytes(page.float_file.bytes)} to {megabytes(page.quantized_file.bytes)}"
    remark = f"{shown(name)} beside {shown(float_name)}: {size}"
    badge = Badge(loss_sections.BADGES[level], level.replace(" ", "-"))
    return _rendered(f"Quantization of {shown(name)}", remark, sections, page.version, badge)


def comparison_html(found: Comparison) -> str:
    """Several files of one network side by side."""
    with own_parameters():
        sections = [comparison_summary.summary(found), *comparison_sections(found)]
    name = pathlib.Path(found.float_label).name or found.float_label
    remark = f"Each is compared with {shown(found.float_label)}, {megabytes(found.float_bytes)}"
    return _rendered(f"{len(found.files)} quantizations of {shown(name)}", remark, sections, found.version)


def _rendered(heading: str, remark: str, sections: Sequence[Section], version: str, badge: Badge | None = None) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    text: str = environment.get_template("page.html").render(
        title=heading,
        heading=heading,
        remark=remark,
        sections=sections,
        version=version,
        badge=badge,
        style=(TEMPLATES / "style.css").read_text(encoding="utf-8"),
    )
    return re.sub(r"\n\s*\n+", "\n", text)
