"""diagnose(): which layer of a quantized network loses what is lost, why, and what helps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import msgspec
import onnx

from dfmpc_onnx.api.advice import Trials, Tried, trials_for, worth_their_bytes
from dfmpc_onnx.api.boundary import GivenImages, GivenRanges, GivenShapes, Path, as_path, images_label, public
from dfmpc_onnx.api.pairs import ComparedFiles, take_pair
from dfmpc_onnx.api.provenance import version
from dfmpc_onnx.errors import ModelError, OptionError, RuntimeUnavailable
from dfmpc_onnx.evaluation.diagnosis.diagnose import diagnose_networks
from dfmpc_onnx.evaluation.diagnosis.float_between import float_between
from dfmpc_onnx.evaluation.diagnosis.schema import Diagnosis, FloatBetween
from dfmpc_onnx.evaluation.kernel_census import is_quantized, take_census
from dfmpc_onnx.evaluation.layer_errors import LAYER_INPUTS
from dfmpc_onnx.graph.compared_outputs import compared_tensors
from dfmpc_onnx.graph.exchange import to_graph
from dfmpc_onnx.inputs.normalization import PreprocessChoice, resolve_preprocess
from dfmpc_onnx.inputs.preprocess import AUTO
from dfmpc_onnx.inputs.samples import few_of
from dfmpc_onnx.model.source import ModelSource, Source
from dfmpc_onnx.model.write import check_target, save
from dfmpc_onnx.pipeline.progress import ProgressReport
from dfmpc_onnx.qdq.qonnx_nodes import refuse_qonnx
from dfmpc_onnx.runtime.threads import takes_threads
from dfmpc_onnx.statistics.leading_moments import BY_PICTURES

SURE_PERCENT = 95.0  # of a preprocess that the float model tells, from which it is taken for right
TELLING = ("images", "covariances", "head", "norms")  # how a preprocess is found out and not assumed


@public
@takes_threads
def diagnose(
    model: ModelSource,
    quantized: ModelSource,
    *,
    images: GivenImages | None = None,
    preprocess: str | None = None,
    input_shapes: GivenShapes = (),
    input_ranges: GivenRanges = (),
    seed: int = 0,
    threads: int | None = None,
    count: int | None = None,
    blame: bool = False,
    output: Path | None = None,
    force: bool = False,
    progress: ProgressReport | None = None,
) -> Diagnosis:
    """Say which layer of a quantized network loses what is lost, why, and what helps.

    images, preprocess, input_shapes, input_ranges, seed: as in `verify`. A preprocess that the quantized file states,
    and that the float model's own parameters rule out, is not taken. count: on how many inputs, 16 where None. blame:
    restore each layer's weights and each activation to float in turn, rank them by what that gains, and try what helps.
    output: where to write the file with the best change that was tried, if one helps; this needs `blame`. force:
    whether a file there that is no ONNX model may be written over. progress: called with (done, total, name). Raises
    UserError.
    """
    if output is not None and not blame:
        raise OptionError("output: only what was tried can be written; ask for blame, too")
    asked = _Asked(model, quantized, images, input_shapes, input_ranges, seed, count or LAYER_INPUTS)
    files = asked.files(preprocess)
    refuse_qonnx(files.source, "give a file that is made with the same options for the target cpu")
    if not is_quantized(files.source.model) and "version" not in files.metadata:  # ours may hold codes alone
        raise ModelError(f"{files.source.label}: holds nothing that is quantized; give the float model first")
    destination = None
    if output is not None:
        check_target(output, files.float_source, force=force)
        destination = check_target(output, files.source, force=force)
    right = "" if preprocess is not None else right_preprocess(files)
    files = asked.files(right) if right else files
    tell = _telling(progress)
    given = None if images is None else str(as_path(images))
    found, best = diagnose_files(files, asked.count, given, right, tell, blame=blame)
    if destination is None or best is None:
        return found
    save(best.model, destination, files.source.external)
    return msgspec.structs.replace(found, output=str(destination))


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What the user gave, but for the preprocess, which may turn out to be another."""

    model: ModelSource
    quantized: ModelSource
    images: GivenImages | None
    shapes: GivenShapes
    ranges: GivenRanges
    seed: int
    count: int

    def files(self, preprocess: str | None) -> ComparedFiles:
        """Both files, and what they are fed."""
        given = self.model, self.quantized, self.images
        return take_pair(*given, preprocess, self.shapes, self.ranges, self.seed, self.count)


