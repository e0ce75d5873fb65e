"""write_report() and compare(): what was measured of quantized files, as one HTML file."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from dfmpc_onnx.api.boundary import GivenImages, GivenRanges, GivenShapes, Path, as_path, images_label, public
from dfmpc_onnx.api.pairs import ComparedFiles, take_pair
from dfmpc_onnx.api.report_page import ReportedPair, gather_page
from dfmpc_onnx.api.verify import verify_pair
from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.model.source import ModelSource
from dfmpc_onnx.model.write import check_target, save_text
from dfmpc_onnx.pipeline.progress import ProgressReport, no_report
from dfmpc_onnx.report.html.extra import require_report_extra
from dfmpc_onnx.report.html.file_kind import HTML_FILE
from dfmpc_onnx.report.html.schema import ReportPage
from dfmpc_onnx.report.schema import Verification
from dfmpc_onnx.runtime.threads import takes_threads


@public
@takes_threads
def write_report(
    model: ModelSource,
    quantized: ModelSource,
    output: Path | None = None,
    *,
    images: GivenImages | None = None,
    preprocess: str | None = None,
    input_shapes: GivenShapes = (),
    input_ranges: GivenRanges = (),
    seed: int = 0,
    threads: int | None = None,
    count: int | None = None,
    latency: bool = False,
    progress: ProgressReport | None = None,
    force: bool = False,
) -> str:
    """Compare a quantized file with its float model, and say in one HTML page what is lost, where, and what to do.

    output: where to write it, whole or not at all; None to get the text alone, which is returned in any case. images,
    preprocess, input_shapes, input_ranges, seed, threads, count, progress: as `verify` takes them. latency: measure
    what integers in place of each island of float would save, too. force: whether a file that is no HTML may be written
    over. Raises UserError; OptionError where the extra `report` is not installed.
    """
    require_report_extra()
    target = None if output is None else check_page_target(output, force=force, models=(model, quantized))
    pair = take_pair(model, quantized, images, preprocess, input_shapes, input_ranges, seed, count)
    found = verify_pair(pair, ("CPU",), images_label(as_path(images)), progress, layer_errors=True)
    page = gather_page(reported(pair, found), latency=latency, progress=progress or no_report)
    return finish_page(page, target)


def finish_page(page: ReportPage, target: pathlib.Path | None) -> str:
    """The page as text, written where there is a target."""
    from dfmpc_onnx.report.html.page import report_html

    text = report_html(page)
    if target is not None:
        save_text(text, target)
    return text


def check_page_target(output: Path, *, force: bool, models: Sequence[ModelSource] = ()) -> pathlib.Path:
    """Where a page may be written; raises OptionError, for the models' own files too."""
    target = check_target(output, None, force=force, kind=HTML_FILE)
    for model in models:
        if isinstance(model, (str, pathlib.Path)) and target.exists():
            path = pathlib.Path(model)
            if path.exists() and path.samefile(target):
                raise OptionError(f"{target}: is a model of the report; choose another output")
    return target


def reported(pair: ComparedFiles, found: Verification) -> ReportedPair:
    """What a report says of two files that were compared."""
    (row,) = found.providers
    return ReportedPair(
        float_source=pair.float_source,
        source=pair.source,
        inputs=pair.specs,
        batch=pair.fed,
        seed=pair.settings.seed if pair.basis == "generated" else None,
        verdict=row.verdict,
        fidelity=row.fidelity,
        warnings=found.warnings,
        errors=found.layer_errors,
    )
