"""quantize(), inspect(), verify(): what the command line and a user's script both say."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Sequence

import onnx

from dfmpc_onnx import catalog
from dfmpc_onnx.api.provenance import provenance
from dfmpc_onnx.api.reference import CHECK_IMAGES, CHECK_SEED, check_limits, check_source, reference_session
from dfmpc_onnx.errors import Defect, DfmpcError, ModelError, OptionError, PassError
from dfmpc_onnx.evaluation.fidelity import Expected, Fidelity, compare, expected_outputs
from dfmpc_onnx.graph.exchange import to_graph, to_model
from dfmpc_onnx.inputs.files import Images
from dfmpc_onnx.inputs.normalization import parse_or_assume, resolve_preprocess
from dfmpc_onnx.inputs.preprocess import AUTO
from dfmpc_onnx.inputs.samples import Samples, check_images
from dfmpc_onnx.inputs.spec import InputSpecs
from dfmpc_onnx.model.source import ModelSource, Source, load, size_of
from dfmpc_onnx.model.write import check_target, save
from dfmpc_onnx.pipeline.instruments import Dump, Progress, Timing
from dfmpc_onnx.pipeline.manager import Instrument, PassManager
from dfmpc_onnx.pipeline.recipe import DEFAULT_RECIPE, Recipe
from dfmpc_onnx.pipeline.settings import LayerOverride, Settings, WeightBits, parse_activations, parse_input_shapes
from dfmpc_onnx.pipeline.targets import parse_target
from dfmpc_onnx.pipeline.workspace import Workspace, resolve_inputs
from dfmpc_onnx.qdq import expansion as expansion
from dfmpc_onnx.report.build import make_report
from dfmpc_onnx.report.schema import Report
from dfmpc_onnx.runtime.session import Session, require
from dfmpc_onnx.runtime.threads import takes_threads
from dfmpc_onnx.statistics.leading_moments import BY_COVARIANCES, BY_PICTURES

DOUBTFUL_DB = 10.0  # of the settings in the README's table, those below lost 5 points of top-1 and more


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A quantized model, and the report on how it was made."""

    model: onnx.ModelProto
    report: Report


@takes_threads
def quantize(
    model: ModelSource,
    output: str | os.PathLike[str] | None = None,
    recipe: str | Recipe = DEFAULT_RECIPE,
    *,
    weights: str | None = None,
    activations: str | int | None = None,
    layers: Sequence[str] = (),
    reduce_range: bool | None = None,
    target: str = "cpu",
    preprocess: str = AUTO,
    input_shapes: Sequence[str] = (),
    images: str | os.PathLike[str] | None = None,
    seed: int = 0,
    check: bool = True,
    dump: str | os.PathLike[str] | None = None,
    instruments: Sequence[Instrument] = (),
    progress: Callable[[str], None] | None = None,
    threads: int | None = None,
) -> Quantized:
    """Quantize a float model without data.

    model: a path, the bytes of a file, or a ModelProto; never changed. output: where to write the result, whole or
    not at all; None to get it in memory only. recipe: a name, a ``.toml`` path, or a Recipe. weights: ``LOW/HIGH``,
    ``BITS`` or ``ternary/HIGH``; activations: 8 or "none"; None for both takes the recipe's. layers: overrides such
    as ``"layer1/*=8"``. reduce_range: 7 bits in place of 8 between quantized activations, for processors without
    VNNI, where the sum of two products can overflow. target: the provider that the file is for (cpu, tensorrt, cuda,
    openvino, webgpu, portable), which decides the types, and on cuda and webgpu that activations stay in float unless
    `activations` says otherwise. preprocess: as the network expects its input; "auto" finds it out. images: a few
    unlabelled images of the user's own in place of procedural ones (.npz or folder), for recipes that run the
    network. check: load the result in onnxruntime and compare it with the model on 16 procedural images before it
    takes its name. dump: a folder for the graph after each pass, as a float model that runs. threads: how many
    onnxruntime and BLAS may take; None and 0: as many as the machine has. Another number rounds sums in another
    order, which changes the result as another seed does. Several threads of a program may quantize at once.

    Raises UserError (ModelError, OptionError, RecipeError, RuntimeUnavailable, RunTooLong) for what the caller can mend
    and Defect for our own mistakes. When it raises, `output` is as it was before: absent, or the earlier file.
    """
    began = time.perf_counter()
    chosen = catalog.find_recipe(recipe) if isinstance(recipe, str) else recipe
    pipeline = catalog.build(chosen)
    settings = _settings(
        chosen, weights, activations, layers, preprocess, input_shapes, seed, images, reduce_range, target
    )
    sees = any(step.reads_images() for step in pipeline)
    if images is not None and not sees:
        raise OptionError(f"images: recipe {chosen.name} runs no network, so it cannot use them; leave them out")
    if check:
        require()
    tell = progress or (lambda name: None)
    tell("load")
    source = load(model)
    destination = None if output is None else check_target(output, source)
    graph = to_graph(source)
    inputs = resolve_inputs(source.model, settings)
    inputs.check_options(settings.input_shapes)
    check_limits(source, inputs)
    tell("preprocess")
    try:
        prediction = BY_PICTURES if sees else BY_COVARIANCES
        inputs, choice = resolve_preprocess(source.model, inputs, preprocess, prediction, doubt=sees)
    except (DfmpcError, MemoryError):
        raise
    except Exception:  # a damaged node may trip what follows its numbers
        check_source(source, settings, inputs)
        raise
    workspace = Workspace(graph, settings, source.label, inputs)
    workspace.tell = tell
    timing = Timing()
    watching: list[Instrument] = [timing, Progress(tell), *instruments]
    if dump is not None:
        watching.append(Dump(dump, source))
    try:
        results = PassManager(pipeline, watching, catalog.passes()).run(workspace)
    except PassError:
        check_source(source, settings, inputs)
        raise
    result = to_model(workspace.graph, source, provenance(source, chosen, settings, inputs, choice, results))
    size = size_of(result)
    fidelity: Fidelity | None = None
    notes: tuple[str, ...] = ()

    def closing(candidate: pathlib.Path | onnx.ModelProto) -> None:
        nonlocal fidelity, notes
        if check:
            tell("check")
            fidelity, notes = _closing_check(source, candidate, settings, inputs)
            notes += _doubts(fidelity, settings)

    if destination is None:
        closing(result)
    else:
        tell("write")
        size = save(result, destination, source.external, closing)
    report = make_report(workspace, chosen, source, size, results, timing, fidelity, choice, notes, began)
    return Quantized(result, report)


