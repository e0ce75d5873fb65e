"""verify(): run a float model and its quantized form, and compare them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence

import msgspec

from dfmpc_onnx.api.boundary import GivenImages, GivenRanges, GivenShapes, as_path, images_label, public, texts
from dfmpc_onnx.api.provenance import origin_warnings, version
from dfmpc_onnx.api.reference import CHECK_IMAGES, CHECK_SEED, check_limits, reference_session
from dfmpc_onnx.errors import ModelError, OptionError
from dfmpc_onnx.evaluation.fidelity import compare
from dfmpc_onnx.evaluation.provider_use import provider_use
from dfmpc_onnx.graph.compared_outputs import chosen_outputs
from dfmpc_onnx.graph.output_branches import ScoreChannels, score_channels
from dfmpc_onnx.inputs.files import Images, read_images
from dfmpc_onnx.inputs.knowledge import find_out
from dfmpc_onnx.inputs.normalization import PreprocessChoice, parse_or_assume
from dfmpc_onnx.inputs.preprocess import AUTO
from dfmpc_onnx.inputs.samples import Samples, check_images
from dfmpc_onnx.inputs.spec import InputSpecs
from dfmpc_onnx.inputs.unknown_inputs import not_known, told_by_images, unknown_inputs_warning
from dfmpc_onnx.model.metadata import metadata_of
from dfmpc_onnx.model.source import ModelSource, Source, load
from dfmpc_onnx.pipeline.settings import Settings, WeightBits, parse_input_ranges, parse_input_shapes
from dfmpc_onnx.pipeline.workspace import resolve_inputs
from dfmpc_onnx.report.schema import ProviderFidelity, Verification
from dfmpc_onnx.runtime.session import CPU_PROVIDER, Session
from dfmpc_onnx.runtime.threads import takes_threads
from dfmpc_onnx.statistics.leading_moments import BY_PICTURES

Kinds = tuple[frozenset[str], Mapping[str, ScoreChannels]]


def _recorded_shapes(
    float_source: Source, metadata: Mapping[str, str], settings: Settings
) -> Mapping[str, tuple[int, ...]]:
    """The shapes that a quantized file was made with, of inputs that would get others; none from a file of others."""
    try:
        recorded = msgspec.json.decode(metadata.get("input_shapes", "{}"), type=dict[str, tuple[int, ...]])
    except msgspec.DecodeError:
        return {}
    usual = resolve_inputs(float_source.model, settings)
    return {
        spec.name: recorded[spec.name]
        for spec in usual
        if spec.name in recorded and spec.takes(recorded[spec.name]) and recorded[spec.name] != spec.resolved
    }


def _recorded_ranges(
    float_source: Source, metadata: Mapping[str, str], settings: Settings
) -> Mapping[str, tuple[float, float]]:
    """The ranges that a quantized file was made with, of inputs that there are; none from a file of others."""
    try:
        recorded = msgspec.json.decode(metadata.get("input_ranges", "{}"), type=dict[str, tuple[float, float]])
    except msgspec.DecodeError:
        return {}
    usual = {spec.name for spec in resolve_inputs(float_source.model, settings) if spec.kind in "fiu"}
    return {name: (low, high) for name, (low, high) in recorded.items() if name in usual and low < high}


def _without_trust(
    inputs: InputSpecs, choice: PreprocessChoice, images: str | os.PathLike[str] | None, *, by_file: bool
) -> PreprocessChoice:
    """The choice with the inputs that nothing tells the scale of, the user's images neither.

    by_file: whether the quantized file states the preprocess; whoever made it has seen the warning.
    """
    if by_file and choice.by == "given":
        choice = msgspec.structs.replace(choice, by="file", reason="as the quantized file says", order_asserted=False)
    if images is not None:
        choice = told_by_images(inputs, choice, str(images))
    if not choice.unknown or by_file:
        return choice
    warning = unknown_inputs_warning(choice, "what the quantized model loses is not known", images is None)
    return msgspec.structs.replace(choice, warning=warning)


@public
@takes_threads
def verify(
    model: ModelSource,
    quantized: ModelSource,
    *,
    images: GivenImages | None = None,
    preprocess: str | None = None,
    providers: str | Sequence[str] = ("CPU",),
    input_shapes: GivenShapes = (),
    input_ranges: GivenRanges = (),
    seed: int = 0,
    threads: int | None = None,
) -> Verification:
    """Run a float model on CPU and its quantized form on each provider, and compare them.

    images: an .npz with x (and y), a folder of image files, or arrays as for `quantize`; None takes procedural images,
    or generated inputs. preprocess: None takes what the quantized file states; "auto", and a file that says nothing,
    find it out from the float model. input_ranges: as for `quantize`; none takes those that the file states, where no
    preprocess is given. On a provider other than the CPU's, it also counts the nodes that ran there, and compares the
    outputs with the CPU provider's. Raises UserError; RuntimeUnavailable where a provider was not really used.
    """
    images = as_path(images)
    float_source, source = load(model), load(quantized)
    metadata = metadata_of(source.model)
    stated = metadata.get("preprocess")
    wanted = preprocess or stated or AUTO
    settings = Settings(
        WeightBits.parse("8"),
        "8",
        preprocess=parse_or_assume(wanted),
        input_shapes=parse_input_shapes(texts(input_shapes)),
        input_ranges=parse_input_ranges(texts(input_ranges)),
        seed=seed + CHECK_SEED,
    )
    if images is None and not input_shapes:
        settings = dataclasses.replace(settings, input_shapes=_recorded_shapes(float_source, metadata, settings))
    if not input_ranges and preprocess is None:
        settings = dataclasses.replace(settings, input_ranges=_recorded_ranges(float_source, metadata, settings))
    inputs = resolve_inputs(float_source.model, settings)
    inputs.check_options(settings.input_shapes)
    check_limits(float_source, inputs)
    check_limits(source, resolve_inputs(source.model, settings))
    reference, said = reference_session(float_source, settings, inputs)
    if reference is None:
        raise ModelError(said)
    by_file = preprocess is None and stated is not None
    recorded_by = metadata.get("preprocess_choice", "").partition(":")[0] if by_file else None
    inputs, choice = find_out(
        float_source.model, inputs, wanted, BY_PICTURES, doubt=not by_file, recorded_by=recorded_by
    )
    choice = _without_trust(inputs, choice, images, by_file=by_file)
    batch = _images(images, inputs, settings.seed, float_source.label)
    if not providers:
        raise OptionError("no provider given; give at least one, such as CPU")
    kinds = chosen_outputs(float_source.model), score_channels(float_source.model)
    why = not_known(choice.unknown)
    rows = tuple(_on_provider(provider, source, reference, batch, kinds, why) for provider in providers)
    left_out = dict.fromkeys(note for row in rows for note in row.fidelity.notes)
    warnings = (*origin_warnings(float_source, source, choice.name), *choice.warnings, *left_out)
    names = float_source.label, source.label, images_label(images), version()
    return Verification(float_source.size, source.size, choice.name, choice, warnings, rows, *names)


def _on_provider(
    provider: str, source: Source, reference: Session, batch: Images | Samples, kinds: Kinds, not_known: str
) -> ProviderFidelity:
    """kinds: which outputs are chosen by values, and which channels are scores.

    not_known: why the figures say nothing of real inputs, if so.
    """
    session = Session(source.path or source.model, provider, source.label)
    use = None
    if session.provider != CPU_PROVIDER:
        use = provider_use(source.path or source.model, source.model, session.provider, source.label, batch)
    found = msgspec.structs.replace(compare(reference, session, batch, *kinds), not_known=not_known)
    return ProviderFidelity(session.provider, found, use)


def _images(given: str | os.PathLike[str] | None, inputs: InputSpecs, seed: int, label: str) -> Images | Samples:
    """What the networks are compared on."""
    if given is None:
        try:
            return check_images(inputs, seed, CHECK_IMAGES)
        except ModelError as error:
            raise ModelError(f"{label}: {error}") from None
    spec = inputs.image_input()
    return read_images(given, spec.shape, spec.preprocess)
