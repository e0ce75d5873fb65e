"""A float model and a quantized file that are to be compared: how both are read, and what both are fed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

import msgspec
import onnx

from dfmpc_onnx.api.boundary import GivenImages, GivenRanges, GivenShapes, as_path, texts
from dfmpc_onnx.api.made_again import recorded_ranges, recorded_shapes
from dfmpc_onnx.api.provenance import gave_statistics, origin_warnings
from dfmpc_onnx.api.reference import CHECK_SEED, check_count, check_limits, reference_session
from dfmpc_onnx.errors import ModelError, OptionError
from dfmpc_onnx.evaluation.verdict import Basis
from dfmpc_onnx.inputs.files import Images
from dfmpc_onnx.inputs.image_places import check_place
from dfmpc_onnx.inputs.image_stream import ImageStream, stream_images
from dfmpc_onnx.inputs.knowledge import find_out
from dfmpc_onnx.inputs.learned_file import refuse_learned
from dfmpc_onnx.inputs.normalization import PreprocessChoice, parse_or_assume
from dfmpc_onnx.inputs.preprocess import AUTO
from dfmpc_onnx.inputs.samples import Samples, check_images, most_seen
from dfmpc_onnx.inputs.spec import InputSpecs
from dfmpc_onnx.inputs.unknown_inputs import not_known, told_by_images, unknown_inputs_warning
from dfmpc_onnx.model.metadata import metadata_of
from dfmpc_onnx.model.source import ModelSource, Source, load
from dfmpc_onnx.pipeline.settings import Settings, WeightBits, parse_input_ranges, parse_input_shapes
from dfmpc_onnx.pipeline.workspace import resolve_inputs
from dfmpc_onnx.qdq.qonnx_nodes import runnable
from dfmpc_onnx.runtime.session import Session
from dfmpc_onnx.statistics.leading_moments import BY_PICTURES


@dataclasses.dataclass(frozen=True)
class ComparedFiles:
    """Both files, and what they are compared on.

    specs: the float model's inputs; fed: what both are run on, and basis: of what kind it is. metadata: what the
    quantized file says of its making. not_known: why figures say nothing of real inputs, if so.
    """

    float_source: Source
    source: Source
    reference: Session
    metadata: Mapping[str, str]
    settings: Settings
    specs: InputSpecs
    choice: PreprocessChoice
    fed: Images | Samples | ImageStream
    basis: Basis
    not_known: str

    @property
    def runs(self) -> onnx.ModelProto:
        """The quantized network in operators that onnxruntime has."""
        return runnable(self.source)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is odd about the files, and what to hear of the preprocess."""
        return (*origin_warnings(self.float_source, self.source, self.choice.name), *self.choice.warnings)


def take_pair(
    model: ModelSource,
    quantized: ModelSource,
    images: GivenImages | None,
    preprocess: str | None,
    input_shapes: GivenShapes,
    input_ranges: GivenRanges,
    seed: int,
    count: int | None,
) -> ComparedFiles:
    """Read both files and find out what to feed them; the arguments are those of `verify`. Raises UserError."""
    images = as_path(images)
    check_place(images)
    refuse_learned(images)
    float_source, source = load(model), load(quantized)
    metadata = metadata_of(source.model)
    stated = metadata.get("preprocess")
    wanted = preprocess or stated or AUTO
    options = parse_input_shapes(texts(input_shapes)), parse_input_ranges(texts(input_ranges))
    settings = _settings(
        float_source, metadata, wanted, *options, seed, by_file=preprocess is None, own=images is not None
    )
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
    batch, basis = _inputs(images, inputs, settings.seed, count, float_source, metadata)
    return ComparedFiles(
        float_source,
        source,
        reference,
        metadata,
        settings,
        inputs,
        choice,
        batch,
        basis,
        not_known(choice.unknown),
    )


def shapes_as_made(
    float_source: Source, metadata: Mapping[str, str], settings: Settings
) -> Mapping[str, tuple[int, ...]]:
    """The shapes that a quantized file was made with, of inputs that would get others; none from a file of others."""
    recorded = recorded_shapes(metadata)
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
    usual = {spec.name for spec in resolve_inputs(float_source.model, settings) if spec.kind in "fiu"}
    recorded = recorded_ranges(metadata)
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


def _settings(
    float_source: Source,
    metadata: Mapping[str, str],
    wanted: str,
    shapes: Mapping[str, tuple[int, ...]],
    ranges: Mapping[str, tuple[float, float]],
    seed: int,
    *,
    by_file: bool,
    own: bool,
) -> Settings:
    """What decides the inputs; what the user did not give, as the quantized file states it.

    by_file: whether no preprocess was given; own: whether images were.
    """
    preprocess = parse_or_assume(wanted)
    settings = Settings(
        WeightBits.parse("8"),
        "8",
        preprocess=preprocess,
        input_shapes=shapes,
        input_ranges=ranges,
        seed=seed + CHECK_SEED,
    )
    if not own and not shapes:
        settings = dataclasses.replace(settings, input_shapes=shapes_as_made(float_source, metadata, settings))
    if not ranges and by_file:
        settings = dataclasses.replace(settings, input_ranges=_recorded_ranges(float_source, metadata, settings))
    return settings


def _inputs(
    given: str | os.PathLike[str] | None,
    inputs: InputSpecs,
    seed: int,
    count: int | None,
    source: Source,
    metadata: Mapping[str, str],
) -> tuple[Images | Samples | ImageStream, Basis]:
    """What the networks are compared on, and what kind of inputs these are.

    source: the float model; metadata: of the quantized file.
    """
    if count is not None and count < 1:
        raise OptionError(f"count {count}: give at least 1")
    if given is None:
        try:
            return check_images(inputs, seed, count or check_count(source, inputs)), "generated"
        except ModelError as error:
            raise ModelError(f"{source.label}: {error}") from None
    spec = inputs.image_input()
    every = stream_images(given, spec.shape, spec.preprocess, spec.batch or 1)
    found = every if count is None else every.spread(count)
    if not gave_statistics(metadata, given):
        return found, "images"
    seen = most_seen(inputs, every.count, found.count)
    return dataclasses.replace(
        found, origin=f"{found.origin}, at most {seen} of which statistics saw"
    ), "images of the statistics"