def _settings(
    recipe: Recipe,
    weights: str | None,
    activations: str | int | None,
    layers: Sequence[str],
    preprocess: str,
    input_shapes: Sequence[str],
    seed: int,
    images: str | os.PathLike[str] | None,
    reduce_range: bool | None,
    target: str,
) -> Settings:
    provider = parse_target(target)
    numbers = recipe.activation_bits if activations is None else parse_activations(activations)
    if activations is None and provider.activations == "none":
        numbers = provider.activations
    if reduce_range and numbers == "none":
        raise OptionError("reduce-range: activations stay in float, so no sum of products can overflow; leave it out")
    return Settings(
        weights=recipe.weight_bits if weights is None else WeightBits.parse(weights),
        activations=numbers,
        layers=tuple(LayerOverride.parse(item) for item in layers),
        preprocess=parse_or_assume(preprocess),
        input_shapes=parse_input_shapes(input_shapes),
        seed=seed,
        images=None if images is None else str(images),
        by_hand=weights is not None or bool(layers),
        reduce_range=recipe.reduce_range if reduce_range is None else reduce_range,
        target=provider,
    )


def _doubts(fidelity: Fidelity | None, settings: Settings) -> tuple[str, ...]:
    """What to tell where the closing check found so much noise that classes or boxes will have changed."""
    if fidelity is None or fidelity.sqnr_db >= DOUBTFUL_DB:
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


def _closing_check(
    source: Source, result: pathlib.Path | onnx.ModelProto, settings: Settings, inputs: InputSpecs
) -> tuple[Fidelity | None, tuple[str, ...]]:
    """Compare the result with the float model; Defect where it does not load or run although that one does.

    One session after the other, since each holds its network once or twice.
    """
    reference, said = reference_session(source, settings, inputs)
    if reference is None:
        return None, (f"not compared: {said}",)
    want: Expected | str
    try:
        # Another seed than the one whose images the statistics came from.
        images = check_images(inputs, settings.seed + CHECK_SEED, CHECK_IMAGES)
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
    notes = (f"compared with the model as normalized: {said}",) if said else ()
    try:
        return compare(want, candidate, images), notes
    except ModelError as error:
        # What lacks memory is no fault of the result's.
        if "alloc" not in str(error) and not _runs(candidate, images):
            raise Defect(f"{error}; nothing has been written") from None
        return None, (f"not compared: {error}",)


def _runs(session: Session, images: Images | Samples) -> bool:
    try:
        expected_outputs(session, images)
    except ModelError:
        return False
    return True
