"""write_report() and compare(): what was measured of quantized files, as one HTML file."""

from __future__ import annotations

from collections.abc import Callable

from dfmpc_onnx.api.boundary import GivenImages, GivenRanges, GivenShapes, Path, as_path, images_label, public
from dfmpc_onnx.api.diagnose import right_preprocess
from dfmpc_onnx.api.page_files import check_page_target, finish_page
from dfmpc_onnx.api.pairs import ComparedFiles, take_pair
from dfmpc_onnx.api.report_diagnosis import diagnosis_of
from dfmpc_onnx.api.report_page import Diagnosed, ReportedPair, gather_page
from dfmpc_onnx.api.verify import verify_pair
from dfmpc_onnx.model.source import ModelSource
from dfmpc_onnx.pipeline.progress import ProgressReport, no_report
from dfmpc_onnx.report.html.extra import require_report_extra
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
    blame: bool = False,
    progress: ProgressReport | None = None,
    force: bool = False,
    warn: Callable[[str], None] | None = None,
) -> str:
    """Compare a quantized file with its float model, and say in one HTML page what is lost, where, and what to do.

    output: where to write it, whole or not at all; None to get the text alone, which is returned in any case. images,
    preprocess, input_shapes, input_ranges, seed, threads, count, progress: as `verify` takes them. latency: measure
    what integers in place of each island of float would save, too. blame: restore each layer to float in turn, as
    `diagnose` does, and try what helps. force: whether a file that is no HTML may be written over. warn: called with
    each warning that the page holds. Raises UserError; OptionError where the extra `report` is not installed.
    """
    require_report_extra()
    target = None if output is None else check_page_target(output, force=force, models=(model, quantized))
    tell = progress or no_report
    files = take_pair(model, quantized, images, preprocess, input_shapes, input_ranges, seed, count)
    path = None if images is None else str(as_path(images))
    found = verify_pair(files, ("CPU",), images_label(path), progress, layer_errors=False)
    right = "" if preprocess is not None else right_preprocess(files)
    fed = files
    if right:
        fed = take_pair(model, quantized, images, right, input_shapes, input_ranges, seed, count)
    diagnosed = diagnosis_of(fed, right, path, blame=blame, tell=tell)
    page = gather_page(reported(files, found, diagnosed), latency=latency, progress=tell)
    if warn is not None:
        for warning in page.warnings:
            warn(warning)
    return finish_page(page, target)


def reported(pair: ComparedFiles, found: Verification, diagnosed: Diagnosed) -> ReportedPair:
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
        diagnosed=diagnosed,
    )
