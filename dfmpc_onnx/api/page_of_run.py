"""The HTML page on a run of quantize(): checked before the run begins, written at its end."""

from __future__ import annotations

import pathlib

import onnx

from dfmpc_onnx.api.boundary import Path
from dfmpc_onnx.api.closing_check import ClosingCheck
from dfmpc_onnx.api.intake import Intake
from dfmpc_onnx.api.made_again import plan_commands
from dfmpc_onnx.api.page_files import check_page_target, finish_page
from dfmpc_onnx.api.pairs import ComparedFiles
from dfmpc_onnx.api.reference import CHECK_SEED, reference_session
from dfmpc_onnx.api.report_page import Diagnosed, ReportedPair, gather_page
from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.evaluation.layer_errors import LayerErrors
from dfmpc_onnx.inputs.unknown_inputs import not_known
from dfmpc_onnx.model.metadata import metadata_of
from dfmpc_onnx.model.source import ModelSource, Source, load
from dfmpc_onnx.pipeline.progress import no_report
from dfmpc_onnx.pipeline.weight_plan import PlannedWidths, StatedWidths
from dfmpc_onnx.report.html.extra import require_report_extra
from dfmpc_onnx.report.schema import Report

NO_TIME = "the limit on the time left none to look for causes; `dfmpc-onnx diagnose` does"


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
    page: pathlib.Path,
    of_layers: LayerErrors | None = None,
    *,
    causes: bool = True,
) -> None:
    """Write what a run did, and what came of it.

    found: by the closing check. of_layers: where they are known. causes: whether there is time to look for them.
    """
    settings = taken.workspace.settings
    own = found.verdict is not None and found.verdict.basis != "generated"
    source = load(taken.destination or result)
    planned, stated = taken.workspace.find(PlannedWidths), taken.workspace.find(StatedWidths)
    known = planned or stated
    free = None if settings.budget.asked else known  # under a limit, more bits here are fewer elsewhere
    pair = ReportedPair(
        float_source=taken.source,
        source=source,
        inputs=taken.workspace.inputs,
        batch=found.inputs,
        seed=None if own else settings.seed + CHECK_SEED,
        verdict=found.verdict,
        fidelity=found.fidelity,
        warnings=report.warnings,
        diagnosed=_diagnosed(taken, source, found) if causes else Diagnosed(of_layers, why_not=NO_TIME),
        made=report,
        planned=() if known is None else known.rows,
        plan_file="" if stated is None else stated.path,
        plan_options=("", "") if free is None else plan_commands(metadata_of(source.model), settings.input_shapes),
    )
    finish_page(gather_page(pair, latency=False, progress=no_report), page)


def _diagnosed(taken: Intake, source: Source, found: ClosingCheck) -> Diagnosed:
    """Where the error of the result is, and what causes it."""
    from dfmpc_onnx.api.report_diagnosis import diagnosis_of  # late: what it tries is made by quantize()

    workspace = taken.workspace
    reference, said = reference_session(taken.source, workspace.settings, workspace.inputs)
    if reference is None or found.inputs is None or found.verdict is None:
        return Diagnosed(why_not=said or "nothing could be compared")
    files = ComparedFiles(
        taken.source,
        source,
        reference,
        metadata_of(source.model),
        workspace.settings,
        workspace.inputs,
        taken.choice,
        found.inputs,
        found.verdict.basis,
        not_known(taken.choice.unknown),
    )
    return diagnosis_of(files, "", workspace.inputs.images, blame=False, tell=no_report)
