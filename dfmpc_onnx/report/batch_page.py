"""A batch, and two runs of one beside each other, as HTML pages that need nothing but themselves."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.extras import install_command
from dfmpc_onnx.model.write import save_text
from dfmpc_onnx.report.batch_changes import BatchChanges
from dfmpc_onnx.report.batch_row import STAGES, JobRow, counts

NO_PAGE = f"no index.html: jinja2 is not installed; {install_command('report')}"


def index_page(rows: Sequence[JobRow], path: pathlib.Path) -> str:
    """Write the rows as a page that links models and reports; what to say where that is not possible, else nothing."""
    try:
        text = _page("batch.html.j2", rows=rows, counts=counts(rows), stages=STAGES)
    except ImportError:
        return NO_PAGE
    save_text(text, path)
    return ""


def changes_page(found: BatchChanges, path: str | os.PathLike[str]) -> None:
    """Write what changed between two runs as a page. Raises OptionError."""
    try:
        text = _page("batch_changes.html.j2", found=found)
    except ImportError:
        raise OptionError(f"html: jinja2 is not installed; {install_command('report')}") from None
    save_text(text, path)


def _page(template: str, **data: Any) -> str:
    """A template of ours filled in. Names come from models and file systems: all that is filled in is escaped."""
    import jinja2

    loader = jinja2.PackageLoader("dfmpc_onnx.report", "batch_templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["figure"] = _figure
    environment.filters["link"] = quote
    return environment.get_template(template).render(**data)


def _figure(value: object, digits: int = 1) -> str:
    """A number as a cell shows it; empty where it is not known."""
    if value is None:
        return ""
    return f"{value:,}".replace(",", " ") if isinstance(value, int) else f"{value:.{digits}f}"
