"""quantize(), inspect(), verify(): what the command line and a user's script both say."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import onnx

from dfmpc_onnx import catalog, expansion, runtime, serialization
from dfmpc_onnx.auto_preprocess import as_written, settled
from dfmpc_onnx.claims import check_claims
from dfmpc_onnx.errors import Defect, DfmpcError, ModelError, OptionError, PassError, RuntimeUnavailable
from dfmpc_onnx.fidelity import INPUT_TYPES, Expected, Fidelity, compare, expected
from dfmpc_onnx.imagefiles import Images, read_images
from dfmpc_onnx.images import (
    Samples,
    check_images,
    check_inputs,
    concrete_shape,
    image_input,
    model_inputs,
    preprocess_for,
)
from dfmpc_onnx.inspection import inspect
from dfmpc_onnx.instruments import Dump, Progress, Timing
from dfmpc_onnx.loops import check_loops
from dfmpc_onnx.manager import Instrument, Pass, PassManager
from dfmpc_onnx.preprocess import AUTO
from dfmpc_onnx.provenance import origin_warnings, provenance, version
from dfmpc_onnx.providers import provider_use
from dfmpc_onnx.recipe import Recipe
from dfmpc_onnx.report import (
    Expansion,
    ProviderFidelity,
    Report,
    Verification,
)
from dfmpc_onnx.reporting import make_report
from dfmpc_onnx.serialization import ModelSource, Source
from dfmpc_onnx.settings import (
    LayerOverride,
    Settings,
    WeightBits,
    parse_activations,
    parse_input_shapes,
)
from dfmpc_onnx.storage import PLAIN, oldest_runtime
from dfmpc_onnx.targets import parse_target
from dfmpc_onnx.workspace import Workspace

DEFAULT_RECIPE = "mixed"
CHECK_IMAGES = 16
CHECK_SEED = 1_000_000
DOUBTFUL_DB = 10.0  # of the settings in the README's table, those below lost 5 points of top-1 and more


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A quantized model, and the report on how it was made."""

    model: onnx.ModelProto
    report: Report


