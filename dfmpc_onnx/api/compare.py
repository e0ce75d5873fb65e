"""compare(): several quantized files of one network side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dfmpc_onnx.api.boundary import GivenImages, GivenRanges, GivenShapes, Path, as_path, images_label, public
from dfmpc_onnx.api.page_files import check_page_target
from dfmpc_onnx.api.pairs import ComparedFiles, take_pair
from dfmpc_onnx.api.provenance import version
from dfmpc_onnx.api.report_page import bits_of_layers
from dfmpc_onnx.api.verify import verify_pair
from dfmpc_onnx.errors import ModelError, OptionError
from dfmpc_onnx.inputs.batches import input_batch
from dfmpc_onnx.model.source import ModelSource
from dfmpc_onnx.model.write import save_text
from dfmpc_onnx.pipeline.progress import ProgressReport, no_report
from dfmpc_onnx.qdq.qonnx_nodes import refuse_qonnx
from dfmpc_onnx.qdq.stored_bits import mean_bits, stored_layers
from dfmpc_onnx.report.html.extra import require_report_extra
from dfmpc_onnx.report.html.schema import Comparison, QuantizedFile
from dfmpc_onnx.report.schema import Verification
from dfmpc_onnx.runtime.latency import Span, run_times
from dfmpc_onnx.runtime.session import Session
from dfmpc_onnx.runtime.threads import takes_threads, thread_count

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SECONDS_TIMED = 1.0  # of runs of each file


@public
@takes_threads
def compare(
    files: Sequence[ModelSource],
    against: ModelSource,
    output: Path | None = None,
    *,
    images: GivenImages | None = None,
    preprocess: str | None = None,
    input_shapes: GivenShapes = (),
    input_ranges: GivenRanges = (),
    seed: int = 0,
    threads: int | None = None,
    count: int | None = None,
    progress: ProgressReport | None = None,
    force: bool = False,
) -> Comparison:
    """Compare quantized files of one network: bytes, what is left of the float network, time here, bits of layers.

    files: up to 26. against: the float model. output: where to write the HTML page, which the extra `report` draws;
    None for the data alone. The other arguments as `verify` and `write_report` take them. All files run on the same
    inputs, and are timed in turns. Raises UserError.
    """
    if not 1 <= len(files) <= len(LETTERS):
        raise OptionError(f"{len(files)} files to compare; give 1 to {len(LETTERS)}")
    target = None
    if output is not None:
        require_report_extra()
        target = check_page_target(output, force=force, models=(against, *files))
    given, tell = images_label(as_path(images)), progress or no_report
    pairs, verified = [], []
    for number, file in enumerate(files):
        tell(number, len(files) + 1, f"compare: file {number + 1} of {len(files)}")
        pairs.append(take_pair(against, file, images, preprocess, input_shapes, input_ranges, seed, count))
        verified.append(verify_pair(pairs[-1], ("CPU",), given, None, layer_errors=False))
    tell(len(files), len(files) + 1, "compare: time")
    found = _comparison(pairs, verified)
    if target is not None:
        from dfmpc_onnx.report.html.page import comparison_html

        save_text(comparison_html(found), target)
    return found


def _comparison(pairs: Sequence[ComparedFiles], verified: Sequence[Verification]) -> Comparison:
    times, untimed = _times(pairs)
    files = tuple(
        _file(LETTERS[number], pair, found, ms)
        for number, (pair, found, ms) in enumerate(zip(pairs, verified, times[1:], strict=True))
    )
    source = pairs[0].float_source
    shared = [w for w in verified[0].warnings if all(w in found.warnings for found in verified)]
    own = [f"{file.letter}: {w}" for file in files for w in file.warnings if w not in shared]
    return Comparison(
        float_label=source.label,
        float_bytes=source.size,
        float_ms=times[0],
        files=files,
        front=_front(files),
        origin=pairs[0].fed.origin,
        threads=thread_count() or 0,
        warnings=(*shared, *own, *untimed),
        version=version(),
    )


def _file(letter: str, pair: ComparedFiles, found: Verification, ms: float | None) -> QuantizedFile:
    stored = stored_layers(pair.source.model)
    (row,) = found.providers
    return QuantizedFile(
        letter=letter,
        label=pair.source.label,
        bytes=pair.source.size,
        mean_bits=mean_bits((layer.total, math.prod(layer.shape)) for layer in stored) if stored else None,
        verdict=row.verdict,
        fidelity=row.fidelity,
        ms=ms,
        bits=bits_of_layers(pair.float_source, pair.source, stored),
        warnings=found.warnings,
    )


def _times(pairs: Sequence[ComparedFiles]) -> tuple[list[float | None], tuple[str, ...]]:
    """Milliseconds of a run of the float file and of each other, measured in turns; or why that is not known."""
    sources = [pairs[0].float_source, *(pair.source for pair in pairs)]
    try:
        for source in sources:
            refuse_qonnx(source, "it has no time here")
        feeds = input_batch(pairs[0].specs, 0, 1).first(1).feeds
        sessions = [Session(source.path or source.model, label=source.label) for source in sources]
        taken = run_times([(session, feeds) for session in sessions], SECONDS_TIMED)
    except ModelError as error:
        return [None] * len(sources), (f"not timed: {error}",)
    return [round(1000 * Span.of(samples).seconds, 4) for samples in taken], ()


def _front(files: Sequence[QuantizedFile]) -> tuple[str, ...]:
    """The letters of those that no other file beats in size without being further from the float network."""
    known = [file for file in files if not file.fidelity.not_known]

    def beaten(file: QuantizedFile) -> bool:
        for other in known:
            smaller, nearer = file.bytes - other.bytes, other.fidelity.sqnr_db - file.fidelity.sqnr_db
            if smaller >= 0 and nearer >= 0 and (smaller > 0 or nearer > 0):
                return True
        return False

    return tuple(file.letter for file in known if not beaten(file))
