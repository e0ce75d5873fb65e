"""verify(): run a float model and its quantized form, and compare them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence

import msgspec

from dfmpc_onnx.api.boundary import GivenImages, GivenRanges, GivenShapes, as_path, images_label, public, texts
from dfmpc_onnx.api.provenance import gave_statistics, origin_warnings, version
from dfmpc_onnx.api.reference import (
    CHECK_SEED,
    OutputKinds,
    check_count,
    check_limits,
    output_kinds,
    reference_session,
)
from dfmpc_onnx.errors import ModelError, OptionError
from dfmpc_onnx.evaluation.fidelity import compare, input_count
from dfmpc_onnx.evaluation.provider_use import provider_use
from dfmpc_onnx.evaluation.verdict import Basis, verdict_of
from dfmpc_onnx.inputs.files import Images
from dfmpc_onnx.inputs.image_places import check_place
from dfmpc_onnx.inputs.image_stream import ImageStream, stream_images
from dfmpc_onnx.inputs.knowledge import find_out
from dfmpc_onnx.inputs.normalization import PreprocessChoice, parse_or_assume
from dfmpc_onnx.inputs.preprocess import AUTO
from dfmpc_onnx.inputs.samples import Samples, check_images, most_seen
from dfmpc_onnx.inputs.spec import InputSpecs
from dfmpc_onnx.inputs.unknown_inputs import not_known, told_by_images, unknown_inputs_warning
from dfmpc_onnx.model.metadata import metadata_of
from dfmpc_onnx.model.source import ModelSource, Source, load
from dfmpc_onnx.pipeline.progress import ProgressReport
from dfmpc_onnx.pipeline.settings import Settings, WeightBits, parse_input_ranges, parse_input_shapes
from dfmpc_onnx.pipeline.workspace import resolve_inputs
from dfmpc_onnx.qdq.qonnx_nodes import loadable
from dfmpc_onnx.report.schema import ProviderFidelity, Verification
from dfmpc_onnx.report.verdict_text import low_verdict_warning
from dfmpc_onnx.runtime.session import CPU_PROVIDER, Session
from dfmpc_onnx.runtime.threads import takes_threads
from dfmpc_onnx.statistics.leading_moments import BY_PICTURES

WAYS = "see that both files belong together, and that --preprocess is what the network expects"


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
        settings = dataclasses.replace(settings, input_shapes=_recorded_shapes(float_source, metadata, settings))
    if not ranges and by_file:
        settings = dataclasses.replace(settings, input_ranges=_recorded_ranges(float_source, metadata, settings))
    return settings


def _check_options(providers: Sequence[str], count: int | None) -> None:
    """Raise OptionError where nothing would be run."""
    if count is not None and count < 1:
        raise OptionError(f"count {count}: give at least 1")
    if not providers:
        raise OptionError("no provider given; give at least one, such as CPU")


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
    count: int | None = None,
    progress: ProgressReport | None = None,
) -> Verification:
    """Run a float model on CPU and its quantized form on each provider, and compare them.

    images: an .npz with x (and y), a folder, read a few at a time, or arrays; None takes procedural images, or
    generated inputs. count: how many, evenly spread over those given; None takes all of these, and of generated ones
    64, or fewer of a large model. preprocess: None takes what the quantized file states; "auto", and a file that says
    nothing, find it out from the float model. input_ranges: none takes those that the file states, where no preprocess
    is given. On a provider other than the CPU's, it also counts the nodes that ran there, and compares the outputs with
    the CPU provider's. Raises UserError; RuntimeUnavailable where a provider was not really used.
    """
    _check_options(providers, count)
    images = as_path(images)
    check_place(images)
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
    comparison = _Comparison(
        source, reference, batch, basis, output_kinds(float_source.model), not_known(choice.unknown), progress
    )
    rows = tuple(comparison.on(provider) for provider in providers)
    warnings = (*origin_warnings(float_source, source, choice.name), *choice.warnings, *comparison.warnings(rows))
    names = float_source.label, source.label, images_label(images), version()
    return Verification(float_source.size, source.size, choice.name, choice, warnings, rows, *names)


@dataclasses.dataclass(frozen=True)
class _Comparison:
    """What a quantized file is compared with, on which inputs, provider by provider.

    kinds: of the float model's outputs. not_known: why the figures say nothing of real inputs, if so.
    """

    source: Source
    reference: Session
    inputs: Images | Samples | ImageStream
    basis: Basis
    kinds: OutputKinds
    not_known: str
    progress: ProgressReport | None

    def on(self, provider: str) -> ProviderFidelity:
        """The file on one provider."""
        loaded = loadable(self.source)
        session = Session(loaded, provider, self.source.label)
        use = None
        if session.provider != CPU_PROVIDER:
            use = provider_use(loaded, self.source.model, session.provider, self.source.label, self.inputs)
        compared = compare(self.reference, session, self.inputs, *self.kinds, self._steps(provider))
        found = msgspec.structs.replace(compared, not_known=self.not_known)
        return ProviderFidelity(session.provider, found, use, verdict_of(found, self.basis))

    def _steps(self, provider: str) -> Callable[[int], None]:
        """What is called with the number of inputs that are done."""
        most = input_count(self.inputs)

        def step(done: int) -> None:
            if self.progress is not None:
                self.progress(done, most, f"{provider}: {done} of {most} inputs")

        return step

    def warnings(self, rows: Sequence[ProviderFidelity]) -> tuple[str, ...]:
        """What is not compared, what to think of the images, and whether too little is left."""
        left_out = dict.fromkeys(note for row in rows for note in row.fidelity.notes)
        images = self.inputs.warnings if isinstance(self.inputs, ImageStream) else ()
        low = dict.fromkeys(
            low_verdict_warning(row.verdict, WAYS) for row in rows if row.verdict is not None and row.verdict.is_low
        )
        return (*images, *left_out, *low)


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
