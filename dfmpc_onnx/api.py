"""quantize(), inspect(), verify(): what the command line and a user's script both say."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
import onnx

from dfmpc_onnx import catalog, runtime, serialization
from dfmpc_onnx.claims import check_claims
from dfmpc_onnx.errors import Defect, ModelError, OptionError, PassError, RuntimeUnavailable
from dfmpc_onnx.facts import BitPlan, Codes, Layers, Packed, Pairs, Placement
from dfmpc_onnx.fidelity import Fidelity, compare, outputs
from dfmpc_onnx.graph import shown
from dfmpc_onnx.imagefiles import Images, digest, read_images
from dfmpc_onnx.images import Samples, check_images, check_inputs, concrete_shape, image_input, model_inputs
from dfmpc_onnx.instruments import Dump, Progress, Timing
from dfmpc_onnx.manager import Instrument, Pass, PassManager, PassResult, Refusal
from dfmpc_onnx.opset import obstacle
from dfmpc_onnx.preprocess import Preprocess
from dfmpc_onnx.recipe import Recipe
from dfmpc_onnx.report import (
    InspectedLayer,
    Inspection,
    LayerReport,
    PassReport,
    ProviderFidelity,
    RecipeForecast,
    Report,
    Verification,
)
from dfmpc_onnx.serialization import ModelSource, Source
from dfmpc_onnx.settings import (
    FLOAT,
    TERNARY,
    LayerOverride,
    Settings,
    WeightBits,
    parse_activations,
    parse_input_shapes,
)
from dfmpc_onnx.storage import NEWEST, PLAIN, Kind, choose_forms, oldest_runtime
from dfmpc_onnx.workspace import Workspace

DEFAULT_RECIPE = "mixed"
CHECK_IMAGES = 16
CHECK_SEED = 1_000_000


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A quantized model, and the report on how it was made."""

    model: onnx.ModelProto
    report: Report


