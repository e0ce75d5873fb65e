"""What a model holds: for a float one what each recipe would do, for a quantized one what onnxruntime makes of it."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Mapping, Sequence

import onnx

from dfmpc_onnx import catalog
from dfmpc_onnx.api.boundary import public
from dfmpc_onnx.errors import AlreadyQuantized, DfmpcError, ModelError, OptionError, RuntimeUnavailable, shown
from dfmpc_onnx.evaluation.island_costs import island_costs
from dfmpc_onnx.evaluation.island_times import TimeTable, time_table
from dfmpc_onnx.evaluation.kernel_census import Census, is_quantized, take_census
from dfmpc_onnx.graph.exchange import to_graph
from dfmpc_onnx.graph.opset import obstacle
from dfmpc_onnx.inputs.batches import input_batch
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.inputs.spec import InputSpecs
from dfmpc_onnx.model.metadata import metadata_of
from dfmpc_onnx.model.source import ModelSource, Source, load
from dfmpc_onnx.pipeline.facts import BitPlan, Layers, Originals, Pairs
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.pipeline.recipe import Recipe
from dfmpc_onnx.pipeline.settings import FLOAT, TERNARY, Settings, WeightBits
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.qdq.code_formats import NEWEST, choose_forms
from dfmpc_onnx.qdq.qonnx_nodes import holds_qonnx
from dfmpc_onnx.qdq.stored_bits import StoredLayer, mean_bits, stored_layers
from dfmpc_onnx.qdq.stored_pairs import stored_pairs
from dfmpc_onnx.quantization.codebook_tables import run_of
from dfmpc_onnx.quantization.storage_costs import kind_of, runs_of_blocks
from dfmpc_onnx.report.schema import InspectedLayer, Inspection, QuantizedLayer, RecipeForecast
from dfmpc_onnx.runtime.session import require
from dfmpc_onnx.runtime.threads import takes_threads

QONNX_NOTE = (
    "it is quantized by nodes of QONNX, which FINN, hls4ml and the package qonnx run: weights are held as floats, and "
    "bits are those that the nodes round them to; `verify` compares it with its float model"
)
TIMED_SEED = 0  # of the input: kernels take the same time whatever the numbers


@public
@takes_threads
def inspect(model: ModelSource, *, latency: bool = False, threads: int | None = None) -> Inspection:
    """What a model holds: its layers with role or reason of refusal, and what each recipe would do to it.

    Of a quantized model it also counts what onnxruntime computes in integers; else it needs no onnxruntime. latency:
    measure here what each layer and each island of float takes, and what integers in its place would; threads: with
    how many, None and 0 for as many as the machine has. Raises ModelError where the model cannot be read,
    RuntimeUnavailable where it is to be timed without onnxruntime, OptionError where threads are for nothing.
    """
    if threads and not latency:
        raise OptionError("threads: inspect runs nothing; give latency with it, or leave it out")
    if latency:
        require()
    source = load(model)
    graph = to_graph(source)
    opset, ir_version = graph.opset, source.model.ir_version
    settings = Settings(WeightBits.parse("2/6"), "8")
    workspace = Workspace(graph, settings, source.label)
    inputs = tuple(f"{shown(spec.name)} {_shape(spec.stated)}" for spec in workspace.inputs)
    outputs = tuple(f"{shown(t.name)} {_shape(t.shape)}" for t in graph.outputs)
    finders = catalog.passes_up_to(Layers, Pairs)
    notes: tuple[str, ...] = ()
    forecasts: tuple[RecipeForecast, ...] = ()
    try:
        if holds_qonnx(source.model):
            raise ModelError(QONNX_NOTE)
        results = PassManager(finders).run(workspace)
        # What finds the layers refuses them one by one, and each is listed with its reason.
        listed = {finder.name for finder in finders if Layers in finder.provides}
        notes = tuple(refusal.reason for result in results if result.name not in listed for refusal in result.refusals)
        forecasts = tuple(_forecast(workspace, recipe) for recipe in catalog.recipes().values())
    except AlreadyQuantized:
        pass  # what it holds is listed, and nothing asks for its float model
    except ModelError as error:
        notes = (str(error),)
    stored = stored_layers(source.model)
    coded = any(layer.coded for layer in stored)
    runs = not holds_qonnx(source.model) and (coded or is_quantized(source.model))
    census, unknown = _census(source) if runs else (None, ())
    times, untimed = _times(source, settings, workspace.inputs) if latency else (None, ())
    return Inspection(
        model=source.label,
        bytes=source.size,
        opset=opset,
        ir_version=ir_version,
        producer=shown(f"{source.model.producer_name} {source.model.producer_version}".strip()),
        inputs=inputs,
        outputs=outputs,
        metadata={shown(k): shown(v) for k, v in metadata_of(source.model).items()},
        layers=_inspect_layers(workspace),
        notes=(*notes, *unknown, *untimed),
        recipes=forecasts,
        census=census,
        quantized_layers=_inspect_quantized(source.model, stored, census) if coded else (),
        mean_weight_bits=mean_bits((layer.total, math.prod(layer.shape)) for layer in stored) if coded else None,
        latency=times,
    )


def _times(source: Source, settings: Settings, inputs: InputSpecs) -> tuple[TimeTable | None, tuple[str, ...]]:
    """Where the time of a run goes, and what closing each island would cost, or the reason why that is not known."""
    stated = metadata_of(source.model).get("preprocess")
    with contextlib.suppress(OptionError):  # what a damaged file states
        inputs = inputs.with_preprocess(Preprocess.parse(stated)) if stated else inputs
    try:
        costs_of = functools.partial(island_costs, source, settings, inputs)
        return time_table(source, input_batch(inputs, TIMED_SEED, 1).first(1).feeds, costs_of=costs_of), ()
    except DfmpcError as error:
        return None, (f"not timed: {error}",)


def _inspect_quantized(
    model: onnx.ModelProto, stored: Sequence[StoredLayer], census: Census | None
) -> tuple[QuantizedLayer, ...]:
    """The layers of a file that holds codes for some of them."""
    integer = frozenset(census.integer_layers) if census is not None else frozenset()
    pairs = stored_pairs(model)
    return tuple(
        QuantizedLayer(
            layer.name,
            shown(layer.op),
            layer.shape,
            math.prod(layer.shape),
            layer.bits,
            layer.coded,
            None if census is None else layer.name in integer,
            pairs.get(layer.name),
        )
        for layer in stored
    )


def _census(source: Source) -> tuple[Census | None, tuple[str, ...]]:
    """What onnxruntime makes of a quantized model, or the reason why that is not known."""
    try:
        return take_census(source.path or source.model, source.model, source.label), ()
    except (ModelError, RuntimeUnavailable) as error:
        return None, (f"not counted: {error}",)


def _shape(shape: Sequence[object] | None) -> str:
    return "[" + ", ".join("?" if d in (None, "") else shown(str(d)) for d in shape) + "]" if shape is not None else "?"


def _inspect_layers(workspace: Workspace) -> tuple[InspectedLayer, ...]:
    layers, pairs = workspace.find(Layers), workspace.find(Pairs)
    if layers is None or pairs is None:
        return ()
    low = pairs.by_low()
    rows = []
    for layer in layers.with_nested:
        highs = tuple(dict.fromkeys(pair.high for pair in low.get(layer.name, ())))
        place = {"first": "first layer", "last": "classifier"}.get(layer.position, "high")
        role = "float" if layer.refused else "low" if highs else "depthwise" if layer.depthwise else place
        not_low = None if highs or layer.refused else pairs.refused.get(layer.name)
        rows.append(
            InspectedLayer(
                layer.name,
                layer.op,
                layer.shape,
                layer.size,
                role,
                highs[0] if highs else None,
                layer.refused.text if layer.refused else None,
                not_low.text if not_low else None,
                highs[1:],
                layer.refused.code if layer.refused else None,
                not_low.code if not_low else None,
            )
        )
    return tuple(rows)


def _forecast(workspace: Workspace, recipe: Recipe) -> RecipeForecast:
    """The roles and sizes that a recipe's bit plan would give the layers."""
    settings = Settings(recipe.weight_bits, recipe.activation_bits)
    planned = Workspace(workspace.graph, settings, workspace.label, workspace.inputs)
    planned.put(workspace.get(Layers))
    planned.put(workspace.get(Pairs))
    plan: Mapping[str, object] = {}
    steps = catalog.build(recipe)
    for step in steps:
        if BitPlan in step.provides and planned.known.issuperset(step.requires):
            PassManager([step]).run(planned)
    # The paper's closed form, which keeps the original weights, knows no other 2 bits; the recipes that fit layers
    # choose, so four levels at most.
    two_is_ternary = any(Originals in step.provides for step in steps)
    found = planned.find(BitPlan)
    plan = found.layers if found else {}
    roles = {"low": 0, "high": 0, "8-bit": 0, "auto": 0, "float": 0}
    size, widths, shown_bits = 0, {}, {}
    for layer in workspace.get(Layers).with_nested:
        bits = found.layers[layer.name] if found and layer.name in plan else None
        if bits is None:
            continue
        roles[bits.role] += 1
        if bits.bits == FLOAT:
            size += 4 * layer.size
            shown_bits[layer.name] = "float"
        else:
            ternary = bits.bits == TERNARY or (two_is_ternary and float(bits.bits) < 3)
            run = 0 if two_is_ternary else run_of(layer)
            widths[layer.name] = layer.size, TERNARY if ternary else bits.bits, run
            shown_bits[layer.name] = "auto" if bits.role == "auto" else "ternary" if ternary else f"{bits.bits:g}"
    runs = runs_of_blocks(widths)
    kinds = {name: kind_of(weights, width, run=runs[name]) for name, (weights, width, _) in widths.items()}
    opset = workspace.graph.opset if obstacle(workspace.graph, NEWEST) else max(NEWEST, workspace.graph.opset)
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
        shown_bits,
    )
