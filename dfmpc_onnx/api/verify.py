"""verify(): run a float model and its quantized form, and compare them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import msgspec

from dfmpc_onnx.api.boundary import GivenImages, GivenRanges, GivenShapes, as_path, images_label, public
from dfmpc_onnx.api.layers import errors_of_layers, layer_progress
from dfmpc_onnx.api.pairs import ComparedFiles, take_pair
from dfmpc_onnx.api.provenance import version
from dfmpc_onnx.api.reference import OutputKinds, output_kinds
from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.evaluation.fidelity import compare, input_count
from dfmpc_onnx.evaluation.layer_errors import LayerErrors
from dfmpc_onnx.evaluation.provider_use import provider_use
from dfmpc_onnx.evaluation.verdict import Basis, verdict_of
from dfmpc_onnx.inputs.files import Images
from dfmpc_onnx.inputs.image_stream import ImageStream
from dfmpc_onnx.inputs.samples import Samples
from dfmpc_onnx.model.source import ModelSource, Source
from dfmpc_onnx.pipeline.progress import ProgressReport
from dfmpc_onnx.qdq.qonnx_nodes import loadable
from dfmpc_onnx.report.schema import ProviderFidelity, Verification
from dfmpc_onnx.report.verdict_text import low_verdict_warning
from dfmpc_onnx.runtime.session import CPU_PROVIDER, Session
from dfmpc_onnx.runtime.threads import takes_threads

WAYS = "see that both files belong together, and that --preprocess is what the network expects"


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
    layer_errors: bool = False,
) -> Verification:
    """Run a float model on CPU and its quantized form on each provider, and compare them.

    images: an .npz with x (and y), a folder, read a few at a time, or arrays; None takes procedural images, or
    generated inputs. count: how many, evenly spread over those given; None takes all of these, and of generated ones
    64, or fewer of a large model. preprocess: None takes what the quantized file states; "auto", and a file that says
    nothing, find it out from the float model. input_ranges: none takes those that the file states, where no preprocess
    is given. layer_errors: also compare the tensors inside, layer by layer, on a few of the inputs. On a provider other
    than the CPU's, it also counts the nodes that ran there, and compares the outputs with the CPU provider's. Raises
    UserError; RuntimeUnavailable where a provider was not really used.
    """
    _check_options(providers, count)
    pair = take_pair(model, quantized, images, preprocess, input_shapes, input_ranges, seed, count)
    return verify_pair(pair, providers, images_label(as_path(images)), progress, layer_errors=layer_errors)


def verify_pair(
    pair: ComparedFiles,
    providers: Sequence[str],
    images: str | None,
    progress: ProgressReport | None,
    *,
    layer_errors: bool,
) -> Verification:
    """Compare a pair of files that is read already; images: what the user's are called."""
    comparison = _Comparison(
        pair.source,
        pair.reference,
        pair.fed,
        pair.basis,
        output_kinds(pair.float_source.model),
        pair.not_known,
        progress,
    )
    rows = tuple(comparison.on(provider) for provider in providers)
    errors: LayerErrors | None = None
    said: tuple[str, ...] = ()
    if layer_errors:
        tell = layer_progress(progress)
        errors, said = errors_of_layers(pair.float_source, pair.runs, pair.fed, pair.not_known, tell)
    warnings = (*pair.warnings, *comparison.warnings(rows), *said)
    return Verification(
        float_bytes=pair.float_source.size,
        bytes=pair.source.size,
        preprocess=pair.choice.name,
        preprocess_choice=pair.choice,
        warnings=warnings,
        providers=rows,
        model=pair.float_source.label,
        quantized=pair.source.label,
        images=images,
        version=version(),
        layer_errors=errors,
    )


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
