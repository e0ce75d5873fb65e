"""The closing check of quantize(): the result is loaded, run and compared before it takes its name."""

from __future__ import annotations

import dataclasses
import pathlib

import msgspec
import onnx

from dfmpc_onnx.api.reference import (
    CHECK_SEED,
    assumptions_named,
    check_count,
    check_source,
    output_kinds,
    reference_session,
)
from dfmpc_onnx.errors import Defect, ModelError, NoSuchType, TooLittleMemory
from dfmpc_onnx.evaluation.fidelity import Expected, Fidelity, compare, expected_outputs
from dfmpc_onnx.evaluation.verdict import Basis, Verdict, verdict_of
from dfmpc_onnx.inputs.files import Images
from dfmpc_onnx.inputs.image_stream import ImageStream
from dfmpc_onnx.inputs.samples import Samples, check_images, held_back_images, seen_images
from dfmpc_onnx.inputs.spec import InputSpecs
from dfmpc_onnx.model.source import Source
from dfmpc_onnx.pipeline.settings import Settings, WeightBits
from dfmpc_onnx.report.verdict_text import low_verdict_warning
from dfmpc_onnx.runtime.session import Session

OF_OWN = 2  # times as many inputs where they are the user's, whose answers count


@dataclasses.dataclass(frozen=True)
class ClosingCheck:
    """What the closing check found: the comparison and the verdict, where there could be one, and what to warn of.

    inputs: what the networks were run on; None where they could not be run.
    """

    fidelity: Fidelity | None = None
    verdict: Verdict | None = None
    notes: tuple[str, ...] = ()
    inputs: Images | Samples | ImageStream | None = None


def closing_check(
    source: Source,
    result: pathlib.Path | onnx.ModelProto,
    settings: Settings,
    inputs: InputSpecs,
    not_known: str = "",
    most: int | None = None,
) -> ClosingCheck:
    """Compare the result with the float model; Defect where it does not load or run although that one does.

    not_known: why the figures will say nothing of real inputs, if so. most: inputs to compare on. One session after the
    other, since each holds its network once or twice.
    """
    reference, said = reference_session(source, settings, inputs)
    if reference is None:
        return ClosingCheck(notes=(f"not compared: {said}",))
    want: Expected | str
    try:
        fed = _inputs(source, inputs, settings.seed, most)
        with assumptions_named(source, inputs):
            want = expected_outputs(reference, fed.inputs)
    except ModelError as error:
        want = f"not compared: {error}"
    del reference
    try:
        candidate = Session(result, label="the quantized model")
    except ModelError as error:
        check_source(source, settings, inputs)
        raise Defect(f"{error}; nothing has been written") from None
    if isinstance(want, str):
        return ClosingCheck(notes=(want,))
    try:
        found = compare(want, candidate, fed.inputs, *output_kinds(source.model))
    except ModelError as error:
        # What lacks memory, or a type of numpy's, is no fault of the result's.
        if not isinstance(error, (TooLittleMemory, NoSuchType)) and not _runs(candidate, fed.inputs):
            raise Defect(f"{error}; nothing has been written") from None
        return ClosingCheck(notes=(f"not compared: {error}",))
    fidelity = msgspec.structs.replace(found, not_known=not_known)
    verdict = verdict_of(fidelity, fed.basis)
    first = (f"compared with the model as normalized: {said}",) if said else ()
    doubts = (low_verdict_warning(verdict, _ways(settings)),) if verdict.is_low else ()
    return ClosingCheck(fidelity, verdict, (*first, *fed.warnings, *fidelity.notes, *doubts), fed.inputs)


@dataclasses.dataclass(frozen=True)
class _Fed:
    """What to compare on, what kind of inputs these are, and what to say of them."""

    inputs: Images | Samples | ImageStream
    basis: Basis
    warnings: tuple[str, ...] = ()


def _inputs(source: Source, inputs: InputSpecs, seed: int, most: int | None) -> _Fed:
    """Images of the user's that statistics did not see; of too few none, but where nothing else tells the scale."""
    count = check_count(source, inputs)
    own = OF_OWN * count
    if most is not None:
        count, own = min(count, most), min(own, most)
    if inputs.holds_back:
        held = held_back_images(inputs, own)
        if held is not None:
            return _Fed(held, "images", held.warnings)
        if inputs.unknown:
            seen, warning = seen_images(inputs, count)
            return _Fed(seen, "images of the statistics", (warning, *seen.warnings))
    # Another seed than the one whose images the statistics came from.
    return _Fed(check_images(inputs, seed + CHECK_SEED, count), "generated")


def _runs(session: Session, images: Images | Samples | ImageStream) -> bool:
    try:
        expected_outputs(session, images)
    except ModelError:
        return False
    return True


def _ways(settings: Settings) -> str:
    """What may help where much is lost."""
    ways = ["see that --preprocess is what the network expects"]
    if settings.weights != WeightBits.parse("8"):
        ways.append("give it more bits (--recipe int8)")
    if settings.activations == "4":
        ways.append("let activations that lose much keep 8 bits (--activations auto)")
    elif settings.activations != "none":
        ways.append("leave activations in float (--activations none)")
    return f"verify it on images of your own; {', or '.join(ways)}"
