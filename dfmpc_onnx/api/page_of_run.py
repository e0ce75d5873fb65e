"""The HTML page on a run of quantize(): checked before the run begins, written at its end."""

from __future__ import annotations

import pathlib

import onnx

from dfmpc_onnx.api.boundary import Path
from dfmpc_onnx.api.closing_check import ClosingCheck
from dfmpc_onnx.api.intake import Intake
from dfmpc_onnx.api.reference import CHECK_SEED
from dfmpc_onnx.api.report_page import ReportedPair, gather_page
from dfmpc_onnx.api.write_report import check_page_target, finish_page
from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.evaluation.layer_errors import LayerErrors
from dfmpc_onnx.model.source import ModelSource, load
from dfmpc_onnx.pipeline.progress import no_report
from dfmpc_onnx.report.html.extra import require_report_extra
from dfmpc_onnx.report.schema import Report


def check_page(
    report: Path | None, model: ModelSource, output: Path | None, *, force: bool, check: bool
) -> pathlib.Path | None:
    """Where the page goes, if one is asked for; raises OptionError where it cannot, before anything was computed."""
    if report is None:
        return None
    if str(report) == "-":
        raise OptionError("report: standard output has the table; give a file name, or use `dfmpc-onnx report`")
    if not check:
        raise OptionError("report: it shows what the check found; leave check=False out")
    require_report_extra()
    target = check_page_target(report, force=force, models=(model,))
    if output is not None and target.absolute() == pathlib.Path(output).absolute():
        raise OptionError(f"report: {target} is the output as well; give two files")
    return target


def write_page_of_run(
    taken: Intake,
    result: onnx.ModelProto,
    found: ClosingCheck,
    report: Report,
    errors: LayerErrors | None,
    page: pathlib.Path,
) -> None:
    """Write what a run did, and what came of it. found: by the closing check. errors: of the tensors inside."""
    settings = taken.workspace.settings
    own = found.verdict is not None and found.verdict.basis != "generated"
    pair = ReportedPair(
        float_source=taken.source,
        source=load(taken.destination or result),
        inputs=taken.workspace.inputs,
        batch=found.inputs,
        seed=None if own else settings.seed + CHECK_SEED,
        verdict=found.verdict,
        fidelity=found.fidelity,
        warnings=report.warnings,
        errors=errors,
        made=report,
    )
    finish_page(gather_page(pair, latency=False, progress=no_report), page)