@dataclasses.dataclass(frozen=True)
class Expanded:
    """A quantized model with its weights unpacked, and the report on it."""

    model: onnx.ModelProto
    report: Expansion


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
    takes its name. dump: a folder for the graph after each pass, as a float model that runs.

    Raises UserError (ModelError, OptionError, RecipeError, RuntimeUnavailable, RunTooLong) for what the caller can mend
    and Defect for our own mistakes. When it raises, `output` is as it was before: absent, or the earlier file.
    """
    began = time.perf_counter()
    chosen, text = catalog.find_recipe(recipe) if isinstance(recipe, str) else (recipe, None)
    pipeline = catalog.build(chosen, text)
    settings = _settings(
        chosen, weights, activations, layers, preprocess, input_shapes, seed, images, reduce_range, target
    )
    sees = any(step.reads_images() for step in pipeline)
    if images is not None and not sees:
        raise OptionError(f"images: recipe {chosen.name} runs no network, so it cannot use them; leave them out")
    if check:
        runtime.require()
    tell = progress or (lambda name: None)
    tell("load")
    source = serialization.load(model)
    destination = None if output is None else serialization.check_target(output, source)
    graph = serialization.to_graph(source)
    check_inputs(graph.inputs, settings)
    _check_claims(source, settings)
    tell("preprocess")
    try:
        settings, choice = settled(source.model, settings, preprocess, run=sees)
    except (DfmpcError, MemoryError):
        raise
    except Exception:  # a damaged node may trip what follows its numbers
        _check_source(source, settings)
        raise
    workspace = Workspace(graph, settings, source.label)
    workspace.tell = tell
    timing = Timing()
    watching: list[Instrument] = [timing, Progress(tell), *instruments]
    if dump is not None:
        watching.append(Dump(dump, source))
    try:
        results = PassManager(pipeline, watching, catalog.passes()).run(workspace)
    except PassError:
        _check_source(source, settings)
        raise
    result = serialization.to_model(workspace.graph, source, provenance(source, chosen, settings, choice))
    size = serialization.size_of(result)
    fidelity: Fidelity | None = None
    notes: tuple[str, ...] = ()

    def closing(candidate: pathlib.Path | onnx.ModelProto) -> None:
        nonlocal fidelity, notes
        if check:
            tell("check")
            fidelity, notes = _closing_check(source, candidate, settings)
            notes += _doubts(fidelity, settings)

    if destination is None:
        closing(result)
    else:
        tell("write")
        size = serialization.save(result, destination, source.external, closing)
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
        preprocess=as_written(preprocess),
        input_shapes=parse_input_shapes(input_shapes),
        seed=seed,
        images=None if images is None else str(images),
        by_hand=weights is not None or bool(layers),
        reduce_range=recipe.reduce_range if reduce_range is None else reduce_range,
        target=provider,
    )


def _check_claims(source: Source, settings: Settings) -> None:
    """Raise ModelError where a run on inputs of their shapes would take more memory than there is, or no end."""
    shapes = {t.name: concrete_shape(t, settings)[0] for t in model_inputs(source.model) if t.shape is not None}
    check_claims(source.model, shapes, source.label)
    check_loops(source.model, source.label)


def _check_source(source: Source, settings: Settings) -> None:
    """Raise ModelError where onnxruntime cannot run the float model either: then the fault is not ours."""
    try:
        session, said = _reference(source, settings)
    except RuntimeUnavailable:
        return  # nobody to ask
    if session is None:
        raise ModelError(said)
    try:
        found = check_images(model_inputs(source.model), settings, 1)
    except ModelError:
        return  # nothing to ask with
    if isinstance(found, Samples):
        session.run({name: np.asarray(values[0]) for name, values in found.feeds.items()})
        return
    name, shape, kind = session.inputs[0]
    stated = shape[0] if shape and isinstance(shape[0], int) else None
    x = found.x.astype(INPUT_TYPES.get(kind, np.float32))
    session.run({name: np.repeat(x, stated or 1, axis=0)})
    if stated is None:
        try:
            session.run({name: np.repeat(x, 2, axis=0)})
        except ModelError as error:
            raise ModelError(
                f"{error}: two images at once, which its input allows; export it for one at a time"
            ) from None


def _reference(source: Source, settings: Settings) -> tuple[runtime.Session | None, str]:
    """A session of the float model, and why it is not that of the file itself.

    What onnxruntime cannot run as it stands, such as an old opset, it may run once it has been normalized.
    """
    try:
        return runtime.Session(source.path or source.model, label=source.label), ""
    except ModelError as error:
        said = str(error)
    workspace = Workspace(serialization.to_graph(source), settings, source.label)
    try:
        PassManager([catalog.find_pass("normalize")()]).run(workspace)
        return runtime.Session(serialization.to_model(workspace.graph), label=source.label), said
    except ModelError:
        return None, said


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
    source: Source, result: pathlib.Path | onnx.ModelProto, settings: Settings
) -> tuple[Fidelity | None, tuple[str, ...]]:
    """Compare the result with the float model; Defect where it does not load or run although that one does.

    One session after the other, since each holds its network once or twice.
    """
    reference, said = _reference(source, settings)
    if reference is None:
        return None, (f"not compared: {said}",)
    want: Expected | str
    try:
        # Another seed than the one whose images the statistics came from.
        unseen = dataclasses.replace(settings, seed=settings.seed + CHECK_SEED)
        images = check_images(model_inputs(source.model), unseen, CHECK_IMAGES)
        want = expected(reference, images)
    except ModelError as error:
        want = f"not compared: {error}"
    del reference
    try:
        candidate = runtime.Session(result, label="the quantized model")
    except ModelError as error:
        _check_source(source, settings)
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


def _runs(session: runtime.Session, images: Images | Samples) -> bool:
    try:
        expected(session, images)
    except ModelError:
        return False
    return True


def expand(model: ModelSource, output: str | os.PathLike[str] | None = None) -> Expanded:
    """The plain-int8 form of a file that `quantize` wrote, for tools that parse ONNX themselves.

    Every packed weight becomes an INT8 initializer with a DequantizeLinear, of the same values bit for bit; opset and
    IR version become the lowest that the rest needs. output: where to write it, whole or not at all; None to get it
    in memory only. Needs no onnxruntime. Raises ModelError for a file of other origin or with nothing packed.
    """
    source = serialization.load(model)
    target = None if output is None else serialization.check_target(output, source)
    check_claims(source.model, {}, source.label)
    stated = serialization.metadata_of(source.model)
    if "version" not in stated:
        raise ModelError(f"{source.label}: was not written by dfmpc-onnx quantize; there is nothing to expand")
    done = expansion.expand(source.model, source.label)
    onnx.helper.set_model_props(
        done.model,
        {p.key: p.value for p in source.model.metadata_props} | {f"{serialization.METADATA_PREFIX}expanded": "yes"},
    )
    size = (
        serialization.size_of(done.model) if target is None else serialization.save(done.model, target, source.external)
    )
    opset = next(item.version for item in done.model.opset_import if item.domain in ("", "ai.onnx"))
    oldest = oldest_runtime([PLAIN], opset)
    report = Expansion(done.layers, source.size, size, opset, done.model.ir_version, oldest)
    return Expanded(done.model, report)


def verify(
    model: ModelSource,
    quantized: ModelSource,
    *,
    images: str | os.PathLike[str] | None = None,
    preprocess: str | None = None,
    providers: Sequence[str] = ("CPU",),
    input_shapes: Sequence[str] = (),
    seed: int = 0,
) -> Verification:
    """Run a float model on CPU and its quantized form on each provider, and compare them.

    images: an .npz with x (and y) or a folder of image files; None takes 16 procedural images, or generated inputs
    where the model takes others than images. preprocess: None takes what the quantized file says it was made with;
    "auto", and a file that says nothing, find it out from the float model. On a provider other than the CPU's, it also
    counts the nodes that ran there, and compares the outputs with those of the CPU provider. Raises UserError;
    RuntimeUnavailable where a provider was not really used.
    """
    float_source, source = serialization.load(model), serialization.load(quantized)
    stated = serialization.metadata_of(source.model).get("preprocess")
    wanted = preprocess or stated or AUTO
    settings = Settings(
        WeightBits.parse("8"),
        "8",
        preprocess=as_written(wanted),
        input_shapes=parse_input_shapes(input_shapes),
        seed=seed + CHECK_SEED,
    )
    inputs = model_inputs(float_source.model)
    check_inputs(inputs, settings)
    for given in (float_source, source):
        _check_claims(given, settings)
    reference, said = _reference(float_source, settings)
    if reference is None:
        raise ModelError(said)
    by_file = preprocess is None and stated is not None
    settings, choice = settled(float_source.model, settings, wanted, run=True, doubt=not by_file)
    if by_file and choice.by == "given":
        choice = msgspec.structs.replace(choice, by="file", reason="as the quantized file says", order_asserted=False)
    batch: Images | Samples
    if images is None:
        try:
            batch = check_images(inputs, settings, CHECK_IMAGES)
        except ModelError as error:
            raise ModelError(f"{float_source.label}: {error}") from None
    else:
        tensor = image_input(inputs)
        batch = read_images(images, concrete_shape(tensor, settings)[0], preprocess_for(tensor, settings.preprocess))
    if not providers:
        raise OptionError("no provider given; give at least one, such as CPU")
    rows = []
    for provider in providers:
        session = runtime.Session(source.path or source.model, provider, source.label)
        use = None
        if session.provider != runtime.CPU:
            use = provider_use(source.path or source.model, source.model, session.provider, source.label, batch)
        rows.append(ProviderFidelity(session.provider, compare(reference, session, batch), use))
    warnings = (*origin_warnings(float_source, source, choice.name), *choice.warnings)
    return Verification(float_source.size, source.size, choice.name, choice, warnings, tuple(rows))


__all__ = ["Expanded", "Pass", "Quantized", "expand", "inspect", "quantize", "verify", "version"]