def diagnose_files(
    files: ComparedFiles,
    count: int,
    images: str | None,
    right: str,
    tell: Callable[[int, int, str], None],
    *,
    blame: bool,
) -> tuple[Diagnosis, Tried | None]:
    """The diagnosis of files that are read already, and with `blame` the best change that was tried, if one helps.

    count: of inputs. images: where the user's lie. right: the preprocess that was taken for the one that the file
    states, if so.
    """
    found = diagnose_networks(
        files.float_source.model,
        files.source.model,
        few_of(files.fed, count),
        _outputs(files.float_source),
        files.source.label,
        blame=blame,
        tell=tell,
    )
    found = msgspec.structs.replace(
        found,
        between=_between(files.source),
        preprocess=files.choice.name,
        warnings=_warnings(files, found, right),
        model=files.float_source.label,
        quantized=files.source.label,
        images=images_label(images),
        version=version(),
    )
    if not blame:
        return found, None
    return _advised(found, files, images, right, tell)


def _telling(progress: ProgressReport | None) -> Callable[[int, int, str], None]:
    """What the steps call, as the user's own function takes it."""

    def tell(done: int, of: int, name: str) -> None:
        if progress is not None:
            progress(done, of, f"{name}: {done} of {of}")

    return tell


def right_preprocess(files: ComparedFiles) -> str:
    """What the float model's own parameters tell, where that is sure and not what the quantized file states."""
    stated = files.metadata.get("preprocess")
    if stated is None or files.choice.by == "no image":
        return ""
    _, told = resolve_preprocess(files.float_source.model, files.specs, AUTO, BY_PICTURES)
    return told.name if _is_sure(told) and _scale_of(told.name) != _scale_of(stated) else ""


def _is_sure(told: PreprocessChoice) -> bool:
    return told.by in TELLING and (told.sure is None or told.sure >= SURE_PERCENT)


def _scale_of(name: str) -> str:
    """A preprocess without the order of its colours."""
    return name.partition(":")[0]


def _outputs(source: Source) -> list[str]:
    """The tensors that count as outputs of the float model."""
    return [tensor.name for tensor in compared_tensors(to_graph(source)).tensors]


def _between(source: Source) -> tuple[FloatBetween, ...]:
    loaded: str | onnx.ModelProto = str(source.path) if source.path else source.model
    try:
        return float_between(source.model, take_census(loaded, source.model, source.label))
    except (ModelError, RuntimeUnavailable):
        return ()


def _warnings(files: ComparedFiles, found: Diagnosis, right: str) -> tuple[str, ...]:
    said = [*files.warnings]
    if right:
        stated = files.metadata["preprocess"]
        said.append(f"the file states preprocess {stated}, which the float model rules out: diagnosed with {right}")
    if files.not_known:
        said.append(f"the figures say nothing of real inputs: {files.not_known}")
    if found.layers.note:
        said.append(found.layers.note)
    return tuple(said)


def _advised(
    found: Diagnosis, files: ComparedFiles, images: str | None, right: str, tell: Callable[[int, int, str], None]
) -> tuple[Diagnosis, Tried | None]:
    """The diagnosis with what was tried, and the best of it where it helps."""
    trials = Trials(files, images)
    if trials.why_not:
        return msgspec.structs.replace(found, no_advice=trials.why_not), None
    wanted = trials_for(found, files.source.model, right)
    tried = trials.run(wanted, lambda done, of: tell(done, of, "trying"))
    helping = worth_their_bytes([entry for entry in tried if entry.advice.helps])
    found = msgspec.structs.replace(found, advice=tuple(entry.advice for entry in helping), tried=len(wanted))
    return found, next(iter(helping), None)
