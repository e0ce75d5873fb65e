"""The closing check of quantize(): the result is loaded, run and compared before it takes its name."""

from __future__ import annotations

import pathlib

import msgspec
import onnx

from dfmpc_onnx.api.reference import CHECK_IMAGES, CHECK_SEED, assumptions_named, check_source, reference_session
from dfmpc_onnx.errors import Defect, ModelError, NoSuchType, TooLittleMemory
from dfmpc_onnx.evaluation.fidelity import Expected, Fidelity, compare, expected_outputs
from dfmpc_onnx.graph.compared_outputs import chosen_outputs
from dfmpc_onnx.graph.output_branches import score_channels
from dfmpc_onnx.inputs.files import Images
from dfmpc_onnx.inputs.samples import Samples, check_images, held_back_images
from dfmpc_onnx.inputs.spec import InputSpecs
from dfmpc_onnx.model.source import Source
from dfmpc_onnx.pipeline.settings import Settings, WeightBits
from dfmpc_onnx.runtime.session import Session

DOUBTFUL_DB = 10.0  # of the settings in the README's table, those below lost 5 points of top-1 and more


def closing_check(
    source: Source,
    result: pathlib.Path | onnx.ModelProto,
    settings: Settings,
    inputs: InputSpecs,
    not_known: str = "",
) -> tuple[Fidelity | None, tuple[str, ...]]:
    """Compare the result with the float model; Defect where it does not load or run although that one does.

    not_known: why the figures will say nothing of real inputs, if so. One session after the other, since each holds
    its network once or twice.
    """
    reference, said = reference_session(source, settings, inputs)
    if reference is None:
        return None, (f"not compared: {said}",)
    want: Expected | str
    try:
        images, seen = _images(inputs, settings.seed)
        with assumptions_named(source, inputs):
            want = expected_outputs(reference, images)
    except ModelError as error:
        want = f"not compared: {error}"
    del reference
    try:
        candidate = Session(result, label="the quantized model")
    except ModelError as error:
        check_source(source, settings, inputs)
        raise Defect(f"{error}; nothing has been written") from None
    if isinstance(want, str):
        return None, (want,)
    notes = (f"compared with the model as normalized: {said}", *seen) if said else seen
    try:
        found = compare(want, candidate, images, chosen_outputs(source.model), score_channels(source.model))
        fidelity = msgspec.structs.replace(found, not_known=not_known)
        return fidelity, (*notes, *fidelity.notes, *(() if not_known else _doubts(fidelity, settings)))
    except ModelError as error:
        # What lacks memory, or a type of numpy's, is no fault of the result's.
        if not isinstance(error, (TooLittleMemory, NoSuchType)) and not _runs(candidate, images):
            raise Defect(f"{error}; nothing has been written") from None
        return None, (f"not compared: {error}",)


def _images(inputs: InputSpecs, seed: int) -> tuple[Images | Samples, tuple[str, ...]]:
    """What to compare on, and what to say of it: the user's own where nothing else tells what the network is fed."""
    if inputs.holds_back:
        return held_back_images(inputs, CHECK_IMAGES)
    # Another seed than the one whose images the statistics came from.
    return check_images(inputs, seed + CHECK_SEED, CHECK_IMAGES), ()


def _runs(session: Session, images: Images | Samples) -> bool:
    try:
        expected_outputs(session, images)
    except ModelError:
        return False
    return True


def _doubts(fidelity: Fidelity, settings: Settings) -> tuple[str, ...]:
    """What to tell where the closing check found so much noise that classes or boxes will have changed."""
    if fidelity.sqnr_db >= DOUBTFUL_DB:
        return ()
    ways = ["see that --preprocess is what the network expects"]
    if settings.weights != WeightBits.parse("8"):
        ways.append("give it more bits (--recipe int8)")
    if settings.activations != "none":
        ways.append("leave activations in float (--activations none)")
    return (
        f"the quantized model's outputs are only {fidelity.sqnr_db:.1f} dB above their error; below {DOUBTFUL_DB:g} dB "
        f"classifiers lost 5 points and more: verify it on images of your own; {', or '.join(ways)}",
    )
