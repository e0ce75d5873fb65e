"""The files that HTML pages go to: checked before anything is computed, written whole or not at all."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

from dfmpc_onnx.api.boundary import Path
from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.model.source import ModelSource
from dfmpc_onnx.model.write import check_target, save_text
from dfmpc_onnx.report.html.file_kind import HTML_FILE
from dfmpc_onnx.report.html.schema import ReportPage


def check_page_target(output: Path, *, force: bool, models: Sequence[ModelSource] = ()) -> pathlib.Path:
    """Where a page may be written; raises OptionError, for the models' own files too."""
    target = check_target(output, None, force=force, kind=HTML_FILE)
    paths = [pathlib.Path(model) for model in models if isinstance(model, (str, os.PathLike))]
    if target.exists() and any(path.exists() and path.samefile(target) for path in paths):
        raise OptionError(f"{shown(str(target))}: is a model of the report; choose another output")
    return target


def finish_page(page: ReportPage, target: pathlib.Path | None) -> str:
    """The page as text, written where there is a target."""
    from dfmpc_onnx.report.html.page import report_html  # late: it needs the extra `report`

    text = report_html(page)
    if target is not None:
        save_text(text, target)
    return text
