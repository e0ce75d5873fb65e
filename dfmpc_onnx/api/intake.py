"""From what the user asks for to the first pass: options parsed, the file read and checked, its inputs resolved."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import msgspec

from dfmpc_onnx.api.boundary import GivenImages, GivenLayers, GivenRanges, GivenShapes, texts
from dfmpc_onnx.api.learned_images import check_learned, fed_as_learned
from dfmpc_onnx.api.reference import check_limits, check_source
from dfmpc_onnx.api.static_shapes import check_dimensions
from dfmpc_onnx.errors import AlreadyQuantized, DfmpcError, OptionError
from dfmpc_onnx.graph.exchange import to_graph
from dfmpc_onnx.graph.operators import op_of
from dfmpc_onnx.inputs.knowledge import find_out
from dfmpc_onnx.inputs.normalization import PreprocessChoice, parse_or_assume
from dfmpc_onnx.inputs.preprocess import AUTO
from dfmpc_onnx.inputs.unknown_inputs import told_by_images, unknown_inputs_warning
from dfmpc_onnx.model.source import ModelSource, Source, load
from dfmpc_onnx.model.write import check_target
from dfmpc_onnx.pipeline.manager import Pass
from dfmpc_onnx.pipeline.progress import Progress
from dfmpc_onnx.pipeline.recipe import Recipe
from dfmpc_onnx.pipeline.settings import (
    FEW_ACTIVATION_BITS,
    WIDE_ACTIVATION_BITS,
    LayerOverride,
    Settings,
    WeightBits,
    WeightBudget,
    parse_activations,
    parse_input_ranges,
    parse_input_shapes,
)
from dfmpc_onnx.pipeline.target_rules import Activations, Target
from dfmpc_onnx.pipeline.targets import parse_target
from dfmpc_onnx.pipeline.workspace import Workspace, resolve_inputs
from dfmpc_onnx.qdq.qonnx_nodes import holds_qonnx
from dfmpc_onnx.statistics.batch_axis import with_free_batch
from dfmpc_onnx.statistics.leading_moments import BY_COVARIANCES, BY_PICTURES

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
ENDS = 4  # steps of a run beside its passes: load, preprocess, check, write


@dataclasses.dataclass(frozen=True)
class Intake:
    """What is known before the first pass.

    recipe, pipeline: the recipe and its passes. source: the model as read. destination: where the result goes; None
    for memory only. workspace: the graph, the settings and the specification of the inputs. choice: how the preprocess
    came about.
    """

    recipe: Recipe
    pipeline: Sequence[Pass[msgspec.Struct]]
    source: Source
    destination: pathlib.Path | None
    workspace: Workspace
    choice: PreprocessChoice


def _float_model(model: ModelSource) -> Source:
    """The model as it is read; raises AlreadyQuantized for one of QONNX, whose layers read no stored weight."""
    source = load(model)
    if holds_qonnx(source.model):
        raise AlreadyQuantized(
            f"{source.label}: the model is quantized already, in nodes of QONNX; give the float model of it"
        )
    return source


def take_in(
    model: ModelSource,
    output: str | os.PathLike[str] | None,
    recipe: Recipe,
    pipeline: Sequence[Pass[msgspec.Struct]],
    settings: Settings,
    preprocess: str,
    progress: Progress,
    *,
    force: bool = False,
) -> Intake:
    """Read a model and find out what it is fed. Raises UserError where the file, or an option for it, is unusable.

    preprocess: as the user wrote it, "auto" included. progress: told of each step.
    force: whether a file that is no ONNX model may be written over.
    """
    runs = any(step.may_read_images for step in pipeline)
    if settings.images is not None and not runs:
        raise OptionError(f"images: recipe {recipe.name} runs no network, so it cannot use them; leave them out")
    if settings.activations == "auto" and settings.few_bits is not None and not runs:
        raise OptionError(
            f"activations auto: recipe {recipe.name} runs no network, so it measures no cost of few bits; give 4 or 8"
        )
    progress.expect(ENDS + len(pipeline))
    progress.begin("load")
    source = _float_model(model)
    destination = None if output is None else check_target(output, source, force=force)
    graph = to_graph(source)
    layers = sum(op_of(node) in WEIGHTED for node in graph.nodes)
    progress.expect(layers * sum(step.by_layer for step in pipeline))
    inputs, preprocess = fed_as_learned(resolve_inputs(source.model, settings), preprocess)
    inputs.check_options(settings.input_shapes)
    if preprocess != AUTO and settings.input_ranges and not inputs.has_normalized:
        raise OptionError(
            f"preprocess {preprocess}: no input is left for it beside those of --input-range; give one of them"
        )
    check_dimensions(inputs, settings)
    check_limits(source, inputs)
    progress.begin("preprocess")
    prediction = BY_PICTURES if runs else BY_COVARIANCES
    try:
        inputs, choice = find_out(source.model, inputs, preprocess, prediction, doubt=runs)
        inputs = with_free_batch(graph, inputs, settings.seed)
    except (DfmpcError, MemoryError):
        raise
    except Exception:  # a damaged node may trip what follows its numbers
        check_source(source, settings, inputs)
        raise
    check_learned(inputs)
    if inputs.own_images is not None:
        choice = told_by_images(inputs, choice, inputs.own_images)
    if choice.unknown:
        settings, choice = _without_trust(settings, choice, may_give_images=runs and inputs.images is None)
    workspace = Workspace(graph, settings, source.label, inputs)
    workspace.progress = progress
    workspace.sha256 = source.sha256
    workspace.settings = dataclasses.replace(workspace.settings, budget=settings.budget.of_file(source.size))
    return Intake(recipe, pipeline, source, destination, workspace, choice)


def _without_trust(
    settings: Settings, choice: PreprocessChoice, *, may_give_images: bool
) -> tuple[Settings, PreprocessChoice]:
    """Settings and choice where nothing is known of an input: unless the user wants bits, activations stay in float.

    A wrong scale then costs speed, and no accuracy.
    """
    quantized = settings.activations != "none"
    if quantized and not settings.activations_given:
        settings = dataclasses.replace(settings, activations="none")
    kept = "activations stay in float, and " if quantized and settings.activations == "none" else ""
    warning = unknown_inputs_warning(choice, f"{kept}what the result loses is not known", may_give_images)
    return settings, msgspec.structs.replace(choice, warning=warning)


def with_budget(settings: Settings, budget: WeightBudget, stated_by: str) -> Settings:
    """The settings under a budget, which chooses among all widths; as they are without one.

    stated_by: who states the widths where they are not free, such as ``--weights``. Raises OptionError there.
    """
    if not budget.asked:
        return settings
    if not settings.weights.auto:
        raise OptionError(
            f"{budget.as_stated}: {stated_by} states the bits already ({settings.weights}); leave one of them out"
        )
    return dataclasses.replace(settings, budget=budget)


def parse_settings(
    recipe: Recipe,
    weights: str | int | None,
    activations: str | int | None,
    layers: GivenLayers,
    preprocess: str,
    input_shapes: GivenShapes,
    input_ranges: GivenRanges,
    seed: int,
    images: GivenImages | None,
    reduce_range: bool | None,
    target: str,
) -> Settings:
    """What the user asked for, as one value; the recipe says the rest. Raises OptionError."""
    provider = parse_target(target)
    numbers = recipe.activation_bits if activations is None else parse_activations(activations)
    if activations is None and numbers == "8":  # which a recipe has that states nothing
        numbers = provider.activations
    _check_activations(numbers, provider, reduce_range=bool(reduce_range))
    settings = Settings(
        weights=recipe.weight_bits if weights is None else WeightBits.parse(str(weights)),
        activations=numbers,
        layers=tuple(LayerOverride.parse(item) for item in texts(layers)),
        preprocess=parse_or_assume(preprocess),
        input_shapes=parse_input_shapes(texts(input_shapes)),
        input_ranges=parse_input_ranges(texts(input_ranges)),
        seed=seed,
        images=None if images is None else str(images),
        by_hand=weights is not None or bool(layers),
        activations_given=activations is not None,
        reduce_range=recipe.reduce_range if reduce_range is None else reduce_range,
        float16=provider.float_type == "float16",
        target=provider,
    )
    _check_what_layers_read(settings)
    return settings


def _check_what_layers_read(settings: Settings) -> None:
    """Raise OptionError where a layer is to read other bits than the activations have, which one grid stands for."""
    few = settings.few_bits
    for override in settings.layers:
        if override.reads is None or (few is not None and override.reads in (few, 8)):
            continue
        if few is None:
            raise OptionError(
                f"layer {override}: activations have {settings.activations} bits; give --activations 4 or auto with it"
            )
        raise OptionError(f"layer {override}: activations have {few} bits; a layer reads these, /{few}, or /8")


def _check_activations(numbers: Activations, provider: Target, *, reduce_range: bool) -> None:
    """Raise OptionError where a target does not take activations of such bits, or has no use for a reduced range."""
    wanted = {8} if numbers == "auto" else set() if numbers == "none" else {int(numbers)}
    taken = set(provider.activation_bits)
    if not wanted <= taken or (numbers == "auto" and taken.isdisjoint((FEW_ACTIVATION_BITS, WIDE_ACTIVATION_BITS))):
        *fewer, widest = map(str, provider.activation_bits)
        known = f"{', '.join(fewer)} or {widest}" if fewer else widest
        raise OptionError(f"activations {numbers}: {provider.name} takes {known} bits; give one of these, or none")
    mixed = numbers == "auto" and WIDE_ACTIVATION_BITS in taken
    if reduce_range and numbers not in ("8", "16") and not mixed:
        kept = "activations stay in float" if numbers == "none" else "layers compute in float"
        raise OptionError(f"reduce-range: {kept}, so no sum of products can overflow; leave it out")


def with_float16(settings: Settings, fp16: bool | None) -> Settings:
    """The settings with floats in float16 or not; None: as the target wants them. Raises OptionError."""
    if fp16 is None:
        return settings
    if settings.target.float_type != "float16":
        kind, name = settings.target.float_type, settings.target.name
        raise OptionError(f"fp16: floats are {kind} for {name}; leave it out")
    return dataclasses.replace(settings, float16=fp16)