def quantize(
    model: ModelSource,
    output: str | os.PathLike[str] | None = None,
    recipe: str | Recipe = DEFAULT_RECIPE,
    *,
    weights: str | None = None,
    activations: str | int | None = None,
    layers: Sequence[str] = (),
    preprocess: str = "imagenet",
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
    as ``"layer1/*=8"``. preprocess: as the network expects its input. images: a few unlabelled images of the user's
    own in place of procedural ones (.npz or folder), for recipes that run the network. check: load the result in
    onnxruntime and compare it with the model on 16 procedural images before it takes its name. dump: a folder for the
    graph after each pass, as a float model that runs.

    Raises UserError (ModelError, OptionError, RecipeError, RuntimeUnavailable) for what the caller can mend and
    Defect for our own mistakes. When it raises, `output` is as it was before: absent, or the earlier file.
    """
    began = time.perf_counter()
    chosen, text = catalog.find_recipe(recipe) if isinstance(recipe, str) else (recipe, None)
    pipeline = catalog.build(chosen, text)
    settings = _settings(chosen, weights, activations, layers, preprocess, input_shapes, seed, images)
    if images is not None and not any(step.reads_images() for step in pipeline):
        raise OptionError(f"images: recipe {chosen.name} runs no network, so it cannot use them; leave them out")
    if check:
        runtime.require()
    tell = progress or (lambda name: None)
    tell("load")
    source = serialization.load(model)
    target = None if output is None else serialization.check_target(output, source)
    workspace = Workspace(serialization.to_graph(source), settings, source.label)
    check_inputs(workspace.graph.inputs, settings)
    _check_claims(source, settings)
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
    result = serialization.to_model(workspace.graph, source, _provenance(source, chosen, settings))
    size = result.ByteSize()
    fidelity: Fidelity | None = None
    notes: tuple[str, ...] = ()

    def closing(candidate: pathlib.Path | onnx.ModelProto) -> None:
        nonlocal fidelity, notes
        if check:
            tell("check")
            fidelity, notes = _closing_check(source, candidate, settings)

    if target is None:
        closing(result)
    else:
        tell("write")
        size = serialization.save(result, target, source.external, closing)
    report = _report(workspace, chosen, source, size, results, timing, fidelity, notes, began)
    return Quantized(result, report)


def _settings(
    recipe: Recipe,
    weights: str | None,
    activations: str | int | None,
    layers: Sequence[str],
    preprocess: str,
    input_shapes: Sequence[str],
    seed: int,
    images: str | os.PathLike[str] | None = None,
) -> Settings:
    return Settings(
        weights=recipe.weight_bits if weights is None else WeightBits.parse(weights),
        activations=recipe.activation_bits if activations is None else parse_activations(activations),
        layers=tuple(LayerOverride.parse(item) for item in layers),
        preprocess=Preprocess.parse(preprocess),
        input_shapes=parse_input_shapes(input_shapes),
        seed=seed,
        images=None if images is None else str(images),
        by_hand=weights is not None or bool(layers),
    )


def version() -> str:
    """The installed version of this package."""
    try:
        return importlib.metadata.version("dfmpc-onnx")
    except importlib.metadata.PackageNotFoundError:
        return "unknown (not installed)"


def _provenance(source: Source, recipe: Recipe, settings: Settings) -> dict[str, str]:
    """What is written into the file: enough to make it again, and for `verify` to feed it rightly.

    A value that is a list or a mapping is JSON, since names from a model may hold any character.
    """
    shapes = {t.name: concrete_shape(t, settings)[0] for t in model_inputs(source.model) if t.shape is not None}
    versions = {"onnx": onnx.__version__, "onnxruntime": runtime.version(), "numpy": np.__version__}
    stated = {
        "version": version(),
        "recipe": recipe.name,
        "weights": str(settings.weights),
        "activations": settings.activations,
        "layers": _json([str(item) for item in settings.layers]),
        "preprocess": settings.preprocess.name,
        "seed": str(settings.seed),
        "statistics": "the user's images" if settings.images else "none of the user's",
        "source_sha256": source.sha256,
        "input_shapes": _json(shapes),
        "passes": _json([{step.use: step.options} for step in recipe.steps]),
        "versions": _json(versions),
    }
    if settings.images is not None:
        stated["images_sha256"] = digest(settings.images)
    return stated


def _check_claims(source: Source, settings: Settings) -> None:
    """Raise ModelError where running a model on inputs of their shapes would take more memory than there is."""
    shapes = {t.name: concrete_shape(t, settings)[0] for t in model_inputs(source.model) if t.shape is not None}
    check_claims(source.model, shapes, source.label)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _check_source(source: Source, settings: Settings) -> None:
    """Raise ModelError where onnxruntime cannot run the float model either: then the fault is not ours."""
    try:
        session = runtime.Session(source.path or source.model, label=source.label)
    except RuntimeUnavailable:
        return  # nobody to ask
    try:
        found = check_images(model_inputs(source.model), settings, 1)
    except ModelError:
        return  # nothing to ask with
    outputs(session, found.x if isinstance(found, Images) else found.feeds)


def _closing_check(
    source: Source, result: pathlib.Path | onnx.ModelProto, settings: Settings
) -> tuple[Fidelity | None, tuple[str, ...]]:
    """Load the result and run it beside the float model; Defect where it does not load although that one runs."""
    try:
        reference = runtime.Session(source.path or source.model, label=source.label)
    except ModelError as error:
        return None, (f"not compared: {error}",)
    try:
        candidate = runtime.Session(result, label="the quantized model")
    except ModelError as error:
        _check_source(source, settings)
        raise Defect(f"{error}; nothing has been written") from None
    try:
        # Another seed than the one whose images the statistics came from.
        unseen = dataclasses.replace(settings, seed=settings.seed + CHECK_SEED)
        return compare(reference, candidate, check_images(model_inputs(source.model), unseen, CHECK_IMAGES)), ()
    except ModelError as error:
        return None, (f"not compared: {error}",)


def _report(
    workspace: Workspace,
    recipe: Recipe,
    source: Source,
    size: int,
    results: tuple[PassResult, ...],
    timing: Timing,
    fidelity: Fidelity | None,
    notes: tuple[str, ...],
    began: float,
) -> Report:
    layers = _layer_reports(workspace)
    weights = sum(layer.weights for layer in layers)
    packed = workspace.find(Packed)
    sizes = packed.bytes if packed else {}
    stored = sum(8 * sizes[layer.name] if layer.name in sizes else 32 * layer.weights for layer in layers)
    passes = [PassReport(r.name, round(s, 4), r) for r, (_, s) in zip(results, timing.seconds, strict=True)]
    settings = workspace.settings
    return Report(
        recipe=recipe.name,
        weights=str(settings.weights),
        activations=settings.activations,
        preprocess=settings.preprocess.name,
        seed=settings.seed,
        opset=workspace.graph.opset,
        oldest_onnxruntime=packed.oldest_runtime if packed else oldest_runtime([PLAIN], workspace.graph.opset),
        float_bytes=source.size,
        bytes=size,
        mean_weight_bits=round(stored / weights, 3) if weights else 0.0,
        layers=layers,
        refusals=tuple(dict.fromkeys(Refusal(r.site, f"{p.name}: {r.reason}") for p in results for r in p.refusals)),
        warnings=tuple(w for r in results for w in r.warnings) + notes,
        fidelity=fidelity,
        seconds=round(time.perf_counter() - began, 3),
        passes=tuple(passes),
    )


def _layer_reports(workspace: Workspace) -> tuple[LayerReport, ...]:
    """Every layer as it was left; a fact that the recipe's passes did not provide counts as empty."""
    layers, plan = workspace.find(Layers), workspace.find(BitPlan)
    if layers is None or plan is None:
        return ()
    codes = found.weights if (found := workspace.find(Codes)) else {}
    packed = widths.bits if (widths := workspace.find(Packed)) else {}
    integer = placed.integer if (placed := workspace.find(Placement)) else frozenset()
    rows = []
    for layer in layers.listed:
        bits = plan.layers[layer.name]
        weight = codes.get(layer.name)
        rows.append(
            LayerReport(
                name=layer.name,
                op=layer.op,
                bits=weight.bits if weight else 32,
                role=bits.role,
                refused=bits.why if bits.bits == FLOAT else None,
                stored_bits=packed.get(layer.name, 32),
                ternary=weight.ternary if weight else False,
                integer=layer.name in integer,
                weights=layer.size,
                why=bits.why,
            )
        )
    return tuple(rows)


def inspect(model: ModelSource) -> Inspection:
    """What a model holds: its layers with role or reason of refusal, and what each recipe would do to it.

    Needs no onnxruntime. Raises ModelError where the model cannot be read.
    """
    source = serialization.load(model)
    graph = serialization.to_graph(source)
    opset, ir_version = graph.opset, source.model.ir_version
    inputs = tuple(f"{shown(t.name)} {_shape(t.shape)}" for t in graph.inputs)
    outputs = tuple(f"{shown(t.name)} {_shape(t.shape)}" for t in graph.outputs)
    settings = Settings(WeightBits.parse("2/6"), "8")
    workspace = Workspace(graph, settings, source.label)
    finders = [catalog.find_pass(name)() for name in ("normalize", "pair_convolutions")]
    notes: tuple[str, ...] = ()
    try:
        results = PassManager(finders).run(workspace)
        notes = tuple(r.reason for result in results[:1] for r in result.refusals)
        forecasts = tuple(_forecast(workspace, recipe) for recipe in catalog.recipes().values())
    except ModelError as error:
        notes, forecasts = (str(error),), ()
    return Inspection(
        model=source.label,
        bytes=source.size,
        opset=opset,
        ir_version=ir_version,
        producer=shown(f"{source.model.producer_name} {source.model.producer_version}".strip()),
        inputs=inputs,
        outputs=outputs,
        metadata={shown(k): shown(v) for k, v in serialization.metadata_of(source.model).items()},
        layers=_inspected(workspace),
        notes=notes,
        recipes=forecasts,
    )


def _shape(shape: Sequence[object] | None) -> str:
    return "[" + ", ".join("?" if d in (None, "") else shown(str(d)) for d in shape) + "]" if shape is not None else "?"


def _inspected(workspace: Workspace) -> tuple[InspectedLayer, ...]:
    layers, pairs = workspace.find(Layers), workspace.find(Pairs)
    if layers is None or pairs is None:
        return ()
    low = pairs.by_low()
    rows = []
    for layer in layers.listed:
        pair = low.get(layer.name)
        place = {"first": "first layer", "last": "classifier"}.get(layer.position, "high")
        role = "float" if layer.refused else "low" if pair else "depthwise" if layer.depthwise else place
        repaired = pair.high if pair else None
        not_low = None if pair or layer.refused else pairs.refused.get(layer.name)
        rows.append(
            InspectedLayer(layer.name, layer.op, layer.shape, layer.size, role, repaired, layer.refused, not_low)
        )
    return tuple(rows)


def _forecast(workspace: Workspace, recipe: Recipe) -> RecipeForecast:
    """The roles and sizes that a recipe's bit plan would give the layers."""
    planned = Workspace(workspace.graph, _settings(recipe, None, None, (), "imagenet", (), 0), workspace.label)
    planned.put(workspace.get(Layers))
    planned.put(workspace.get(Pairs))
    plan: Mapping[str, object] = {}
    steps = catalog.build(recipe)
    for step in steps:
        if BitPlan in step.provides:
            step.run(planned)
    # The closed form of the paper knows no other 2 bits; the recipes that fit layers choose, so four levels at most.
    two_is_ternary = any(step.name == "quantize_weights" for step in steps)
    found = planned.find(BitPlan)
    plan = found.layers if found else {}
    roles = {"low": 0, "high": 0, "8-bit": 0, "auto": 0, "float": 0}
    size, kinds = 0, {}
    for layer in workspace.get(Layers).listed:
        bits = found.layers[layer.name] if found and layer.name in plan else None
        if bits is None:
            continue
        roles[bits.role] += 1
        if bits.bits == FLOAT:
            size += 4 * layer.size
        else:
            ternary = bits.bits == TERNARY or (bits.bits == 2 and two_is_ternary)
            kinds[layer.name] = Kind(layer.size, 2 if ternary else int(bits.bits), ternary)
    opset = workspace.graph.opset if obstacle(workspace.graph) else max(NEWEST, workspace.graph.opset)
    size += sum(form.bytes(kinds[name].size) for name, form in choose_forms(kinds, opset).items())
    return RecipeForecast(
        recipe.name,
        recipe.weights,
        recipe.activations,
        roles["low"],
        roles["high"],
        roles["8-bit"],
        roles["auto"],
        roles["float"],
        size,
    )


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

    images: an .npz with x (and y) or a folder of image files; None takes 16 procedural images, or
    generated inputs where the model takes others than images. preprocess:
    None takes what the quantized file says it was made with. Raises UserError.
    """
    float_source, source = serialization.load(model), serialization.load(quantized)
    stated = serialization.metadata_of(source.model).get("preprocess", "imagenet")
    chosen = Preprocess.parse(preprocess or stated)
    settings = Settings(
        WeightBits.parse("8"),
        "8",
        preprocess=chosen,
        input_shapes=parse_input_shapes(input_shapes),
        seed=seed + CHECK_SEED,
    )
    inputs = model_inputs(float_source.model)
    check_inputs(inputs, settings)
    for given in (float_source, source):
        _check_claims(given, settings)
    reference = runtime.Session(float_source.path or float_source.model, label=float_source.label)
    batch: Images | Samples
    if images is None:
        try:
            batch = check_images(inputs, settings, CHECK_IMAGES)
        except ModelError as error:
            raise ModelError(f"{float_source.label}: {error}") from None
    else:
        batch = read_images(images, concrete_shape(image_input(inputs), settings)[0], chosen)
    if not providers:
        raise OptionError("no provider given; give at least one, such as CPU")
    rows = []
    for provider in providers:
        session = runtime.Session(source.path or source.model, provider, source.label)
        rows.append(ProviderFidelity(session.provider, compare(reference, session, batch)))
    return Verification(float_source.size, source.size, chosen.name, tuple(rows))


__all__ = ["Pass", "Quantized", "inspect", "quantize", "verify", "version"]
